"""Operations beside chat and embeddings: relayed by the official client to a scripted provider, and metered."""

import io
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerx.domain.call import Operation
from routerx.domain.usage import UsageSource
from tests.flow.flow_kit import OPENING, planned
from tests.support.gateway import HELLO, KEY, TENANT, Config, Gateway, Reply, config, digest, running
from tests.support.upstream import DONE, Json, Ok, Peer, ScriptedUpstream, Status, Stream, sse

BOUNDARY = "b0undary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass(frozen=True)
class Bytes:
    """A body of any type."""

    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)

    async def play(self, peer: Peer) -> None:
        await Json(self.body, headers={"content-type": self.content_type} | self.headers).play(peer)


def wav(seconds: float, rate: int = 8_000) -> bytes:
    """Silence: mono, 16 bits."""
    data = bytes(round(seconds * rate) * 2)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    return head + struct.pack("<4sI", b"data", len(data)) + data


def part(name: str, content: bytes, more: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def relaying(up: str, spare: str | None = None) -> Config:
    """A model for each operation, each with a price that shows in its charge; `nova` is called otherwise upstream."""
    value = config(up, spare)
    value["plans"]["prepaid"]["on_unpriced"] = "allow_flagged"

    def model(kind: str, **price: Any) -> dict[str, Any]:
        return {"kind": kind, "endpoints": [{"provider": "up", "price": {"input": 0, "output": 0} | price}]}

    value["models"] |= {
        "instruct": model("completion", input=1, output=2),
        "painter": model("image", request="0.04"),
        "token-painter": model("image", input=5, image_input=10, image_output=40),
        "voice": model("speech", input=15),
        "token-voice": model("speech", input=1, audio_output=12),
        "ear": model("transcription", audio_input=100),
        "token-ear": model("transcription", input=1, audio_input=6, output=10),
        "judge": model("moderation"),
        "near": {
            "kind": "transcription",
            "endpoints": [{"provider": "up", "price": {"input": 1, "output": 1}, "context": 100, "max_output": 100}],
        },
        "ranker": model("rerank", request="0.002"),
        "nova": {
            "kind": "transcription",
            "endpoints": [{"provider": "up", "model": "upstream-nova-3", "price": {"input": 0, "output": 0}}],
        },
    }
    return value


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, relaying(up.url)) as gateway:
        yield gateway


async def charged(gw: Gateway, nano: int, source: UsageSource) -> None:
    """The next request that settles costs so much, on the books, too."""
    record = await gw.settled()
    assert (record.outcome, record.cost_nano, record.usage_source) == ("ok", nano, source)
    assert record.held_nano >= nano
    assert await gw.spent() == nano
    assert gw.funds().balance_nano == OPENING - nano
    await gw.assert_books_are_clean()


# --- text completions


