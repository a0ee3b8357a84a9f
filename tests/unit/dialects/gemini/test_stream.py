"""Streams of generateContent, as providers send them."""

import json
from typing import Any

from routerx.dialects.base import Frame
from routerx.dialects.gemini import GEMINI
from routerx.domain.events import Event, Reported

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
