"""Streams of generateContent, as providers send them."""

import json
from typing import Any

import pytest

from routerx.dialects.base import Frame
from routerx.dialects.gemini import GEMINI
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.events import Event, Reported
from routerx.domain.failure import FailureKind
from routerx.jsonx import encode

USAGE = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}


def told(*chunks: dict[str, Any]) -> list[Event]:
    decoder = GEMINI.target.decoder("seed")
    return [event for chunk in chunks for event in decoder.feed(Frame(1, json.dumps(chunk).encode()))]


def test_searches_that_are_told_after_the_last_count_are_counted() -> None:
    text = {"candidates": [{"content": {"parts": [{"text": "Hello"}]}}], "usageMetadata": USAGE}
    found = {"candidates": [{"finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["a", "b"]}}]}

    reports = [event for event in told(text, found) if isinstance(event, Reported)]

    assert reports[-1].usage is not None
    assert reports[-1].usage.searches == 2
    assert reports[-1].usage.total_tokens == 10


@pytest.mark.parametrize(
    "chunk",
    [
        {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]},
        {"promptFeedback": {"blockReason": "SAFETY"}},
    ],
)
def test_fewer_candidates_than_were_asked_for_are_an_answer(chunk: dict[str, object]) -> None:
    tap = EventTap(GEMINI.target.decoder("s"), FrameSplitter(), None, choices=2)
    tap.feed(b"data: " + encode(chunk) + b"\r\n\r\n")

    assert tap.close() is None


def test_a_candidate_that_began_and_did_not_finish_is_cut_short() -> None:
    tap = EventTap(GEMINI.target.decoder("s"), FrameSplitter(), None, choices=2)
    finished = {"index": 0, "content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}
    begun = {"index": 1, "content": {"parts": [{"text": "Ho"}]}}
    tap.feed(b"data: " + encode({"candidates": [finished, begun]}) + b"\r\n\r\n")

    failure = tap.close()
    assert failure is not None
    assert failure.kind is FailureKind.TRUNCATED