COMPLETION: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "instruct",
    "choices": [{"text": "Paris.", "index": 0, "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}


def text_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "instruct", "choices": [choice]}


USAGE_CHUNK = {**text_chunk(""), "choices": [], "usage": COMPLETION["usage"]}
TEXT_STREAM = Stream(frames=[sse(text_chunk("Par")), sse(text_chunk("is.", "stop")), sse(USAGE_CHUNK), DONE])


async def test_completion(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json(COMPLETION))
    answer = await gw.client().completions.create(model="instruct", prompt="The capital of France is")
    assert answer.choices[0].text == "Paris."
    assert up.requests[0].path == "/v1/completions"
    await charged(gw, 5 * 1_000 + 2 * 2_000, UsageSource.PROVIDER)


@pytest.mark.parametrize("include_usage", [False, True])
async def test_streamed_completion_is_charged_by_usage_that_only_those_see_who_asked(
    gw: Gateway, up: ScriptedUpstream, include_usage: bool
) -> None:
    up.queue(TEXT_STREAM)
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    stream = await gw.client().completions.create(model="instruct", prompt="Say", stream=True, **options)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "Paris."
    assert any(chunk.usage is not None for chunk in chunks) is include_usage
    assert up.requests[0].json["stream_options"] == {"include_usage": True}
    await charged(gw, 5 * 1_000 + 2 * 2_000, UsageSource.PROVIDER)


async def test_completion_that_came_whole_is_told_as_the_stream_that_was_asked_for(
    gw: Gateway, up: ScriptedUpstream
) -> None:
    up.queue(Json(json.dumps(COMPLETION, indent=2).encode()))
    stream = await gw.client().completions.create(model="instruct", prompt="Say", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Paris."
    await charged(gw, 5 * 1_000 + 2 * 2_000, UsageSource.PROVIDER)


async def test_completion_stream_that_breaks_ends_with_an_error_and_costs_nothing(
    gw: Gateway, up: ScriptedUpstream
) -> None:
    up.queue(Stream(frames=[sse(text_chunk("Par"))]))
    stream = await gw.client().completions.create(model="instruct", prompt="Say", stream=True)
    with pytest.raises(openai.APIError, match="ended before"):
        _ = [chunk async for chunk in stream]
    record = await gw.settled()
    assert (record.outcome, record.cost_nano) == ("upstream_truncated", 0)


async def test_completion_without_usage_is_estimated(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json({key: value for key, value in COMPLETION.items() if key != "usage"}))
    await gw.client().completions.create(model="instruct", prompt="Say")
    record = await gw.settled()
    assert record.usage_source is UsageSource.ESTIMATED
    assert record.usage is not None
    assert record.usage.out_text == 2
    assert 0 < record.cost_nano <= record.held_nano


# --- images


async def test_images_are_charged_by_the_image_that_was_made(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json({"created": 1, "data": [{"b64_json": "aGk="}, {"b64_json": "aGk="}]}))
    answer = await gw.client().images.generate(model="painter", prompt="A lighthouse", n=3)
    assert answer.data is not None
    assert len(answer.data) == 2
    assert up.requests[0].path == "/v1/images/generations"
    await charged(gw, 2 * 40_000_000, UsageSource.ESTIMATED)


IMAGE_USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 1_056,
    "total_tokens": 1_106,
}
IMAGE_COST = 10 * 5_000 + 40 * 10_000 + 1_056 * 40_000


async def test_images_are_charged_by_the_token_where_tokens_are_reported(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json({"created": 1, "data": [{"b64_json": "aGk="}], "usage": IMAGE_USAGE}))
    await gw.client().images.generate(model="token-painter", prompt="A lighthouse", quality="medium")
    await charged(gw, IMAGE_COST, UsageSource.PROVIDER)


async def test_streamed_image_passes_with_events_of_megabytes(gw: Gateway, up: ScriptedUpstream) -> None:
    picture = "aGk=" * 500_000
    partial = {"type": "image_generation.partial_image", "b64_json": picture, "partial_image_index": 0}
    whole = {"type": "image_generation.completed", "b64_json": picture, "usage": IMAGE_USAGE}
    up.queue(Stream(frames=[sse(partial), sse(whole)]))
    stream = await gw.client().images.generate(
        model="token-painter", prompt="A lighthouse", quality="medium", stream=True, partial_images=1
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == [partial["type"], whole["type"]]
    assert all(event.b64_json == picture for event in events)
    await charged(gw, IMAGE_COST, UsageSource.PROVIDER)


# --- speech


SOUND = bytes(range(256)) * 40


async def test_speech_is_relayed_byte_for_byte_and_charged_by_the_character(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Bytes(SOUND, "audio/mpeg"))
    answer = await gw.client().audio.speech.create(model="voice", voice="alloy", input="Grüße, Welt!")
    assert answer.content == SOUND
    assert answer.response.headers["content-type"] == "audio/mpeg"
    assert up.requests[0].headers["accept"] == "*/*"
    await charged(gw, 12 * 15_000, UsageSource.ESTIMATED)


async def test_streamed_speech_is_charged_by_its_tokens(gw: Gateway, up: ScriptedUpstream) -> None:
    done = {"type": "speech.audio.done", "usage": {"input_tokens": 4, "output_tokens": 60, "total_tokens": 64}}
    up.queue(Stream(frames=[sse({"type": "speech.audio.delta", "audio": "aGk="}), sse(done)]))
    body = {"model": "token-voice", "voice": "alloy", "input": "Hello there, all of you!" * 3, "stream_format": "sse"}
    reply = await gw.ask("POST", "/v1/audio/speech", body)
    assert [event["type"] for event in reply.events] == ["speech.audio.delta", "speech.audio.done"]
    await charged(gw, 4 * 1_000 + 60 * 12_000, UsageSource.PROVIDER)


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b'{"error": {"message": "no", "code": "model_not_found"}}', "audio/mpeg", "upstream_rejected"),
        (b"<!doctype html><p>Log in", "text/html", "upstream_bad_content_type"),
        (b"<html>Log in", "application/octet-stream", "upstream_bad_content_type"),
        (SOUND, "audio/mpeg\tx", "upstream_bad_content_type"),
        (b"", "audio/mpeg", "upstream_empty_response"),
    ],
)
async def test_what_is_no_sound_is_an_error(
    gw: Gateway, up: ScriptedUpstream, body: bytes, content_type: str, code: str
) -> None:
    up.default = Bytes(body, content_type)
    with pytest.raises(openai.APIStatusError) as caught:
        await gw.client().audio.speech.create(model="voice", voice="alloy", input="Hello")
    assert caught.value.code == code
    assert (await gw.settled()).cost_nano == 0


