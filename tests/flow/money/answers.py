"""Rows A to C and I: answers that became whole, whatever the provider said of them."""

from typing import Any

from tests.flow.flow_kit import chunk, completion
from tests.flow.money.kit import (
    OUTPUT_MAX,
    REPORTED,
    UP,
    ByCell,
    Cell,
    Expect,
    Held,
    Row,
    answers,
    both,
    opened_with,
    planned,
    priced,
)
from tests.flow.money.oracle import Terms, Used, owed_nano
from tests.support.behaviours import Peer
from tests.support.gateway import USD, Config
from tests.support.upstream import DONE, Json, Ok, Stream, sse, usage_of


class Reports:
    """An answer, whole or streamed as it is asked for, with this report of its usage; without one where it is None."""

    def __init__(self, usage: Any, text: str | None = "Hello", refusal: str | None = None) -> None:
        self._usage = usage
        self._said = {"content": text} if refusal is None else {"content": None, "refusal": refusal}

    async def play(self, peer: Peer) -> None:
        reported = {} if self._usage is None else {"usage": self._usage}
        if peer.request.json.get("stream"):
            told = {**chunk(), "choices": [{"index": 0, "delta": self._said, "finish_reason": None}]}
            events = [told, chunk(None, "stop"), *([chunk() | {"choices": []} | reported] if reported else [])]
            await Stream(frames=[*map(sse, events), DONE]).play(peer)
            return
        body = completion()
        body["choices"][0]["message"] |= self._said
        await Json(body | reported).play(peer)


ANOMALY = frozenset({"anomaly"})


# --- complete, and the provider has said what was used: A


CACHED = usage_of(1_000, 10) | {"prompt_tokens_details": {"cached_tokens": 600}}
THOUGHT = usage_of(10, 50) | {"completion_tokens_details": {"reasoning_tokens": 40}}
HEARD = usage_of(100, 20) | {
    "prompt_tokens_details": {"audio_tokens": 30},
    "completion_tokens_details": {"audio_tokens": 8},
}
FINE = {"input": "0.0004", "output": "0.0004"}
LONG = {"input": 1, "output": 2, "long": {"above": 900, "input": "3.1", "output": 7}}
WRITES = {"input": 3, "output": 15, "cached_input": "0.3", "cache_write_5m": "3.75", "cache_write_1h": 6}
EXACT = {"per": "1k", "input": "0.000333", "output": "0.000777", "request": "0.000000001"}


class Message:
    """An answer in Anthropic's form that has read from its cache, and written to both of its kinds."""

    usage: dict[str, Any]

    def __init__(self) -> None:
        self.usage = {
            "input_tokens": 11,
            "cache_read_input_tokens": 500,
            "cache_creation_input_tokens": 300,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 7,
        }

    async def play(self, peer: Peer) -> None:
        message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
        whole = message | {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn"}
        if not peer.request.json.get("stream"):
            await Json(whole | {"usage": self.usage}).play(peer)
            return
        first = message | {"content": [], "stop_reason": None, "usage": self.usage | {"output_tokens": 1}}
        ended = {"stop_reason": "end_turn", "stop_sequence": None}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": first},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
        ]
        await Stream(frames=[b"event: %b\n" % one["type"].encode() + sse(one) for one in events]).play(peer)


WRITTEN = Used(in_fresh=11, in_cache_read=500, in_cache_write_5m=200, in_cache_write_1h=100, out_text=7)


def _speaks_anthropic(value: Config) -> None:
    value["providers"]["up"]["dialect"] = "anthropic"
    priced(**WRITES)(value)


TOO_MUCH = usage_of(50_000, 3)
"""$0.05003 at `up`."""
POOR = "$0.01"
OVERRUN = owed_nano(Used(in_fresh=50_000, out_text=3), Terms(UP)) - USD // 100

