"""What goes out to generateContent and batchEmbedContents, where the wire has demands of its own."""

from typing import Any

import msgspec
import pytest

from routerx import jsonx
from routerx.dialects.base import Aim, Encoded
from routerx.dialects.gemini import GEMINI
from routerx.dialects.gemini.target import UNSIGNED
from routerx.domain.call import Operation
from routerx.domain.chat import (
    ChatRequest,
    FunctionTool,
    Media,
    MediaKind,
    Message,
    Reasoning,
    ReasoningWish,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.domain.embedding import EmbeddingRequest
from routerx.domain.failure import FailureKind
from routerx.domain.model import EVERYTHING
from routerx.jsonx import Raw

OLD = Aim(model="gemini-2.5-flash", output_tokens_max=65_536, capabilities=EVERYTHING)
NEW = msgspec.structs.replace(OLD, model="gemini-3-pro-preview")
ASK = Message(Role.USER, (Text("What now?"),))
CALL = ToolCall("call_1", "weather", '{"city":"Oslo"}')
TOOL = FunctionTool("weather", parameters=Raw(b'{"type":"object"}'))


def encoded(*messages: Message, aim: Aim = OLD, **wishes: Any) -> Encoded:
    return GEMINI.target.encode_request(ChatRequest(messages=messages or (ASK,), **wishes), aim)


def contents(*messages: Message, aim: Aim = OLD) -> Any:
    return jsonx.decode(jsonx.encode(encoded(*messages, aim=aim).fields["contents"]))


# --- turns


def test_a_result_has_the_name_of_its_call_and_the_tools_own_object() -> None:
    result = Message(Role.TOOL, (ToolResult("call_1", (Text('{"sky":"grey"}'),)),))

    answer = contents(ASK, Message(Role.ASSISTANT, (CALL,)), result)[2]

    assert answer == {
        "role": "user",
        "parts": [{"functionResponse": {"name": "weather", "response": {"sky": "grey"}}}],
    }


@pytest.mark.parametrize(
    ("text", "is_error", "response"),
    [
        ("grey", False, {"result": "grey"}),
        ("[1]", False, {"result": "[1]"}),
        ("no such city", True, {"error": "no such city"}),
    ],
)
def test_a_result_that_is_no_object_becomes_one(text: str, is_error: bool, response: Any) -> None:
    result = Message(Role.TOOL, (ToolResult("call_1", (Text(text),), is_error),))

    part = contents(ASK, Message(Role.ASSISTANT, (CALL,)), result)[2]["parts"][0]

    assert part["functionResponse"]["response"] == response


def test_what_a_tool_shows_stands_behind_all_results() -> None:
    picture = Media(MediaKind.IMAGE, mime="image/png", data="AAAA")
    results = Message(Role.TOOL, (ToolResult("call_1", (picture,)), ToolResult("call_1", (Text("x"),))))

    parts = contents(ASK, Message(Role.ASSISTANT, (CALL,)), results)[2]["parts"]

    assert [next(iter(part)) for part in parts] == ["functionResponse", "functionResponse", "inlineData"]


def test_a_conversation_begins_with_the_user_and_is_never_empty() -> None:
    system, assistant = Message(Role.SYSTEM, (Text("Be a potato."),)), Message(Role.ASSISTANT, (Text("Hi."),))

    assert contents(system) == [{"role": "user", "parts": [{"text": "Be a potato."}]}]
    assert [turn["role"] for turn in contents(assistant, ASK)] == ["user", "model", "user"]


def test_a_later_system_message_keeps_its_place() -> None:
    turns = contents(ASK, Message(Role.SYSTEM, (Text("Be brief."),)))

    assert turns == [{"role": "user", "parts": [{"text": "What now?"}, {"text": "<system>Be brief.</system>"}]}]


# --- signatures


def test_what_this_vendor_signed_goes_back_unchanged_on_its_part() -> None:
    call = msgspec.structs.replace(CALL, signature="c2ln", origin="gemini")
    thought = Reasoning("Hm.", "dGhpbms=", "gemini")

    parts = contents(ASK, Message(Role.ASSISTANT, (thought, call)), aim=NEW)[1]["parts"]

    assert parts[0] == {"text": "Hm.", "thought": True, "thoughtSignature": "dGhpbms="}
    assert parts[1]["thoughtSignature"] == "c2ln"


def test_a_call_of_another_model_is_marked_where_signatures_are_demanded() -> None:
    calls = Message(Role.ASSISTANT, (CALL, msgspec.structs.replace(CALL, id="call_2")))

    new, old = contents(ASK, calls, aim=NEW)[1]["parts"], contents(ASK, calls, aim=OLD)[1]["parts"]

    assert [part.get("thoughtSignature") for part in new] == [UNSIGNED, None]
    assert [part.get("thoughtSignature") for part in old] == [None, None]


def test_another_vendors_thought_stays_away() -> None:
    thought = Message(Role.ASSISTANT, (Reasoning("Hm.", "sig", "anthropic"), Text("Yes.")))

    assert contents(ASK, thought)[1]["parts"] == [{"text": "Yes."}]


# --- wishes


@pytest.mark.parametrize(
    ("aim", "wish", "config"),
    [
        (OLD, ReasoningWish(budget_tokens=2_000), {"thinkingBudget": 2_000, "includeThoughts": True}),
        (OLD, ReasoningWish(effort="low"), {"thinkingBudget": 13_107, "includeThoughts": True}),
        (OLD, ReasoningWish(effort="none"), {"thinkingBudget": 0}),
        (NEW, ReasoningWish(effort="high", visible=False), {"thinkingLevel": "high", "includeThoughts": False}),
        (NEW, ReasoningWish(budget_tokens=500), {"thinkingLevel": "low", "includeThoughts": True}),
    ],
)
def test_thinking_is_a_budget_for_older_models_and_a_level_for_newer(
    aim: Aim, wish: ReasoningWish, config: Any
) -> None:
    assert encoded(aim=aim, reasoning=wish).fields["generationConfig"]["thinkingConfig"] == config


def test_what_the_wire_has_no_place_for_is_named() -> None:
    wishes = encoded(
        sampling=Sampling(min_p=0.1, repetition_penalty=1.1, stop=tuple("abcdef")),
        tools=(msgspec.structs.replace(TOOL, strict=True),),
        parallel_tool_calls=False,
        logprobs=True,
        verbosity="low",
        extras={"made_up": Raw(b"1")},
    )

    assert wishes.dropped == (
        *("logprobs", "made_up", "min_p", "parallel_tool_calls", "repetition_penalty", "stop", "tools.strict"),
        "verbosity",
    )


def test_a_native_wish_goes_on_beside_what_was_translated() -> None:
    extras = {"safetySettings": Raw(b"[]"), "generationConfig": Raw(b'{"mediaResolution":"LOW","temperature":9}')}

    fields = encoded(sampling=Sampling(temperature=0.5), extras=extras).fields

    assert fields["safetySettings"] == Raw(b"[]")
    assert fields["generationConfig"] == {"mediaResolution": "LOW", "temperature": 0.5}


def test_a_named_tool_is_the_only_one_allowed() -> None:
    fields = encoded(tools=(TOOL,), tool_choice=ToolChoice("tool", "weather")).fields

    config = {"mode": "ANY", "allowedFunctionNames": ["weather"]}
    assert fields["toolConfig"] == {"functionCallingConfig": config}


@pytest.mark.parametrize(
    ("media", "taken"),
    [
        (Media(MediaKind.VIDEO, url="https://www.youtube.com/watch?v=x"), True),
        (Media(MediaKind.FILE, url="gs://bucket/a.pdf"), True),
        (Media(MediaKind.VIDEO, url="https://example.com/a.mp4"), False),
        (Media(MediaKind.FILE, file_id="file_1"), False),
    ],
)
def test_only_what_the_vendor_can_read_goes_by_address(media: Media, taken: bool) -> None:
    got = encoded(Message(Role.USER, (media, Text("?"))))

    assert (got.dropped == ()) is taken
    assert len(got.fields["contents"][0]["parts"]) == 1 + taken


# --- paths


def test_a_path_names_model_and_method() -> None:
    path = GEMINI.path

    assert path(Operation.CHAT, "gemini-2.5-pro", stream=False) == "/models/gemini-2.5-pro:generateContent"
    assert path(Operation.CHAT, "a b?c", stream=True) == "/models/a%20b%3Fc:streamGenerateContent?alt=sse"
    assert path(Operation.CHAT, "tunedModels/x", stream=False) == "/tunedModels/x:generateContent"
    assert path(Operation.EMBEDDINGS, "e", stream=False) == "/models/e:batchEmbedContents"


# --- embeddings


def test_all_texts_are_embedded_in_one_call() -> None:
    assert GEMINI.embedding_target is not None
    extras = {"task_type": Raw(b'"RETRIEVAL_QUERY"'), "x": Raw(b"1")}

    got = GEMINI.embedding_target.encode_request(EmbeddingRequest(("one", "two"), 64, extras=extras), OLD)

    first = got.fields["requests"][0]
    assert len(got.fields["requests"]) == 2
    assert first["model"] == "models/gemini-2.5-flash"
    assert first["content"] == {"parts": [{"text": "one"}]}
    assert (first["outputDimensionality"], first["taskType"]) == (64, Raw(b'"RETRIEVAL_QUERY"'))
    assert got.dropped == ("x",)


def test_vectors_come_in_order_and_anything_else_is_no_answer() -> None:
    assert GEMINI.embedding_target is not None
    body = b'{"embeddings":[{"values":[1,2]},{"values":[3,4]}]}'

    assert GEMINI.embedding_target.decode_answer(body).vectors == ((1.0, 2.0), (3.0, 4.0))
    judged = GEMINI.read_reply(Operation.EMBEDDINGS, "application/json", b'{"embeddings":[{"values":["x"]}]}')
    assert getattr(judged, "kind", None) is FailureKind.BAD_CONTENT_TYPE


# --- errors


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"status": "INVALID_ARGUMENT"}, FailureKind.REJECTED),
        (400, {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}, FailureKind.AUTH_FAILED),
        (403, {"status": "PERMISSION_DENIED"}, FailureKind.AUTH_FAILED),
        (404, {"status": "NOT_FOUND"}, FailureKind.REJECTED),
        (429, {"status": "RESOURCE_EXHAUSTED"}, FailureKind.RATE_LIMITED),
        (500, {"status": "INTERNAL"}, FailureKind.SERVER_ERROR),
        (503, {"status": "UNAVAILABLE"}, FailureKind.OVERLOADED),
    ],
)
def test_errors_are_classed_by_status_and_reason(status: int, error: dict[str, Any], kind: FailureKind) -> None:
    body = jsonx.encode([{"error": {"code": status, "message": "no", **error}}])

    assert GEMINI.classify(status, {}, body).kind is kind


def test_the_vendors_own_delay_is_heard() -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}
    body = jsonx.encode({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [retry]}})

    assert GEMINI.classify(429, {}, body).retry_after_s == 17.0