# --- transcriptions


async def test_transcription_is_charged_by_the_second(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json({"text": "Hello.", "usage": {"type": "duration", "seconds": 2.4}}))
    file = ("hello.wav", io.BytesIO(wav(2.4)), "audio/wav")
    answer = await gw.client().audio.transcriptions.create(model="ear", file=file)
    assert answer.text == "Hello."
    assert up.requests[0].path == "/v1/audio/transcriptions"
    await charged(gw, 3 * 100_000, UsageSource.PROVIDER)


async def test_transcription_without_usage_is_charged_by_the_length_of_the_recording(
    gw: Gateway, up: ScriptedUpstream
) -> None:
    up.queue(Bytes(b"Hello.\n", "text/plain; charset=utf-8"))
    file = ("hello.wav", io.BytesIO(wav(2.4)), "audio/wav")
    answer: Any = await gw.client().audio.transcriptions.create(model="ear", file=file, response_format="text")
    assert answer == "Hello.\n"
    await charged(gw, 3 * 100_000, UsageSource.ESTIMATED)


async def test_transcription_is_charged_by_the_token(gw: Gateway, up: ScriptedUpstream) -> None:
    details = {"audio_tokens": 34, "text_tokens": 2}
    usage = {"type": "tokens", "input_tokens": 36, "output_tokens": 5, "total_tokens": 41}
    up.queue(Json({"text": "Hello.", "usage": {**usage, "input_token_details": details}}))
    await gw.client().audio.transcriptions.create(model="token-ear", file=("hello.wav", wav(30)))
    await charged(gw, 34 * 6_000 + 2 * 1_000 + 5 * 10_000, UsageSource.PROVIDER)


async def test_a_recording_may_have_more_tokens_than_the_window(gw: Gateway, up: ScriptedUpstream) -> None:
    usage = {"type": "tokens", "input_tokens": 900, "output_tokens": 5, "total_tokens": 905}
    up.queue(Json({"text": "Hello.", "usage": usage}))
    await gw.client().audio.transcriptions.create(model="near", file=("hello.wav", wav(900)))
    await charged(gw, 905 * 1_000, UsageSource.PROVIDER)


