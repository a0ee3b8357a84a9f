"""Whole chat answers: a canonical one as callers get it, a provider's as the canonical one."""

import json
from typing import Any

import pytest

from routerx.dialects.base import Asked
from routerx.dialects.openai_chat import OPENAI
from routerx.domain.chat import (
    Answer,
    ChatRequest,
    Choice,
    Citation,
    Finish,
    Media,
    MediaKind,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
)
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

ASKED = Asked(request=ChatRequest(messages=()), model="asked-for", request_id="req_1", created_s=1_700_000_000)


def told(*parts: Part, finish: Finish | None = Finish.STOP, **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    body, dropped = OPENAI.source.encode_answer(Answer((Choice(parts, finish),), **more), ASKED)
    return json.loads(body), dropped


def message(*parts: Part) -> dict[str, Any]:
    found: dict[str, Any] = told(*parts)[0]["choices"][0]["message"]
    return found


def heard(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> Answer:
    body = {"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}
    return OPENAI.target.decode_answer(json.dumps(body).encode(), "seed")


def parts(message: dict[str, Any]) -> tuple[Part, ...]:
    return heard(message).choices[0].parts


# --- to callers


def test_an_answer_has_the_fields_that_clients_demand() -> None:
    assert told(Text("Hi"), usage=Usage(in_fresh=3, out_text=1))[0] == {
        "id": "chatcmpl-req_1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "asked-for",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 1,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }


def test_what_the_provider_calls_itself_and_its_answer_is_kept() -> None:
    body, _ = told(Text("Hi"), id="msg_1", model="claude")
    assert (body["id"], body["model"]) == ("msg_1", "claude")
    assert "usage" not in body


@pytest.mark.parametrize(
    ("finish", "word"),
    [
        (Finish.STOP, "stop"),
        (Finish.LENGTH, "length"),
        (Finish.TOOL_CALLS, "tool_calls"),
        (Finish.CONTENT_FILTER, "content_filter"),
        (Finish.OTHER, "stop"),
        (None, "stop"),
    ],
)
def test_ends_are_told_in_words_that_clients_know(finish: Finish | None, word: str) -> None:
    assert told(Text("x"), finish=finish)[0]["choices"][0]["finish_reason"] == word


def test_usage_is_told_with_its_parts_inside_the_totals() -> None:
    usage = Usage(
        in_fresh=1, in_cache_read=2, in_cache_write_5m=4, in_cache_write_1h=8, in_audio=16, out_text=1, out_reasoning=2
    )
    assert told(Text("x"), usage=usage)[0]["usage"] == {
        "prompt_tokens": 31,
        "completion_tokens": 3,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 16, "cache_write_tokens": 12},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
    }


def test_thoughts_are_told_with_what_has_to_come_back() -> None:
    said = message(Reasoning("Hm.", "sig", "anthropic"), Text("Yes"))
    assert said["reasoning_content"] == "Hm."
    assert said["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm.", "signature": "sig", "format": "anthropic-claude-v1", "index": 0}
    ]


def test_thoughts_that_nobody_signed_need_no_details() -> None:
    assert "reasoning_details" not in message(Reasoning("Hm."), Text("Yes"))


def test_a_call_carries_its_signature_twice() -> None:
    call = message(ToolCall("a", "f", "{}", "sig", "gemini"))["tool_calls"][0]
    assert call["extra_content"] == {"google": {"thought_signature": "sig"}}
    assert call["id"] == "a--rx1-gemini-c2ln"


def test_a_refusal_leaves_the_content_empty() -> None:
    assert (message(Refusal("No."))["refusal"], message(Refusal("No."))["content"]) == ("No.", None)


def test_sources_are_annotations() -> None:
    assert message(Text("x", citations=(Citation("https://x.example", "X", "so"),)))["annotations"] == [
        {
            "type": "url_citation",
            "url_citation": {
                "url": "https://x.example",
                "title": "X",
                "start_index": 0,
                "end_index": 0,
                "content": "so",
            },
        }
    ]


def test_pictures_are_told_by_the_fields_convention() -> None:
    assert message(Media(MediaKind.IMAGE, mime="image/png", data="AAAA"))["images"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    ]


def test_what_cannot_be_said_is_reported() -> None:
    sound = Media(MediaKind.AUDIO, mime="audio/wav", data="AAAA")
    assert told(Text("x"), sound, Opaque("anthropic", "server_tool_use", Raw(b"{}")))[1] == (
        "audio",
        "server_tool_use",
    )


def test_every_choice_is_told() -> None:
    answer = Answer((Choice((Text("a"),), Finish.STOP), Choice((Text("b"),), Finish.LENGTH, "max_tokens")))
    choices = json.loads(OPENAI.source.encode_answer(answer, ASKED)[0])["choices"]
    assert [(one["index"], one["message"]["content"], one["finish_reason"]) for one in choices] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
    assert choices[1]["native_finish_reason"] == "max_tokens"


# --- from providers


def test_content_may_be_a_list_that_holds_thoughts() -> None:
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Yes"},
    ]
    assert parts({"content": content}) == (Reasoning("Hm."), Text("Yes"))


def test_content_of_a_kind_that_nobody_knows_is_opaque() -> None:
    reference = {"type": "reference", "reference_ids": [1]}
    assert parts({"content": [{"type": "text", "text": "Yes"}, reference]}) == (
        Text("Yes"),
        Opaque("openai", "reference", Raw(b'{"type":"reference","reference_ids":[1]}')),
    )


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_thoughts_have_two_names(key: str) -> None:
    assert parts({"content": "Yes", key: "Hm."}) == (Reasoning("Hm."), Text("Yes"))


def test_thoughts_under_both_names_are_told_once() -> None:
    assert parts({"content": "Yes", "reasoning": "Hm.", "reasoning_content": "Hm."})[0] == Reasoning("Hm.")


def test_thoughts_of_several_signatures_stay_apart() -> None:
    details = [
        {"type": "reasoning.text", "text": "A", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "t", "format": "anthropic-claude-v1", "index": 1},
        {"type": "reasoning.text", "text": "B", "signature": "u", "format": "anthropic-claude-v1", "index": 2},
    ]
    assert parts({"content": "Yes", "reasoning": "A\nB", "reasoning_details": details}) == (
        Reasoning("A", "s", "anthropic"),
        Reasoning("", "t", "anthropic", redacted=True),
        Reasoning("B", "u", "anthropic"),
        Text("Yes"),
    )


@pytest.mark.parametrize("arguments", ["", "null", None, " "])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": arguments}}]
    assert heard({"content": None, "tool_calls": calls}, "tool_calls").choices == (
        Choice((ToolCall("a", "f", "{}"),), Finish.TOOL_CALLS, "tool_calls"),
    )


def test_arguments_may_be_an_object() -> None:
    assert parts({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]}) == (
        ToolCall("a", "f", '{"x":1}'),
    )


