"""The official client's Responses, where an answer breaks off or fails after its stream began."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from routerx.dialects.signatures import UNSIGNED, pack_call_id
from tests.support.gateway import Config, config, running
from tests.support.upstream import Json, Replay, ScriptedUpstream, Stream


def speaking(up: str, dialect: str) -> Config:
    value = config(up)
    value["providers"]["up"]["dialect"] = dialect
    value["policies"]["default"] |= {"retry": {"max": 0, "attempts": 1}}
    return value


def frame(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


BEGUN = frame("response.created", response={"id": "resp_1", "model": "solo", "status": "in_progress", "output": []})


async def said(client: openai.AsyncOpenAI) -> str:
    text = ""
    async for event in await client.responses.create(model="solo", input="hi", stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
    return text


async def test_an_answer_that_breaks_off_is_raised_where_it_is_translated(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "openai")) as gateway:
        up.queue(Stream(["Hel", "lo"], stop_after=2))
        with pytest.raises(openai.APIError) as caught:
            await said(gateway.client())
        record = await gateway.settled()

    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "upstream_truncated"
    assert record.cost_nano == 0


async def test_an_answer_that_breaks_off_is_raised_where_bytes_pass(tmp_path: Path) -> None:
    text = frame("response.output_text.delta", output_index=0, content_index=0, item_id="msg_1", delta="Hel")
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "responses")) as gateway:
        up.queue(Replay(BEGUN + text))
        with pytest.raises(openai.APIError) as caught:
            await said(gateway.client())
        await gateway.settled()

    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "upstream_truncated"


async def test_an_error_behind_the_first_event_is_a_refusal_with_a_status(tmp_path: Path) -> None:
    """This vendor tells of an exhausted account in the stream; nothing was told to the caller by then."""
    failed = frame("error", code="rate_limit_exceeded", message="Slow down.", param=None)
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "responses")) as gateway:
        up.queue(Replay(BEGUN + failed))
        with pytest.raises(openai.RateLimitError):
            await said(gateway.client())
        await gateway.settled()


async def test_what_another_vendor_signed_stays_here_when_the_conversation_goes_on_elsewhere(tmp_path: Path) -> None:
    answer = {
        "id": "resp_1",
        "model": "solo",
        "status": "completed",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "x", "annotations": []}],
            }
        ],
        "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
    }
    packed = pack_call_id("c1", "gemini", "s" * 200)
    history: Any = [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": UNSIGNED},
        {"type": "function_call", "call_id": packed, "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": packed, "output": "y"},
    ]
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "responses")) as gateway:
        up.queue(Json(answer))
        reply = await gateway.client().responses.create(model="solo", input=history)
        await gateway.settled()

    assert reply.output_text == "x"
    sent = up.requests[0].json["input"]
    assert [item.get("type", "message") for item in sent] == ["message", "function_call", "function_call_output"]
    assert {item["call_id"] for item in sent[1:]} == {"c1"}


async def test_an_answer_in_the_background_is_refused(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, speaking(up.url, "responses")) as gateway:
        with pytest.raises(openai.BadRequestError) as caught:
            await gateway.client().responses.create(model="solo", input="hi", background=True)

    assert caught.value.param == "background"
    assert not up.requests
