"""Answers that are odd and are answers all the same: served whole, charged once. Numbers as in test_fault_table.py."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import UP_COST, chunk, completion
from tests.support.gateway import HELLO, config, running
from tests.support.upstream import DONE, Behaviour, Hangup, Json, Ok, ScriptedUpstream, Stream, sse, usage_of


@dataclass(frozen=True)
class Oddity:
    """What the provider sends, and what of it the books say."""

    name: str
    play: Behaviour
    stream: bool
    usage: tuple[int, int] | None = (7, 3)
    """Prompt and completion that are charged; None: an estimate."""
    flags: tuple[str, ...] = ()
    text: str = "Hello"


def told(*, usage: list[Any], done: bytes = DONE) -> Stream:
    """ "Hello" in two events, each of them with one of the usages."""
    frames = [sse(chunk("Hel", usage=usage[0])), sse(chunk("lo", usage=usage[1])), sse(chunk(None, "stop"))]
    return Stream(frames=[*frames, *[sse({"choices": [], "usage": one}) for one in usage[2:]], done])


BAD_USAGES = {
    "negative": {"prompt_tokens": -7, "completion_tokens": 3},
    "float": {"prompt_tokens": 7.5, "completion_tokens": 3},
    "text": {"prompt_tokens": "7", "completion_tokens": 3},
    "astronomic": {"prompt_tokens": 7, "completion_tokens": 1e308},
    "beyond_any_number": {"prompt_tokens": 7, "completion_tokens": 10**30},
}

ODDITIES = (
    Oddity("15_no_done", Stream(done=False), True, flags=("missing_done",)),
    Oddity("15_no_done_and_no_chunked_end", Stream(done=False, stop_after=5), True, flags=("missing_done",)),
    Oddity("38_json_for_a_stream", Json(completion(usage_of(7, 3))), True, flags=("coerced",)),
    Oddity(
        "45_two_dones_and_more",
        Stream(
            frames=[
                sse(chunk("Hello")),
                sse(chunk(None, "stop")),
                sse({"choices": [], "usage": usage_of(7, 3)}),
                DONE,
                DONE,
                sse(chunk("never")),
            ]
        ),
        True,
    ),
    Oddity("46_no_usage", Json(completion()), False, usage=None),
    Oddity("46_no_usage", Stream(usage=None), True, usage=None),
    Oddity("47_zero_usage", Json(completion(usage_of(0, 0))), False, usage=(0, 0), flags=("anomaly",)),
    Oddity("47_zero_usage", Stream(usage=(0, 0)), True, usage=(0, 0), flags=("anomaly",)),
    *(
        Oddity(f"48_{name}_usage", Json(completion(bad)), False, usage=None, flags=("anomaly",))
        for name, bad in BAD_USAGES.items()
    ),
    *(
        Oddity(f"48_{name}_usage", told(usage=[None, None, bad]), True, usage=None, flags=("anomaly",))
        for name, bad in BAD_USAGES.items()
    ),
    Oddity("49_usage_grows", told(usage=[usage_of(7, 1), usage_of(7, 2), usage_of(7, 3)]), True),
    Oddity("49_usage_repeats", told(usage=[usage_of(7, 3), usage_of(7, 3), usage_of(7, 3)]), True),
    Oddity("49_usage_vanishes", told(usage=[usage_of(7, 3), None, {}]), True),
    Oddity("51_another_model", Json(completion(usage_of(7, 3), model="cheaper-one")), False),
    Oddity(
        "51_another_model",
        Stream(
            frames=[
                sse(chunk("Hello") | {"model": "cheaper-one"}),
                sse(chunk(None, "stop", usage=usage_of(7, 3))),
                DONE,
            ]
        ),
        True,
    ),
)


@pytest.mark.parametrize(
    "odd", [pytest.param(odd, id=f"{odd.name}-{'streamed' if odd.stream else 'buffered'}") for odd in ODDITIES]
)
async def test_odd_answer_is_served_whole_and_charged_once(tmp_path: Path, odd: Oddity) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = odd.play

        reply = await gw.chat(stream=odd.stream)

        assert (reply.status, reply.text) == (200, odd.text)
        if odd.stream:
            assert reply.stream_error is None
        row = await gw.settled()
        assert (row.outcome, row.http_status, row.flags) == ("ok", 200, odd.flags)
        assert len(up.requests) == len(row.attempts) == 1
        assert row.usage is not None
        if odd.usage is None:
            assert row.usage_source == "estimated"
            assert row.usage.out_text == 2  # "Hello": five bytes, four to a token.
            assert 0 < row.cost_nano <= row.held_nano
        else:
            assert row.usage_source == "provider"
            assert (row.usage.input_tokens, row.usage.output_tokens) == odd.usage
            assert row.cost_nano == odd.usage[0] * 1_000 + odd.usage[1] * 2_000
        if odd.name.startswith("51"):
            assert row.served_model == "cheaper-one"
        assert await gw.spent() == row.cost_nano
        await gw.assert_books_are_clean()


async def test_connection_that_closed_while_idle_is_replaced_without_a_trace(tmp_path: Path) -> None:  # 14
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(Ok(), Hangup())
        await gw.chat()
        reply = await gw.chat()
        assert (reply.status, reply.headers["x-routerx-attempts"]) == (200, "1")
        assert len(up.requests) == 3
        assert await gw.spent() == 2 * UP_COST


async def test_stream_cut_anywhere_gives_the_same_bytes(tmp_path: Path) -> None:  # 42
    text = "añb—🙂c"
    frames = [sse(chunk(text)), b": note\n\n", b"data: " + json.dumps(chunk("x")).encode() + b"\r\n\r\n"]
    frames += [sse(chunk(None, "stop")), DONE]
    plain = Stream(frames=frames)
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = plain
        whole = await gw.chat(stream=True)
        assert whole.body == b"".join(frames)
        up.default = replace(plain, cut=1)
        assert (await gw.chat(stream=True)).body == whole.body


FEED = [sse(chunk("Hel")), sse(chunk("lo")), sse(chunk(None, "stop")), sse(chunk(None, usage=usage_of(7, 3))), DONE]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_event_of_several_lines_is_one_event_wherever_it_is_cut(tmp_path: Path, end: bytes) -> None:  # 42
    lines = [frame.replace(b'"choices":', b'"choices":\ndata: ').replace(b"\n", end) for frame in FEED]
    plain = Stream(frames=lines)
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        bodies = []
        for behaviour in (plain, replace(plain, cut=1)):
            up.default = behaviour
            reply = await gw.chat(stream=True)
            assert reply.body.startswith(b"".join(lines[:3]))
            bodies.append(reply.body)
            row = await gw.settled()
            assert (row.outcome, row.usage_source, row.cost_nano) == ("ok", "provider", UP_COST)
        assert bodies[0] == bodies[1]


async def test_request_body_reaches_the_provider_with_one_model_and_nothing_lost(tmp_path: Path) -> None:  # 66
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        body = json.dumps({"model": "nobody", "messages": HELLO, "odd": 1.0}).encode()[:-1] + b',"model":"solo"}'
        reply = await gw.ask("POST", "/v1/chat/completions", body)
        assert reply.status == 200
        assert up.requests[0].json == {"model": "solo", "messages": HELLO, "odd": 1.0}
        assert b'"odd":1.0' in up.requests[0].body.replace(b" ", b"")