async def test_streamed_transcription(gw: Gateway, up: ScriptedUpstream) -> None:
    usage = {"type": "tokens", "input_tokens": 34, "output_tokens": 5, "total_tokens": 39}
    usage |= {"input_token_details": {"audio_tokens": 34, "text_tokens": 0}}  # type: ignore[dict-item]
    done = {"type": "transcript.text.done", "text": "Hello.", "usage": usage}
    up.queue(Stream(frames=[sse({"type": "transcript.text.delta", "delta": "Hello."}), sse(done)]))
    file = ("hello.wav", wav(30))
    stream = await gw.client().audio.transcriptions.create(model="token-ear", file=file, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    await charged(gw, 34 * 6_000 + 5 * 10_000, UsageSource.PROVIDER)


async def test_models_that_do_not_stream_answer_whole(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json({"text": "Hello.", "usage": {"type": "duration", "seconds": 1}}))
    body = form(part("model", b"ear"), part("stream", b"true"), part("file", wav(1), '; filename="a.wav"'))
    reply = await gw.ask("POST", "/v1/audio/transcriptions", body, headers=FORM)
    assert (reply.status, reply.json["text"]) == (200, "Hello.")
    await charged(gw, 1 * 100_000, UsageSource.PROVIDER)


async def test_only_the_model_changes_in_a_form(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Json({"text": "Hello."})
    sound = bytes(range(256)) * 300 + b"\r\n--not-the-boundary\r\n" + b"\r\n\r\n"
    before = part("language", b"no") + part("timestamp_granularities[]", b"word")
    before += part("timestamp_granularities[]", b"segment")
    after = part("file", sound, '; filename="sp\xc3\xa5 \\"q\\".wav"') + part("prompt", b"a\r\nb")
    reply = await gw.ask("POST", "/v1/audio/transcriptions", form(before, part("model", b"nova"), after), headers=FORM)
    assert reply.status == 200
    sent = up.requests[0]
    assert sent.body == form(before, part("model", b"upstream-nova-3"), after)
    assert sent.headers["content-type"] == f'multipart/form-data; boundary="{BOUNDARY}"'
    assert (await gw.settled()).usage_source is UsageSource.ESTIMATED


@pytest.mark.parametrize(
    ("body", "headers", "status", "param"),
    [
        (form(part("file", b"x", '; filename="a"')), FORM, 400, "model"),
        (form(part("model", b"ear")), FORM, 400, "file"),
        (form(part("model", b"ear"), part("file", b"x")), FORM, 400, "file"),
        (form(part("model", b"ear"), part("model", b"nova")), FORM, 400, "model"),
        (form(part("model", b"\xff"), part("file", b"x", '; filename="a"')), FORM, 400, "model"),
        (form(part("model", b"ear"), part("stream", b"1"), part("file", b"", '; filename="a"')), FORM, 400, "stream"),
        (b"", FORM, 400, None),
        (b"preamble\r\n" + form(part("model", b"ear")), FORM, 400, None),
        (form(part("model", b"ear")) + b"epilogue", FORM, 400, None),
        (b'{"model": "ear"}', {"Content-Type": "application/json"}, 415, None),
        (form(part("model", b"ear")), {"Content-Type": "multipart/form-data"}, 415, None),
    ],
)
async def test_forms_that_cannot_be_served_are_refused(
    gw: Gateway, up: ScriptedUpstream, body: bytes, headers: dict[str, str], status: int, param: str | None
) -> None:
    reply = await gw.ask("POST", "/v1/audio/transcriptions", body, headers=headers)
    assert (reply.status, reply.error["param"]) == (status, param)
    assert not up.requests


SHARDS = st.sampled_from(
    [
        *(f"--{BOUNDARY}", f"--{BOUNDARY}--", "\r\n", "\n", "--", "ear", "\0", "é", '"', ";", " ", "x"),
        *('Content-Disposition: form-data; name="model"', 'Content-Disposition: form-data; name="file"; filename="a"'),
        *("Content-Type: audio/wav", "Content-Transfer-Encoding: base64", '; name="file"', "name*=utf-8''model"),
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shards=st.lists(SHARDS, max_size=20), raw=st.binary(max_size=40))
async def test_no_form_is_too_much_for_the_gateway(
    gw: Gateway, up: ScriptedUpstream, shards: list[str], raw: bytes
) -> None:
    up.default = Json({"text": "Hello."})
    body = f"--{BOUNDARY}\r\n".encode() + "".join(shards).encode() + raw
    reply = await gw.ask("POST", "/v1/audio/transcriptions", body, headers=FORM)
    assert reply.status in (200, 400, 404)


# --- moderations, rerank


async def test_moderation_is_free(gw: Gateway, up: ScriptedUpstream) -> None:
    flags: dict[str, Any] = {
        "flagged": False,
        "categories": {},
        "category_scores": {},
        "category_applied_input_types": {},
    }
    up.queue(Json({"id": "modr-1", "model": "judge", "results": [flags]}))
    reply = await gw.client().moderations.with_raw_response.create(model="judge", input=["Hello", "you"])
    assert json.loads(reply.content)["results"] == [flags]
    record = await gw.settled()
    assert (record.outcome, record.cost_nano) == ("ok", 0)
    assert record.usage is not None
    assert record.usage.total_tokens == 0


RERANK = {"model": "ranker", "query": "capital", "documents": ["Paris", "Rome"]}
RANKED = [{"index": 0, "relevance_score": 0.9}, {"index": 1, "relevance_score": 0.1}]


async def test_rerank_is_charged_by_the_search_unit(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json({"id": "r", "results": RANKED, "meta": {"billed_units": {"search_units": 1}}}))
    reply = await gw.ask("POST", "/v1/rerank", RERANK)
    assert reply.json["results"] == RANKED
    assert up.requests[0].path == "/v1/rerank"
    await charged(gw, 2_000_000, UsageSource.PROVIDER)


async def test_absurd_units_are_not_believed(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Json({"id": "r", "results": RANKED, "meta": {"billed_units": {"search_units": 5_000}}}))
    await gw.ask("POST", "/v1/rerank", RERANK)
    record = await gw.settled()
    assert (record.cost_nano, record.usage_source, record.flags) == (2_000_000, UsageSource.ESTIMATED, ("anomaly",))


# --- as everywhere


def ask_for(operation: Operation, model: str) -> tuple[str, Any, dict[str, str]]:
    """Path, body and headers of a plain request."""
    match operation:
        case Operation.COMPLETIONS:
            return "/v1/completions", {"model": model, "prompt": "Say"}, {}
        case Operation.IMAGES:
            return "/v1/images/generations", {"model": model, "prompt": "A lighthouse"}, {}
        case Operation.SPEECH:
            return "/v1/audio/speech", {"model": model, "input": "Hello", "voice": "alloy"}, {}
        case Operation.MODERATIONS:
            return "/v1/moderations", {"model": model, "input": "Hello"}, {}
        case Operation.RERANK:
            return "/v1/rerank", {**RERANK, "model": model}, {}
    sound = part("file", wav(1), '; filename="a.wav"')
    return "/v1/audio/transcriptions", form(part("model", model.encode()), sound), FORM


async def ask(gw: Gateway, operation: Operation, model: str) -> Reply:
    path, body, headers = ask_for(operation, model)
    return await gw.ask("POST", path, body, headers=headers)


RELAYED = [
    Operation.COMPLETIONS,
    Operation.IMAGES,
    Operation.SPEECH,
    Operation.TRANSCRIPTIONS,
    Operation.MODERATIONS,
    Operation.RERANK,
]


@pytest.mark.parametrize("operation", RELAYED)
async def test_mock_says_that_it_cannot(tmp_path: Path, operation: Operation) -> None:
    value: Config = {
        "server": {"data_dir": "data"},
        "providers": {"mock": {}},
        "tenants": {TENANT: {"opening_balance": "$1", "keys": [digest(KEY)]}},
    }
    async with running(tmp_path, value) as gateway:
        reply = await ask(gateway, operation, "mock/anything")
        assert (reply.status, reply.error["code"]) == (400, "unsupported_operation")
        assert operation.value in reply.error["message"]
        assert "mock/anything" in reply.error["message"]


@pytest.mark.parametrize("operation", RELAYED)
async def test_undeclared_models_are_reached_by_path(gw: Gateway, up: ScriptedUpstream, operation: Operation) -> None:
    up.default = Status(418)
    assert (await ask(gw, operation, "up/brand/new")).status == 418
    assert b"brand/new" in up.requests[0].body
    assert b"up/brand" not in up.requests[0].body


@pytest.mark.parametrize("operation", RELAYED)
async def test_a_provider_without_the_route_keeps_its_chats(
    gw: Gateway, up: ScriptedUpstream, operation: Operation
) -> None:
    up.queue(*[Status(404)] * 12)
    for _ in range(12):
        reply = await ask(gw, operation, "up/both")
        assert (reply.status, reply.error["code"]) == (404, "upstream_rejected")
    assert (await gw.chat("up/both")).status == 200


async def test_a_provider_known_to_lack_it_is_passed_over(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = relaying(up.url)
    value["providers"]["xai"] = {"base_url": f"{up.url}/other", "keys": ["${env:UP_KEY}"]}
    value["models"]["voice"]["endpoints"].insert(0, {"provider": "xai", "price": {"input": 0, "output": 0}})
    async with running(tmp_path, value) as gateway:
        up.default = Bytes(SOUND, "audio/mpeg")
        reply = await ask(gateway, Operation.SPEECH, "voice")
        assert (reply.status, reply.headers["x-routerx-provider"]) == (200, "up")
        alone = await ask(gateway, Operation.MODERATIONS, "xai/another")
        assert (alone.status, alone.error["code"]) == (400, "unsupported_operation")


async def test_a_provider_of_another_wire_is_asked_where_it_speaks_openais(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = relaying(up.url)
    value["providers"]["ollama"] = {"base_url": up.url}
    async with running(tmp_path, value) as gateway:
        up.queue(Json(COMPLETION))
        assert (await ask(gateway, Operation.COMPLETIONS, "ollama/qwen3:8b")).json == COMPLETION
        assert up.requests[0].path == "/v1/completions"
        assert (await ask(gateway, Operation.RERANK, "ollama/qwen3:8b")).error["code"] == "unsupported_operation"


async def test_a_model_for_something_else_says_what_it_is_for(gw: Gateway, up: ScriptedUpstream) -> None:
    reply = await ask(gw, Operation.IMAGES, "voice")
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert "speech" in reply.error["message"]
    assert "images" in reply.error["message"]
    assert (await gw.chat("voice")).status == 404
    assert not up.requests


async def test_another_provider_answers_where_the_first_fails(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with ScriptedUpstream() as spare:
        value = relaying(up.url, spare.url)
        value["models"]["voice"]["endpoints"].append({"provider": "spare", "price": {"input": 30, "output": 0}})
        value["models"]["voice"]["endpoints"][1]["priority"] = 1
        async with running(tmp_path, value) as gateway:
            up.default = Status(503)
            spare.default = Bytes(SOUND, "audio/mpeg")
            assert (await ask(gateway, Operation.SPEECH, "voice")).body == SOUND
            await charged(gateway, 5 * 30_000, UsageSource.ESTIMATED)


async def test_what_cannot_be_paid_is_not_begun(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = relaying(up.url)
    value["tenants"][TENANT]["opening_balance"] = "$0.05"
    async with running(tmp_path, value) as gateway:
        body = {"model": "painter", "prompt": "A lighthouse", "n": 2}
        reply = await gateway.ask("POST", "/v1/images/generations", body)
        assert (reply.status, reply.error["code"]) == (402, "insufficient_balance")
        assert not up.requests


async def test_unpriced_models_follow_the_plan(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = relaying(up.url) | {"plans": planned(up.url, on_unpriced="deny")["plans"]}
    async with running(tmp_path, value) as gateway:
        reply = await ask(gateway, Operation.IMAGES, "up/another")
        assert (reply.status, reply.error["code"]) == (403, "permission_denied")


async def test_allow_lists_hold(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = relaying(up.url)
    value["tenants"][TENANT]["allow"] = ["solo"]
    async with running(tmp_path, value) as gateway:
        for operation in RELAYED:
            assert (await ask(gateway, operation, "voice")).status == 404
        up.default = Ok()
        assert (await gateway.chat("solo", messages=HELLO)).status == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "x"}, "model"),
        ("/v1/completions", {"model": "instruct", "prompt": {}}, "prompt"),
        ("/v1/completions", {"model": "instruct", "prompt": []}, "prompt"),
        ("/v1/completions", {"model": "instruct", "prompt": "x", "best_of": 0}, "best_of"),
        ("/v1/images/generations", {"model": "painter"}, "prompt"),
        ("/v1/images/generations", {"model": "painter", "prompt": "x", "n": 1000}, "n"),
        ("/v1/audio/speech", {"model": "voice", "input": 1}, "input"),
        ("/v1/moderations", {"model": "judge"}, "input"),
        ("/v1/moderations", {"model": "judge", "input": []}, "input"),
        ("/v1/rerank", {"model": "ranker", "query": "x", "documents": []}, "documents"),
        ("/v1/rerank", {"model": "ranker", "documents": ["x"]}, "query"),
    ],
)
async def test_refusals_name_the_field(gw: Gateway, up: ScriptedUpstream, path: str, body: Any, param: str) -> None:
    reply = await gw.ask("POST", path, body)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert not up.requests