@pytest.mark.parametrize("extra", [{}, {"index": 0}, {"id": "same"}])
def test_every_call_of_a_whole_answer_is_its_own(extra: dict[str, Any]) -> None:
    calls = [{**extra, "function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
    first, second = parts({"tool_calls": calls})
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert (first.name, second.name) == ("f", "g")
    assert first.id != second.id


@pytest.mark.parametrize("text", ["", "null", "ls"])
def test_free_text_of_a_custom_call_is_left_alone(text: str) -> None:
    calls = [{"id": "a", "type": "custom", "custom": {"name": "shell", "input": text}}]
    assert parts({"tool_calls": calls}) == (ToolCall("a", "shell", text, custom=True),)


def test_a_call_that_ends_with_a_plain_stop_is_still_a_call() -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]
    choice = heard({"tool_calls": calls}, "stop").choices[0]
    assert (choice.finish, choice.native_finish) == (Finish.TOOL_CALLS, "stop")


def test_a_function_call_of_old_is_a_call() -> None:
    assert parts({"content": None, "function_call": {"name": "f", "arguments": "{}"}}) == (ToolCall("call_f", "f"),)


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("stop", Finish.STOP),
        ("eos", Finish.STOP),
        ("length", Finish.LENGTH),
        ("model_length", Finish.LENGTH),
        ("content_filter", Finish.CONTENT_FILTER),
        ("brand_new", Finish.OTHER),
        (None, Finish.STOP),
    ],
)
def test_ends_are_read(word: str | None, finish: Finish) -> None:
    assert heard({"content": "x"}, word).choices[0].finish is finish


@pytest.mark.parametrize("indexes", [(0, 1), (0, 0), (None, None)])
def test_every_choice_is_read_whatever_its_index(indexes: tuple[Any, Any]) -> None:
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": "stop"}
        for index, text in zip(indexes, "ab", strict=True)
    ]
    answer = OPENAI.target.decode_answer(json.dumps({"choices": choices}).encode(), "s")
    assert [choice.parts for choice in answer.choices] == [(Text("a"),), (Text("b"),)]


def test_pictures_sources_and_refusals_are_read() -> None:
    message = {
        "content": "See",
        "refusal": "But no.",
        "annotations": [{"type": "url_citation", "url_citation": {"url": "https://x.example", "title": "X"}}],
        "images": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image_url", "image_url": {"url": "javascript:x"}},
        ],
        "audio": {"id": "audio_1", "data": "AAAA"},
    }
    assert parts(message) == (
        Text("See"),
        Refusal("But no."),
        Text("", citations=(Citation("https://x.example", "X"),)),
        Media(MediaKind.IMAGE, mime="image/png", data="AAAA"),
        Opaque("openai", "audio", Raw(b'{"id":"audio_1","data":"AAAA"}')),
    )


def test_usage_in_a_vendors_own_wrapper_is_read() -> None:
    answer = heard({"content": "x"}, x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 1}})
    assert answer.usage == Usage(in_fresh=3, out_text=1)


def test_halves_of_characters_are_replaced() -> None:
    body = b'{"choices":[{"message":{"content":"\\ud83d"},"finish_reason":"stop"}]}'
    assert OPENAI.target.decode_answer(body, "s").choices[0].parts == (Text("\ufffd"),)
