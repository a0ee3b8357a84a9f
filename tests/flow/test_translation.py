"""What the gateway itself does when caller and provider speak different wires: choosing, telling, refusing, charging.

What the translations hold is tested where they are written; here a hand-written answer of each wire is enough.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import HELLO, KEY, Config, config, running
from tests.support.upstream import Json, Ok, ScriptedUpstream, Status, Stream, sse

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-up",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 7, "output_tokens": 3},
}
ASK = {"model": "solo", "max_tokens": 50, "messages": HELLO}
"""In Anthropic's format."""


def event(kind: str, **fields: Any) -> bytes:
    data = {"type": kind, **fields}
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


EVENTS = (
    event("message_start", message=MESSAGE | {"content": [], "stop_reason": None}),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"}),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 3}),
    event("message_stop"),
)


def speaking(up: str, dialect: str, spare: str | None = None, **policy: Any) -> Config:
    """The plain configuration with another wire at `up`."""
    value = config(up, spare)
    value["providers"]["up"]["dialect"] = dialect
    value["policies"]["default"] |= policy
    return value


async def test_what_the_providers_wire_cannot_say_is_named_counted_and_flagged(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Json(MESSAGE))
        reply = await gateway.chat(seed=7, frequency_penalty=1, made_up=True)
        record = await gateway.settled()
        metrics = await gateway.ask("GET", "/metrics", key=None)

    assert reply.text == "Hello"
    assert reply.headers["x-routerx-dropped"] == "frequency_penalty, made_up, seed"
    assert "dropped" in record.flags
    assert b'routerx_dropped_fields_total{field="seed"} 1.0' in metrics.body
    assert b'routerx_dropped_fields_total{field="other"} 1.0' in metrics.body
    assert b"made_up" not in metrics.body
    assert record.cost_nano == 7 * 1_000 + 3 * 2_000


async def test_a_translated_request_goes_out_under_the_version_it_is_written_for(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Json(MESSAGE))
        await gateway.ask(
            "POST", "/v1/chat/completions", {"model": "solo", "messages": HELLO}, headers={"anthropic-version": "x"}
        )

    assert up.requests[0].headers["anthropic-version"] == "2023-06-01"


async def test_an_answer_that_lost_nothing_says_nothing(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Json(MESSAGE))
        reply = await gateway.chat(temperature=0.5, n=1, presence_penalty=0)

    assert "x-routerx-dropped" not in reply.headers


async def test_a_strict_policy_refuses_what_would_be_dropped_and_charges_nothing(tmp_path: Path) -> None:
    value = speaking("http://127.0.0.1:9", "anthropic", translation="strict")
    async with running(tmp_path, value) as gateway:
        reply = await gateway.chat(seed=7)
        record = await gateway.settled()

    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "translation_lossy", "seed")
    assert (record.cost_nano, record.attempts) == (0, ())


