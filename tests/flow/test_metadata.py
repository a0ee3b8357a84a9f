"""`routing_metadata`: who asks for it is told how the request was routed, and nobody else sees a byte of it."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.flow.flow_kit import chunk
from tests.support.gateway import GUARD_S, HELLO, KEY, Config, Gateway, Reply, config, running
from tests.support.natives.callers import GeminiCaller
from tests.support.upstream import End, Json, ScriptedUpstream, Status, Stream

FIELDS = {
    *("request_id", "primary_provider", "provider", "model", "policy_used", "fallback", "attempts", "excluded"),
    *("cost_usd", "cost_nano", "service_tier", "latency_ms"),
}
COMMENT = b": routing_metadata "


def always(up: str, spare: str | None = None) -> Config:
    value = config(up, spare)
    value["server"]["routing_metadata"] = "always"
    return value


@pytest.fixture
async def spare() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
async def gateway(tmp_path: Path, up: ScriptedUpstream, spare: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, always(up.url, spare.url)) as gateway:
        yield gateway


def of_stream(reply: Reply) -> list[Any]:
    return [event for event in reply.events if event != "[DONE]" and "routing_metadata" in event]


async def test_a_buffered_answer_tells_who_answered_after_whom_and_for_how_much(
    gateway: Gateway, up: ScriptedUpstream
) -> None:
    up.queue(Status(503), Status(503))
    reply = await gateway.chat("duo")
    told = reply.json["routing_metadata"]
    assert set(told) == FIELDS
    assert (told["primary_provider"], told["provider"], told["fallback"]) == ("up", "spare", True)
    assert (told["model"], told["policy_used"]) == ("duo", "default")
    assert [(one["n"], one["provider"], one["outcome"], one["upstream_status"]) for one in told["attempts"]] == [
        (1, "up", "upstream_5xx", 503),
        (2, "up", "upstream_5xx", 503),
        (3, "spare", "ok", 200),
    ]
    record = await gateway.settled()
    assert (told["request_id"], told["cost_nano"]) == (record.id, record.cost_nano)
    assert told["cost_usd"] == reply.headers["x-routerx-cost-usd"]
    assert set(told["attempts"][0]) == {
        *("n", "provider", "endpoint", "outcome", "upstream_status", "started_ms", "duration_ms")
    }


async def test_the_providers_bytes_stay_and_the_key_comes_last(gateway: Gateway, up: ScriptedUpstream) -> None:
    odd = b'{ "choices": [{"index":0, "message":{"role":"assistant","content":"\\u00e9 }"},"finish_reason":"stop"}],'
    odd += b'\n  "usage":{"prompt_tokens":1.0e0,"completion_tokens":1,"total_tokens":2}, "x" : 1.50 }\n'
    up.queue(Json(odd))
    reply = await gateway.chat()
    kept = odd.rstrip().removesuffix(b"}")
    assert reply.body.startswith(kept + b',"routing_metadata":{')
    assert reply.body.endswith(b"}}\n")
    assert list(reply.json)[-1] == "routing_metadata"
    assert reply.headers["content-length"] == str(len(reply.body))


async def test_without_the_wish_bytes_are_the_providers(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, config(up.url)) as gateway:
        for stream in (False, True):
            reply = await gateway.chat(stream=stream)
            assert b"routing_metadata" not in reply.body
        refused = await gateway.chat("nobody")
        assert b"routing_metadata" not in refused.body


async def test_a_stream_tells_it_in_its_usage_chunk_once_the_charge_is_on_disk(gateway: Gateway) -> None:
    async with gateway.commits_blocked():
        caller = await gateway.begin(stream=True, stream_options={"include_usage": True})
        head = await caller.head()
        seen = await caller.until(b"Hello")
        await gateway.settling()
        assert b"routing_metadata" not in caller.unread
    reply = await caller.reply(head, seen)
    [event] = of_stream(reply)
    assert event["usage"]["total_tokens"] == 10
    assert event["routing_metadata"]["cost_nano"] == (await gateway.settled()).cost_nano > 0
    assert reply.events[-1] == "[DONE]"
    assert reply.events[-2] == event


async def test_a_stream_without_a_usage_chunk_gets_a_chunk_of_its_own(gateway: Gateway) -> None:
    reply = await gateway.chat(stream=True)
    [event] = of_stream(reply)
    assert event["choices"] == []
    assert event["object"] == "chat.completion.chunk"
    assert event["id"] == reply.events[0]["id"]
    assert event["routing_metadata"]["provider"] == "up"
    assert (reply.events[-2], reply.events[-1], reply.text) == (event, "[DONE]", "Hello from upstream")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n: a remark\n\n"])
@pytest.mark.parametrize("done", [b"data: [DONE]", b"data:[DONE]", b""])
async def test_odd_framing_of_a_provider_hides_nothing(
    gateway: Gateway, up: ScriptedUpstream, end: bytes, done: bytes
) -> None:
    events: list[Any] = [chunk("Hello"), chunk(None, "stop")]
    lines = [b"data:" + json.dumps(event).encode() for event in events]
    up.queue(Stream(frames=[line + end for line in (*lines, done) if line], chunked=False))
    reply = await gateway.ask("POST", "/v1/chat/completions", {"model": "solo", "messages": HELLO, "stream": True})
    found = [line.removeprefix(b"data:").strip() for line in reply.body.splitlines() if line.startswith(b"data:")]
    assert [json.loads(one) for one in found[:2]] == events
    assert set(json.loads(found[2])) == {"id", "model", "object", "choices", "routing_metadata"}
    assert found[3:] == [b"[DONE]"]


async def test_an_error_carries_it(gateway: Gateway, up: ScriptedUpstream) -> None:
    up.default = Status(400)
    reply = await gateway.chat()
    assert reply.status == 400
    told = reply.json["routing_metadata"]
    assert (told["provider"], told["primary_provider"], told["cost_nano"]) == (None, "up", 0)
    assert [one["outcome"] for one in told["attempts"]] == ["upstream_4xx"]
    unknown = await gateway.chat("nobody")
    assert unknown.json["routing_metadata"]["attempts"] == []


async def test_a_stream_that_breaks_tells_it_in_a_comment(gateway: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Stream(["Hel", "lo"], stop_after=2, end=End.RESET))
    reply = await gateway.chat(stream=True)
    assert reply.stream_error is not None
    comment = next(line for line in reply.body.split(b"\n") if line.startswith(COMMENT))
    assert b'"outcome":"upstream_reset_midstream"' in comment


async def test_endpoints_that_the_tenant_may_not_use_are_not_named(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = always(up.url)
    value["policies"]["default"]["on_failure"] = ["flat"]
    value["tenants"]["acme"]["allow"] = ["solo"]
    value["models"]["flat"]["endpoints"][0]["model"] = "hidden"
    async with running(tmp_path, value) as gateway:
        reply = await gateway.chat()
        assert reply.json["routing_metadata"]["excluded"] == []
        assert b"hidden" not in reply.body


async def test_one_request_asks_for_it_by_a_header(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, config(up.url)) as gateway:
        body = {"model": "solo", "messages": HELLO}
        asked = await gateway.ask("POST", "/v1/chat/completions", body, headers={"X-RouterX-Metadata": "true"})
        assert asked.json["routing_metadata"]["provider"] == "up"
        assert "routing_metadata" not in (await gateway.chat()).json
        assert "x-routerx-metadata" not in up.requests[0].headers


async def test_where_nothing_is_left_the_error_says_what_left_out_each(gateway: Gateway) -> None:
    reply = await gateway.chat("duo", provider={"ignore": ["up", "spare"]})
    assert reply.status == 404
    assert reply.json["routing_metadata"]["excluded"] == [
        {"endpoint": "up/duo", "rule": "ignored"},
        {"endpoint": "spare/duo", "rule": "ignored"},
    ]


# --- the official clients


async def test_the_openai_client_reads_answers_with_it(gateway: Gateway) -> None:
    client = gateway.client()
    answer = await client.chat.completions.create(model="solo", messages=HELLO)
    assert answer.choices[0].message.content == "Hello from upstream"
    assert routed(answer.model_extra)["provider"] == "up"
    for options in ({}, {"stream_options": {"include_usage": True}}):
        extras = []
        text = ""
        async for piece in await client.chat.completions.create(model="solo", messages=HELLO, stream=True, **options):
            text += "".join(choice.delta.content or "" for choice in piece.choices)
            extras.append(piece.model_extra)
        assert text == "Hello from upstream"
        assert routed(extras[-1])["provider"] == "up"


def routed(extra: Mapping[str, object] | None) -> Any:
    assert extra is not None
    return extra["routing_metadata"]


async def test_the_openai_client_reads_responses_and_errors_with_it(gateway: Gateway, up: ScriptedUpstream) -> None:
    client = gateway.client()
    whole = await client.responses.create(model="solo", input="Hello")
    assert whole.output_text == "Hello from upstream"
    assert routed(whole.model_extra)["policy_used"] == "default"
    kinds = [event.type async for event in await client.responses.create(model="solo", input="Hello", stream=True)]
    assert kinds[-1] == "response.completed"
    up.default = Status(400)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="solo", messages=HELLO)
    assert caught.value.code == "upstream_rejected"


async def test_the_anthropic_client_reads_answers_and_streams_with_it(gateway: Gateway) -> None:
    client = anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0, timeout=GUARD_S)
    async with client:
        whole = await client.messages.create(model="solo", max_tokens=99, messages=HELLO)
        assert whole.content[0].text == "Hello from upstream"
        assert routed(whole.model_extra)["provider"] == "up"
        async with client.messages.stream(model="solo", max_tokens=99, messages=HELLO) as stream:
            assert await stream.get_final_text() == "Hello from upstream"


@pytest.mark.parametrize("stream", [False, True])
async def test_googles_client_reads_answers_and_streams_with_it(gateway: Gateway, stream: bool) -> None:
    caller = GeminiCaller(gateway.url, KEY)
    assert (await caller.text("solo", stream)).text == "Hello from upstream"
    await caller.close()


async def test_a_stream_of_googles_wire_tells_it_in_its_last_event(gateway: Gateway, up: ScriptedUpstream) -> None:
    """Its client reads a comment as an answer."""
    path, body = "/v1beta/models/solo:streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": "Hello"}]}]}
    reply = await gateway.ask("POST", path, body)
    events = [line for line in reply.body.split(b"\r\n") if line]
    assert all(event.startswith(b"data: {") for event in events)
    last = json.loads(events[-1].removeprefix(b"data: "))
    assert last["routing_metadata"]["provider"] == "up"
    up.queue(Stream(["Hel", "lo"], stop_after=2, end=End.RESET))
    broken = await gateway.ask("POST", path, body)
    assert COMMENT not in broken.body
    assert b'"routing_metadata":{' in broken.body.split(b'"error"')[1]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_streams_of_other_wires_tell_it_in_a_comment(gateway: Gateway, path: str) -> None:
    body = {"model": "solo", "input": "Hello", "messages": HELLO, "max_tokens": 9, "stream": True}
    reply = await gateway.ask("POST", path, body)
    assert reply.status == 200
    assert reply.body.count(b"\n" + COMMENT) == 1
