"""Recorded provider traffic: where it lies, what is in a recording, and ways to cut it.

The recordings lie beside the repository, not in it (their licences and size are their own): `../shared/traffic`, or
where ROUTERX_TRAFFIC says. Tests that need them carry `needs_traffic` and are skipped without. What a recording says of
itself (`expected`) was computed by its makers' own parser, apart from any code of this repository.
"""

import json
import os
import random
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from routerx.domain.call import Operation

ENVIRONMENT = "ROUTERX_TRAFFIC"
TRAFFIC = Path(os.environ.get(ENVIRONMENT) or Path(__file__).resolve().parents[2].parent / "shared" / "traffic")
INDEX = TRAFFIC / "fixtures" / "index.jsonl"
OPERATIONS = {"openai.chat": Operation.CHAT, "openai.embeddings": Operation.EMBEDDINGS}
"""The recorded interfaces that speak the OpenAI dialect."""

needs_traffic = pytest.mark.skipif(
    not INDEX.is_file(),
    reason=f"recorded provider traffic is not here (set {ENVIRONMENT} to its folder)",
)

Fixture = dict[str, Any]


@cache
def recordings() -> tuple[Fixture, ...]:
    """Every usable recording of the OpenAI dialect, in the order of the index; none where there is no traffic."""
    return tuple(
        json.loads((TRAFFIC / "fixtures" / entry["file"]).read_text())
        for entry in _entries()
        if entry["api"] in OPERATIONS and not entry["unusable"]
    )


@cache
def curated() -> tuple[Fixture, ...]:
    """The recordings of the diverse subset that the collection names."""
    if not INDEX.is_file():
        return ()
    files = set((TRAFFIC / "fixtures" / "curated.txt").read_text().split())
    ids = {entry["id"] for entry in _entries() if entry["file"] in files}
    return tuple(fixture for fixture in recordings() if fixture["id"] in ids)


@cache
def _entries() -> tuple[Fixture, ...]:
    if not INDEX.is_file():
        return ()
    return tuple(json.loads(line) for line in INDEX.read_text().splitlines())


def says_nothing(fixture: Fixture) -> bool:
    """Row Y of MONEY.md: whole, at its end, and empty; a call of the provider's own tools is something."""
    if "a:empty" not in fixture["tags"]:
        return False
    expected = fixture["expected"]
    return (
        expected["finish"] == "stop" and not expected["server_tools"] and {"text"}.issuperset(expected["block_types"])
    )


def is_stream(fixture: Fixture) -> bool:
    return "stream_bytes" in fixture


def body_of(fixture: Fixture) -> bytes:
    """The recorded answer, stream or not."""
    if is_stream(fixture):
        return str(fixture["stream_bytes"]).encode()
    return (fixture.get("response_text") or json.dumps(fixture["response_body"])).encode()


# --- events


def frames(stream: bytes) -> list[bytes]:
    """All recorded streams of this wire end their events with two line feeds; the last may lack one."""
    pieces = stream.split(b"\n\n")
    return [piece + b"\n\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def is_usage_frame(frame: bytes) -> bool:
    """Whether it says what was used and nothing else."""
    try:
        value = json.loads(frame.removeprefix(b"data:"))
    except ValueError:
        return False
    return isinstance(value, dict) and not value.get("choices") and bool(value.get("usage"))


# --- cuts: sorted offsets inside a body, its ends left out


def event_cuts(stream: bytes) -> list[int]:
    """After every event."""
    cuts, at = [], 0
    for frame in frames(stream)[:-1]:
        at += len(frame)
        cuts.append(at)
    return cuts


def awkward_cuts(stream: bytes) -> list[int]:
    """Inside every prefix, end mark, line end and character."""
    cuts = set()
    for mark in (b"data: ", b"[DONE]", b"\n\n", b"finish_reason", b"usage"):
        at = stream.find(mark)
        while at >= 0:
            cuts |= {at + 1, at + len(mark) - 1}
            at = stream.find(mark, at + 1)
    cuts |= {place for place, byte in enumerate(stream) if byte & 0xC0 == 0x80}
    return sorted(cuts - {0, len(stream)})


def random_cuts(rng: random.Random, stream: bytes, count: int) -> list[int]:
    """At most `count`, anywhere."""
    return sorted({rng.randrange(1, len(stream)) for _ in range(count)}) if len(stream) > 1 else []


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The body cut at these offsets."""
    return [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]


@cache
def stored(api: str, *, stream: bool) -> Fixture:
    """The first usable recording of an interface, whatever dialect it is."""
    fixtures = (
        json.loads((TRAFFIC / "fixtures" / entry["file"]).read_text())
        for entry in _entries()
        if entry["api"] == api and not entry["unusable"]
    )
    return next(fixture for fixture in fixtures if is_stream(fixture) is stream)