async def test_a_strict_policy_goes_on_to_a_candidate_that_can_take_everything(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        value = speaking(up.url, "anthropic", spare.url, translation="strict")
        async with running(tmp_path, value) as gateway:
            reply = await gateway.chat("duo", seed=7)

    assert reply.headers["x-routerx-provider"] == "spare"
    assert not up.requests
    assert spare.requests[0].json["seed"] == 7


async def test_fallback_crosses_from_one_wire_to_another(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        up.default = Status(529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})
        async with running(tmp_path, speaking(up.url, "anthropic", spare.url)) as gateway:
            reply = await gateway.ask("POST", "/v1/messages", ASK | {"model": "duo"})
            record = await gateway.settled()

    assert reply.json["content"] == [{"type": "text", "text": "Hello from upstream"}]
    assert reply.headers["x-routerx-fallback"] == "true"
    assert spare.requests[0].path == "/v1/chat/completions"
    assert record.endpoint is not None
    assert record.endpoint.startswith("spare/")


async def test_an_anthropic_client_gets_its_own_wire_from_a_provider_of_openais(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gateway:
        reply = await gateway.ask("POST", "/v1/messages", ASK, key=None, headers={"x-api-key": KEY})
        record = await gateway.settled()

    assert reply.json["type"] == "message"
    assert reply.json["stop_reason"] == "end_turn"
    assert reply.json["usage"]["output_tokens"] == 3
    assert record.cost_nano == 7 * 1_000 + 3 * 2_000
    assert up.requests[0].json["max_tokens"] == 50


@pytest.mark.parametrize("stream", [False, True])
async def test_between_two_ends_of_one_wire_bytes_pass(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Stream(frames=EVENTS) if stream else Json(MESSAGE))
        ask = ASK | {"stream": stream, "unheard_of": {"x": [1.50]}}
        own = {"anthropic-beta": "new-thing-2026", "anthropic-version": "2026-10-21"}
        reply = await gateway.ask("POST", "/v1/messages", ask, headers=own)
        record = await gateway.settled()

    assert reply.body == (b"".join(EVENTS) if stream else json.dumps(MESSAGE).encode())
    sent = up.requests[0]
    assert sent.path == "/v1/messages"
    assert sent.json["unheard_of"] == {"x": [1.5]}
    assert sent.headers["anthropic-version"] == "2026-10-21"
    assert sent.headers["anthropic-beta"] == "new-thing-2026"
    assert "authorization" not in sent.headers
    assert record.cost_nano == 7 * 1_000 + 3 * 2_000


async def test_a_callers_beta_header_stays_away_from_other_providers(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gateway:
        await gateway.ask("POST", "/v1/messages", ASK, headers={"anthropic-beta": "new-thing-2026"})

    assert "anthropic-beta" not in up.requests[0].headers


async def test_a_stream_in_one_wire_is_told_in_another_and_costs_the_same(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Stream(frames=EVENTS, cut=3))
        reply = await gateway.chat(stream=True, stream_options={"include_usage": True})
        record = await gateway.settled()

    assert reply.text == "Hello"
    assert reply.stream_error is None
    assert reply.events[-2]["usage"]["prompt_tokens"] == 7
    assert record.cost_nano == 7 * 1_000 + 3 * 2_000


async def test_a_caller_who_leaves_midstream_pays_what_was_delivered_whatever_was_reported_before_it(
    tmp_path: Path,
) -> None:
    said = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 400})
    began = event("message_start", message=MESSAGE | {"content": [], "usage": {"input_tokens": 7, "output_tokens": 1}})
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.default = Stream(frames=(began, EVENTS[1], said, EVENTS[-1]), gates={3: asyncio.Event()})
        caller = await gateway.begin(stream=True)
        await caller.head()
        await caller.until(b"x" * 400)
        caller.leave()
        record = await gateway.settled()

    assert (record.outcome, record.usage_source) == ("client_gone_midstream", "estimated")
    assert record.cost_nano == 7 * 1_000 + 100 * 2_000


async def test_one_choice_of_a_wire_that_has_no_more_is_whole_where_several_were_asked_for(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Stream(frames=EVENTS[:-1]))
        reply = await gateway.chat(stream=True, n=2)
        record = await gateway.settled()

    assert reply.text == "Hello"
    assert reply.stream_error is None
    assert reply.headers["x-routerx-dropped"] == "n"
    assert (record.outcome, record.cost_nano) == ("ok", 7 * 1_000 + 3 * 2_000)


async def test_a_whole_answer_in_place_of_a_stream_is_told_as_one(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Json(MESSAGE))
        reply = await gateway.chat(stream=True)
        record = await gateway.settled()

    assert reply.text == "Hello"
    assert reply.stream_error is None
    assert "coerced" in record.flags
    assert record.cost_nano == 7 * 1_000 + 3 * 2_000


async def test_a_stream_that_breaks_ends_in_the_callers_own_wire_and_costs_nothing(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gateway:
        up.queue(Stream(["Hel", "lo"], stop_after=2))
        reply = await gateway.ask("POST", "/v1/messages", ASK | {"stream": True})
        record = await gateway.settled()

    assert reply.body.startswith(b"event: message_start")
    assert b"event: error" in reply.body
    assert b"message_stop" not in reply.body
    assert record.cost_nano == 0


async def test_errors_have_the_shape_of_the_route(tmp_path: Path) -> None:
    async with running(tmp_path, config("http://127.0.0.1:9")) as gateway:
        anthropic = await gateway.ask("POST", "/v1/messages", ASK, key="wrong")
        gemini = await gateway.ask("POST", "/v1beta/models/solo:generateContent", {"contents": []}, key="wrong")
        openai = await gateway.ask("POST", "/v1/responses", {"model": "solo", "input": "hi"}, key="wrong")

    assert anthropic.json["type"] == "error"
    assert anthropic.error["type"] == "authentication_error"
    assert gemini.error["status"] == "UNAUTHENTICATED"
    assert openai.error["code"] == "invalid_api_key"
    assert {anthropic.status, gemini.status, openai.status} == {401}


async def test_tokens_are_counted_by_the_provider_that_can_and_estimated_else_free_either_way(tmp_path: Path) -> None:
    ask = {"model": "solo", "messages": HELLO}
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "anthropic")) as gateway:
        up.queue(Json({"input_tokens": 9}))
        native = await gateway.ask("POST", "/v1/messages/count_tokens", ask)
        await gateway.settled()
        assert await gateway.spent() == 0
    async with running(tmp_path, config("http://127.0.0.1:9")) as gateway:
        estimated = await gateway.ask("POST", "/v1/messages/count_tokens", ask)

    assert native.json == {"input_tokens": 9}
    assert up.requests[0].path == "/v1/messages/count_tokens"
    assert "x-routerx-estimated" not in native.headers
    assert estimated.headers["x-routerx-estimated"] == "true"
    assert 1 <= estimated.json["input_tokens"] <= 200