COMPLETE = (
    Row("A", "plain", answers(Ok()), Expect()),
    Row("A", "one_prompt_token", answers(Reports(usage_of(1, 0))), Expect(Used(in_fresh=1), flags=ANOMALY)),
    Row("A", "large", answers(Reports(usage_of(123_457, 7_919))), Expect(Used(in_fresh=123_457, out_text=7_919))),
    Row(
        "A",
        "read_from_a_cache",
        answers(Reports(CACHED)),
        Expect(Used(in_fresh=400, in_cache_read=600, out_text=10), terms=Terms(UP | {"cached_input": "0.1"})),
        priced(**UP, cached_input="0.1"),
    ),
    Row(
        "A",
        "read_from_a_cache_without_a_price_of_its_own",
        answers(Reports(CACHED)),
        Expect(Used(in_fresh=400, in_cache_read=600, out_text=10)),
    ),
    Row(
        "A",
        "written_to_caches",
        answers(Message()),
        Expect(WRITTEN, terms=Terms(WRITES), held_by=Terms(WRITES | {"input": WRITES["cache_write_1h"]})),
        _speaks_anthropic,
    ),
    Row(
        "A",
        "reasoning",
        answers(Reports(THOUGHT)),
        Expect(
            Used(in_fresh=10, out_text=10, out_reasoning=40),
            terms=Terms(UP | {"reasoning": "3.5"}),
            held_by=Terms(UP | {"output": "3.5"}),
        ),
        priced(**UP, reasoning="3.5"),
    ),
    Row(
        "A",
        "sound",
        answers(Reports(HEARD)),
        Expect(
            Used(in_fresh=70, in_audio=30, out_text=12, out_audio=8),
            terms=Terms(UP | {"audio_input": 40, "audio_output": 80}),
        ),
        priced(**UP, audio_input=40, audio_output=80),
    ),
    Row(
        "A",
        "rounded_up_once",
        answers(Reports(usage_of(2, 1))),
        Expect(Used(in_fresh=2, out_text=1), terms=Terms(FINE)),
        priced(**FINE),
    ),
    Row(
        "A",
        "long_input_at_its_own_prices",
        answers(Reports(usage_of(901, 10))),
        Expect(Used(in_fresh=901, out_text=10), terms=Terms(LONG)),
        priced(**LONG),
    ),
    Row(
        "A",
        "input_that_is_just_not_long",
        answers(Reports(usage_of(900, 10))),
        Expect(Used(in_fresh=900, out_text=10), terms=Terms(LONG)),
        priced(**LONG),
    ),
    Row(
        "A",
        "a_price_per_request_beside_tokens_by_the_thousand",
        answers(Ok()),
        Expect(REPORTED, terms=Terms(EXACT)),
        priced(**EXACT),
    ),
    Row(
        "A",
        "markup",
        answers(Reports(usage_of(700, 1))),
        Expect(Used(in_fresh=700, out_text=1), terms=Terms(FINE, markup="12.5%")),
        both(priced(**FINE), planned(markup="12.5%")),
    ),
    Row(
        "A",
        "more_than_was_held_and_than_is_there",
        answers(Reports(TOO_MUCH)),
        Expect(Used(in_fresh=50_000, out_text=3), written_off=OVERRUN, flags=frozenset({"overrun"})),
        opened_with(POOR),
    ),
    Row(
        "A",
        "into_debt",
        answers(Ok()),
        Expect(REPORTED, kinds=("charge",)),
        both(planned(billing="postpaid"), opened_with("$0")),
    ),
    Row(
        "A",
        "not_billed_at_all",
        answers(Ok()),
        Expect(billing="off", held=Held.NOTHING),
        both(planned(billing="off"), opened_with("$0")),
    ),
)

# --- complete, and it has not, or nothing that can be true: B, C, I


def estimated(text: str, **more: Any) -> ByCell:
    return lambda cell: Expect(cell.answered(len(text.encode())), source="estimated", **more)


def at_most_held(**more: Any) -> ByCell:
    """Of a long text. Twice the likely prompt and 20 tokens were held; output is cut down to what that pays for."""

    def expect(cell: Cell) -> Expect:
        likely = cell.prompt.in_fresh
        most = 2 * likely * UP["input"] + OUTPUT_MAX * UP["output"]
        used = Used(in_fresh=likely, out_text=(most - likely * UP["input"]) // UP["output"])
        return Expect(used, source="estimated", **more)

    return expect


LONG_TEXT = "x" * 4_000

GUESSED = (
    Row("B", "missing", answers(Reports(None, "ö" * 7)), estimated("ö" * 7)),
    Row("B", "without_counts", answers(Reports({})), estimated("Hello")),
    Row("B", "negative", answers(Reports(usage_of(-7, 3))), estimated("Hello", flags=ANOMALY)),
    Row(
        "B",
        "no_numbers",
        answers(Reports({"prompt_tokens": "7", "completion_tokens": True})),
        estimated("Hello", flags=ANOMALY),
    ),
    Row("B", "absurd", answers(Reports(usage_of(7, 10**9), LONG_TEXT)), at_most_held(flags=ANOMALY)),
    Row("B", "never_above_the_hold", answers(Reports(None, LONG_TEXT)), at_most_held()),
    Row("C", "zero", answers(Reports(usage_of(0, 0))), Expect(Used(), flags=ANOMALY)),
    Row(
        "C",
        "zero_beside_a_price_per_request",
        answers(Reports(usage_of(0, 0))),
        Expect(Used(), terms=Terms(UP | {"request": "0.003"}), flags=ANOMALY),
        priced(**UP, request="0.003"),
    ),
    Row("I", "length", answers(Ok(finish="length")), Expect()),
    Row("I", "content_filter", answers(Ok(finish="content_filter")), Expect()),
    Row("I", "refusal", answers(Reports(usage_of(7, 3), refusal="No.")), Expect()),
)

ROWS = (*COMPLETE, *GUESSED)
