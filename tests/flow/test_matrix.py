"""Every official client, unmodified, against every upstream wire: a table with no cell empty and none without a reason.

One gateway in the middle, fake providers behind it that share no code with it (tests/support/natives), and the vendors'
own clients before it. A cell holds where text, tool calls, parsed object, thoughts, finish and usage are what the fake
said, as the client reads them, buffered and streamed; where what the provider signed came back to it unchanged; where
the provider refused nothing; and where the ledger charged price × tokens. `pytest -s -k table` prints the table.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
import uvloop
from google import genai

from routerx.domain.model import EVERYTHING, Capability
from tests.support.gateway import KEY, TENANT, Config, Gateway, config, running, wait_for
from tests.support.natives import KEY as NATIVE_KEY
from tests.support.natives import Anthropic, Gemini, Native, Ollama, OpenAIChat, OpenAIResponses
from tests.support.natives.anthropic import COUNTED
from tests.support.natives.callers import CALLERS, OfficialCaller, Seen, Told, Trip
from tests.support.natives.script import (
    AFTERTHOUGHT,
    CALLS,
    HEIGHT,
    RESULTS,
    SCENARIOS,
    TEXT,
    THOUGHT,
    TRIP,
    WIDTH,
    Tokens,
    seen_text,
    told_text,
)

NATIVES: tuple[type[Native], ...] = (OpenAIChat, OpenAIResponses, Anthropic, Gemini, Ollama)
COLUMNS = ("text", "image", "image by URL", "tools", "schema", "reasoning")
BASES: Mapping[str, str] = {"openai": "/v1", "responses": "/v1", "anthropic": "/v1", "gemini": "/v1beta", "ollama": ""}

PRICE = {"input": 3, "cached_input": "0.5", "cache_write_5m": 5, "cache_write_1h": 13, "output": 7, "reasoning": 11}
"""USD per million tokens: a token in the wrong bucket shows."""

SUPPORTS = [str(one) for one in EVERYTHING - {Capability.ADAPTIVE_REASONING}]
"""Models with a budget to think by: they insist on getting their signed thoughts back."""


class Cell(NamedTuple):
    """One caller, upstream and column."""

    caller: str
    upstream: str
    column: str


# --- what cannot be, and why


class Word(NamedTuple):
    """A word on some cells; what is left empty means all."""

    text: str
    callers: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def fits(self, cell: Cell) -> bool:
        pairs = ((cell.caller, self.callers), (cell.upstream, self.upstreams), (cell.column, self.columns))
        return all(not some or one in some for one, some in pairs)


REASONS = (
    # Cells that cannot be.
    Word("its wire names uploads, not addresses", callers=("google-genai",), columns=("image by URL",)),
)
STRICT = Word(
    "`strict` of tools is left out, and said to be: this upstream's wire has no such promise",
    ("openai chat", "openai responses"),
    ("gemini", "ollama"),
    ("tools", "reasoning"),
)
NOTES = (
    # Cells that hold, but for what one of the two wires has no place for.
    Word("thoughts are counted, never told: this upstream's wire shows none", (), ("openai",), ("reasoning",)),
    Word("thoughts are told, and counted as output: this upstream counts no others", (), ("ollama",), ("reasoning",)),
    STRICT,
)


def words_on(cell: Cell, table: Iterable[Word]) -> list[str]:
    return [word.text for word in table if word.fits(cell)]


SIGNED: Mapping[str, tuple[str, ...]] = {
    "responses": ("reasoning",),
    "anthropic": ("reasoning",),
    "gemini": ("tools", "reasoning"),
}
"""Which upstreams sign what they say in the first turn of which scenarios."""


# --- what is to be seen


def expected(cell: Cell) -> list[tuple[str, str, tuple[Any, ...], str]]:
    """Text, thought, calls and finish of every turn."""
    match cell.column:
        case "text":
            return [(TEXT, "", (), "stop")]
        case "image" | "image by URL":
            return [(seen_text(WIDTH, HEIGHT), "", (), "stop")]
        case "schema":
            return [(json.dumps(TRIP, ensure_ascii=False), "", (), "stop")]
        case "tools":
            return [("", "", CALLS, "tools"), (told_text(RESULTS), "", (), "stop")]
        case _:
            shows = cell.upstream != "openai"
            thought, afterthought = (THOUGHT, AFTERTHOUGHT) if shows else ("", "")
            return [("", thought, CALLS[:1], "tools"), (told_text(RESULTS[:1]), afterthought, (), "stop")]


def owed_nano(tokens: Tokens) -> int:
    """By PRICE; a dollar for a million is 1,000 nano-USD for one."""
    return (
        tokens.fresh * 3_000
        + tokens.read * 500
        + tokens.write_5m * 5_000
        + tokens.write_1h * 13_000
        + tokens.text * 7_000
        + tokens.thought * 11_000
    )


def bare(told: Told | None) -> Told | None:
    """A number that is left out where it is zero says the same."""
    if told is None:
        return None
    return Told(told.prompt, told.output, told.read or 0, told.written or 0, told.thought or 0)


def complaints(cell: Cell, turns: list[Seen], caller: OfficialCaller, native: Native, sent_before: int) -> list[str]:
    """What a client saw that it should not have, or the other way round."""
    scenario = scenario_of(cell.column)
    found = []
    for place, (turn, wanted) in enumerate(zip(turns, expected(cell), strict=True)):
        got = (turn.text, turn.thought, turn.calls, turn.finish)
        if got != wanted:
            found.append(f"turn {place + 1}: {got} in place of {wanted}")
        usage = caller.told(native.tokens(scenario, place + 1))
        if bare(turn.usage) != bare(usage):
            found.append(f"turn {place + 1}: usage {turn.usage} in place of {usage}")
        if scenario == "schema" and turn.parsed not in (Trip(**TRIP), None):
            found.append(f"parsed as {turn.parsed}")
    sent = native.requests[sent_before:]
    signed = SIGNED.get(cell.upstream, ())
    if scenario in signed and not sent[-1].signatures:
        found.append("the signature of the first turn did not come back in the second")
    return found


def scenario_of(column: str) -> str:
    return "image" if column.startswith("image") else column


# --- playing


def staged(natives: Mapping[str, Native]) -> Config:
    """Each fake is a provider, and each of its scenarios a model `<wire>-<scenario>`."""
    value = config("http://127.0.0.1:1")
    value["providers"], value["models"] = {}, {}
    for name, native in natives.items():
        provider = f"wire-{name}"  # No preset's name: it would bring another wire along.
        value["providers"][provider] = {"dialect": name, "base_url": native.url + BASES[name], "keys": [NATIVE_KEY]}
        for scenario in SCENARIOS:
            model = f"{name}-{scenario}"
            offer = {"provider": provider, "model": model, "price": PRICE, "supports": SUPPORTS}
            value["models"][model] = {"endpoints": [offer]}
    value["policies"]["default"] = {"retry": {"max": 0, "attempts": 1}}
    value["tenants"][TENANT]["opening_balance"] = "$1000000"
    value["server"]["egress"] = {"allow_hosts": [native.url.removeprefix("http://") for native in natives.values()]}
    return value


async def play(cell: Cell, stream: bool, caller: OfficialCaller, native: Native, gateway: Gateway) -> list[str]:
    """One cell, buffered or streamed; what is wrong with it."""
    sent_before, scenario = len(native.requests), scenario_of(cell.column)
    url = native.picture_url if cell.column == "image by URL" else None
    try:
        turns = await caller.play(scenario, f"{cell.upstream}-{scenario}", stream=stream, url=url)
        found = complaints(cell, turns, caller, native, sent_before)
    except Exception as error:  # Whatever a client makes of it belongs into the table.
        await wait_for(lambda: gateway.runtime.gateway.in_flight == 0)
        while not gateway.settles.empty():
            gateway.settles.get_nowait()
        refusals = [f"refused: {one.refusal}" for one in native.requests[sent_before:] if one.refusal is not None]
        return [f"{type(error).__name__}: {error}", *refusals]
    for place in range(len(turns)):
        record = await gateway.settled()
        owed = owed_nano(native.tokens(scenario, place + 1))
        if record.cost_nano != owed or record.usage_source != "provider":
            found.append(f"turn {place + 1}: {record.cost_nano} charged, {owed} owed: {record.usage}")
        if record.flags != (("dropped",) if STRICT.fits(cell) else ()):
            found.append(f"turn {place + 1}: flagged {record.flags}")
    return found


Table = dict[Cell, dict[str, list[str]]]


async def play_all(folder: Path) -> Table:
    table: Table = {}
    async with AsyncExitStack() as stack:
        natives = {kind.name: await stack.enter_async_context(kind()) for kind in NATIVES}
        gateway = await stack.enter_async_context(running(folder, staged(natives)))
        for kind in CALLERS:
            caller = await stack.enter_async_context(kind(gateway.url, KEY))
            for cell in cells_of(kind.name):
                if words_on(cell, REASONS):
                    continue
                ways = {"buffered": False, "streamed": True}
                native = natives[cell.upstream]
                table[cell] = {way: await play(cell, stream, caller, native, gateway) for way, stream in ways.items()}
        await gateway.assert_books_are_clean()
    return table


def cells_of(caller: str) -> Iterator[Cell]:
    for native in NATIVES:
        for column in COLUMNS:
            yield Cell(caller, native.name, column)


CELLS = [cell for kind in CALLERS for cell in cells_of(kind.name)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Played once; every test looks at its part."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(play_all(tmp_path_factory.mktemp("matrix")))


# --- the tests


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.caller} to {cell.upstream}, {cell.column}")
def test_cell(table: Table, cell: Cell) -> None:
    if words_on(cell, REASONS):
        assert cell not in table
        return
    problems = [f"{way}: {problem}" for way, found in table[cell].items() for problem in found]
    assert not problems, "\n".join(problems)


REFUSALS: Mapping[str, tuple[type[Exception], ...]] = {
    # Of each client: for a key, a model and a request that are refused.
    "openai chat": (openai.AuthenticationError, openai.NotFoundError, openai.BadRequestError),
    "openai responses": (openai.AuthenticationError, openai.NotFoundError, openai.BadRequestError),
    "anthropic": (anthropic.AuthenticationError, anthropic.NotFoundError, anthropic.BadRequestError),
    "google-genai": (genai.errors.ClientError,) * 3,
}


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("kind", CALLERS, ids=lambda kind: kind.name)
async def test_refusal_is_an_exception_of_the_clients_own(
    tmp_path: Path, kind: type[OfficialCaller], stream: bool
) -> None:
    """The provider speaks another wire than the client, wherever there is one."""
    async with (
        Anthropic() as first,
        Ollama() as other,
        running(tmp_path, staged({"anthropic": first, "ollama": other})) as gateway,
    ):
        upstream = "ollama" if kind.name == "anthropic" else "anthropic"
        key, model, request = REFUSALS[kind.name]
        async with kind(gateway.url, "wrong_key_fake_123456") as stranger:
            with pytest.raises(key):
                await stranger.play("text", f"{upstream}-text", stream=stream)
        async with kind(gateway.url, KEY) as caller:
            with pytest.raises(model):
                await caller.play("text", "no-such-model-text", stream=stream)
            with pytest.raises(request, match="no schema came"):
                await caller.play("text", f"{upstream}-schema", stream=stream)
        await gateway.assert_books_are_clean()
        assert await gateway.spent() == 0


async def test_tokens_are_counted_for_the_anthropic_client(tmp_path: Path) -> None:
    """By the provider itself where it can, else by estimate."""
    async with (
        Anthropic() as first,
        Gemini() as other,
        running(tmp_path, staged({"anthropic": first, "gemini": other})) as gateway,
    ):
        client = anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
        asked: Any = [{"role": "user", "content": "How many are these?"}]
        exact = await client.messages.count_tokens(model="anthropic-text", messages=asked)
        about = await client.messages.count_tokens(model="gemini-text", messages=asked)
        await client.close()
        assert exact.input_tokens == COUNTED
        assert 0 < about.input_tokens < 100
        assert await gateway.spent() == 0


def test_table_has_no_cell_without_a_word(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    printed = markdown(table)
    with capsys.disabled():
        print(f"\n{printed}")
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(CALLERS) * len(NATIVES)
    assert all(word.strip() for row in rows for word in row.strip("|").split("|"))


def markdown(table: Table) -> str:
    """The table for people and documents: `yes`, with a note's number, or why not."""
    notes: list[str] = []
    head = ["client", "upstream", *(column if column != "tools" else "tool round trip" for column in COLUMNS)]
    head[head.index("schema")] = "structured output"
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for kind in CALLERS:
        for native in NATIVES:
            cells = (Cell(kind.name, native.name, column) for column in COLUMNS)
            words = [word_for(cell, table, notes) for cell in cells]
            lines.append("| " + " | ".join([kind.name, native.name, *words]) + " |")
    return "\n".join([*lines, "", *(f"{place}. {note[0].upper()}{note[1:]}." for place, note in enumerate(notes, 1))])


def word_for(cell: Cell, table: Table, notes: list[str]) -> str:
    """`yes`, `no` or what fails, and the numbers of what there is to say of it."""
    cannot = words_on(cell, REASONS)
    if not cannot and any(table[cell].values()):
        return "fails " + " and ".join(way for way, found in table[cell].items() if found)
    told = cannot or words_on(cell, NOTES)
    notes += [text for text in told if text not in notes]
    numbers = ", ".join(map(str, sorted(notes.index(text) + 1 for text in told)))
    return ("no" if cannot else "yes") + (f" ({numbers})" if numbers else "")
