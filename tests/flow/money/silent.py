"""Row Y, answers with nothing in them; and models that have no price."""

from dataclasses import replace
from typing import Any

from tests.flow.flow_kit import chunk, completion
from tests.flow.money.answers import Reports
from tests.flow.money.kit import (
    VOID,
    ByCell,
    Cell,
    Change,
    Expect,
    Held,
    Row,
    Scene,
    answers,
    both,
    only_chat,
    planned,
)
from tests.flow.money.oracle import Terms, Used
from tests.support.behaviours import Peer
from tests.support.gateway import Config
from tests.support.upstream import DONE, Json, Ok, Stream, sse, usage_of

SAID_NOTHING = Used(in_fresh=7, out_text=1)
"""Providers count the end of an answer."""
EMPTY = frozenset({"empty"})
USAGE = usage_of(7, 1)


class Says:
    """An answer whose message is made of these fields alone, whole or streamed as it is asked for."""

    def __init__(self, finish: str = "stop", **fields: Any) -> None:
        self._finish = finish
        self._fields = fields

    async def play(self, peer: Peer) -> None:
        if peer.request.json.get("stream"):
            told = {**chunk(), "choices": [{"index": 0, "delta": self._fields, "finish_reason": None}]}
            events = [told, chunk(None, self._finish), {**chunk(), "choices": [], "usage": USAGE}]
            await Stream(frames=[*map(sse, events), DONE]).play(peer)
            return
        body = completion(USAGE)
        message = {"role": "assistant", "content": None, **self._fields}
        body["choices"] = [{"index": 0, "message": message, "finish_reason": self._finish}]
        await Json(body).play(peer)


NOTHING = Says(content="")
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.test/1.png"}}
SEALED = {"type": "reasoning.encrypted", "data": "c2VhbGVk", "format": "openai-responses-v1", "index": 0}


def billed(how: str) -> Change:
    return planned(bill_empty=how)


def guessed(**more: Any) -> ByCell:
    """Nobody has said what was used: the prompt."""
    return lambda cell: Expect(replace(cell.prompt, requests=1), source="estimated", flags=EMPTY, **more)


BILLED = Expect(SAID_NOTHING)
NO_FIELD = "the wire has no place for a picture, and flags that"

EMPTIES = (
    Row("Y", "never_billed", answers(NOTHING), Expect(SAID_NOTHING, billing="void", flags=EMPTY)),
    Row("Y", "billed_for_the_prompt", answers(NOTHING), Expect(Used(in_fresh=7), flags=EMPTY), billed("input")),
    Row("Y", "billed_as_reported", answers(NOTHING), Expect(SAID_NOTHING, flags=EMPTY), billed("provider")),
    Row("Y", "never_billed_and_not_reported", answers(Reports(None, "")), guessed(billing="void")),
    Row("Y", "billed_for_the_prompt_and_not_reported", answers(Reports(None, "")), guessed(), billed("input")),
    Row("Y", "cut_by_its_length", answers(Says("length", content="")), BILLED),
    Row("Y", "filtered", answers(Says("content_filter", content="")), BILLED),
    Row("Y", "a_refusal_is_no_nothing", answers(Says(refusal="No.")), BILLED),
    Row("Y", "a_thought_is_no_nothing", answers(Says(content="", reasoning_content="Hm.")), BILLED),
    Row("Y", "a_picture_is_no_nothing", answers(Says(content="", images=[PICTURE])), only_chat(BILLED, NO_FIELD)),
    Row("Y", "a_sealed_thought_is_no_nothing", answers(Says(content="", reasoning_details=[SEALED])), BILLED),
    Row("Y", "a_call_is_no_nothing", answers(Says("tool_calls", tool_calls=[CALL])), BILLED),
    Row("Y", "white_space_is_no_nothing", answers(Says(content=" ")), BILLED),
)

# --- models without a price


STAND_IN = {"input": 5, "output": "9.5"}
UNPRICED = frozenset({"unpriced"})
NO_PRICE = {"input": 0, "output": 0}


def _unpriced(value: Config) -> None:
    del value["models"]["solo"]["endpoints"][0]["price"]


async def _refused(scene: Scene, cell: Cell) -> None:
    reply = await scene.ask(cell)
    assert (reply.status, reply.json["error"]["reason"]) == (403, "model_unpriced")
    assert scene.up.requests == []


WITHOUT = (
    Row(
        "A",
        "without_a_price_by_the_stand_in",
        answers(Ok()),
        Expect(terms=Terms(STAND_IN, markup="10%"), flags=UNPRICED),
        both(_unpriced, planned(on_unpriced="hold_estimate", unpriced_price=STAND_IN, markup="10%")),
    ),
    Row(
        "A",
        "with_a_price_and_a_stand_in",
        answers(Ok()),
        Expect(),
        planned(on_unpriced="hold_estimate", unpriced_price=STAND_IN),
    ),
    Row(
        "A",
        "without_a_price_for_nothing",
        answers(Ok()),
        Expect(billing="free", held=Held.NOTHING, terms=Terms(NO_PRICE), flags=UNPRICED),
        both(_unpriced, planned(on_unpriced="allow_flagged")),
    ),
    Row("A", "without_a_price_not_at_all", _refused, replace(VOID, rows=0), _unpriced),
)

ROWS = (*EMPTIES, *WITHOUT)