async def test_a_conversation_kept_elsewhere_is_refused_where_it_would_be_lost(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gateway:
        ask = {"model": "solo", "input": "and then?", "previous_response_id": "resp_1"}
        reply = await gateway.ask("POST", "/v1/responses", ask)

    assert (reply.status, reply.error["param"]) == (400, "previous_response_id")
    assert not up.requests


async def test_geminis_path_names_the_model_and_the_method(tmp_path: Path) -> None:
    ask = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gateway:
        up.queue(Ok(), Stream())
        whole = await gateway.ask(
            "POST", "/v1beta/models/solo:generateContent", ask, key=None, headers={"x-goog-api-key": KEY}
        )
        stream = await gateway.ask("POST", "/v1/models/solo:streamGenerateContent?alt=sse", ask)
        wrong = await gateway.ask("POST", "/v1beta/models/solo:sing", ask)

    assert whole.json["candidates"][0]["content"]["parts"] == [{"text": "Hello from upstream"}]
    assert [request.json.get("stream", False) for request in up.requests] == [False, True]
    assert b'"text":"Hel"' in stream.body
    assert (wrong.status, wrong.error["status"]) == (404, "NOT_FOUND")


async def test_embeddings_are_asked_for_in_the_providers_own_wire(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "gemini")) as gateway:
        up.queue(Json({"embeddings": [{"values": [0.5, 0.25]}]}))
        ask = {"model": "vectors", "input": ["one"]}
        reply = await gateway.ask("POST", "/v1/embeddings", ask)
        tokens = await gateway.ask("POST", "/v1/embeddings", {"model": "vectors", "input": [1, 2]})

    assert up.requests[0].path == "/v1/models/vectors:batchEmbedContents"
    assert reply.json["data"][0]["embedding"] == [0.5, 0.25]
    assert (tokens.status, tokens.error["param"]) == (400, "input")


async def test_a_provider_that_speaks_two_wires_is_spoken_to_in_the_callers(tmp_path: Path) -> None:
    value = config("http://127.0.0.1:9")
    async with ScriptedUpstream() as up:
        value = config(up.url)
        value["providers"]["up"]["also"] = ["anthropic"]
        async with running(tmp_path, value) as gateway:
            up.queue(Json(MESSAGE), Ok())
            passed = await gateway.ask("POST", "/v1/messages", ASK)
            await gateway.chat()

    assert passed.body == json.dumps(MESSAGE).encode()
    assert [request.path for request in up.requests] == ["/v1/messages", "/v1/chat/completions"]


async def test_an_unknown_wire_is_refused_by_name(tmp_path: Path) -> None:
    value = config("http://127.0.0.1:9")
    async with running(tmp_path, value) as gateway:
        value["providers"]["up"]["also"] = ["antropic"]
        status = await gateway.reload(value)

    assert "providers.up.also[0]" in str(status)
    assert "did you mean 'anthropic'" in str(status)


def test_the_frames_written_here_are_whole() -> None:
    assert all(frame.endswith(b"\n\n") for frame in (*EVENTS, sse({"x": 1})))


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
@pytest.mark.parametrize("content", ["", [{"type": "file", "file": {"file_id": "file-1"}}]])
async def test_a_conversation_that_leaves_nothing_to_say_is_refused_here(
    tmp_path: Path, dialect: str, content: Any
) -> None:
    async with running(tmp_path, speaking("http://127.0.0.1:9", dialect)) as gateway:
        messages = [{"role": "user", "content": content}]
        reply = await gateway.ask("POST", "/v1/chat/completions", {"model": "solo", "messages": messages})

    assert (reply.status, reply.error["param"]) == (400, "messages")
