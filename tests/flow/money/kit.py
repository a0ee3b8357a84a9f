"""What a row of the charge policy says, and the one runner that proves it.

    Row("I", "length", answers(Ok(finish="length")), Expect())

A row is played once for each cell: by callers of three dialects, each for a whole answer and for a stream. An Expect is
for every cell; where cells differ, a function gives the Expect of a cell, or the reason why there is no such cell. All
cells of a row share a gateway, in which each has a tenant of its own. When all are played, the gateway is stopped, and
everything is read from the file of the books alone: the request and its attempts, the transfers, the balance, and what
`routerx ledger verify` says. Amounts are worked out by tests/flow/money/oracle.py.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from routerx.ledger.proof.verify import verify_file
from tests.flow.money.oracle import Price, Terms, Used, owed_nano, usd
from tests.support.behaviours import Behaviour
from tests.support.gateway import ADMIN_KEY, HELLO, Caller, Config, Gateway, Reply, config, digest, running
from tests.support.upstream import Ok, ScriptedUpstream

OUTPUT_MAX = 20
"""What every request asks for at most."""

UP = {"input": 1, "output": 2}
SPARE = {"input": 10, "output": 20}
"""The price lists of `config()`."""


class Wire(Enum):
    """A dialect of callers."""

    CHAT = "/v1/chat/completions"
    MESSAGES = "/v1/messages"
    RESPONSES = "/v1/responses"


PROMPT = {Wire.CHAT: 92, Wire.MESSAGES: 92, Wire.RESPONSES: 76}
"""Tokens held for the prompt of every request. Half of them is what is taken to be likely where nobody has counted."""


class Held(Enum):
    """What is set aside for a request."""

    MOST = "all that the prompt and the longest answer could come to"
    NOTHING = "nothing, because nothing can be owed"
    UNSAID = "not said: it grows with a stream, or is counted in other units"


class Cell(NamedTuple):
    """One way to ask."""

    wire: Wire
    stream: bool

    def __str__(self) -> str:
        return f"{self.wire.name.lower()}-{'streamed' if self.stream else 'buffered'}"

    @property
    def key(self) -> str:
        return f"key-of-{self}-fake-123456"

    @property
    def prompt(self) -> Used:
        """What is likely to have been read where nobody has counted it, and no answer was made."""
        return Used(in_fresh=PROMPT[self.wire] // 2, requests=0)

    def answered(self, output_bytes: int) -> Used:
        """What is likely to have been used for so much of an answer: 4 bytes make a token."""
        return Used(in_fresh=PROMPT[self.wire] // 2, out_text=-(-output_bytes // 4))


CELLS = tuple(Cell(wire, stream) for wire in Wire for stream in (False, True))


class Tried(NamedTuple):
    """An attempt."""

    provider: str = "up"
    outcome: str = "ok"
    bills: Price | None = None
    """By which price list the provider may bill the house for the prompt; None: it has done nothing."""


REPORTED = Used(in_fresh=7, out_text=3)
"""What Ok() and Stream() report."""


@dataclass(frozen=True)
class Expect:
    """What the books say of one cell, and what they charge for it."""

    used: Used | None = REPORTED
    terms: Terms = field(default_factory=lambda: Terms(UP))
    held_by: Terms | None = None
    """The dearest terms it could have been answered by; None: `terms`."""
    held: Held = Held.MOST
    billing: str = "paid"
    source: str = "provider"
    outcome: str = "ok"
    status: int = 200
    """Of the row. Where nobody was there to be told: 499."""
    flags: frozenset[str] = frozenset()
    attempts: tuple[Tried, ...] = (Tried(),)
    written_off: int = 0
    """nano-USD of what is owed."""
    rows: int = 1
    """Requests in the books, this one included; it is the last of them. 0: there is none."""
    earlier: int = 0
    """nano-USD charged for the earlier ones."""
    moved: int = 0
    """nano-USD that came to the tenant after its opening balance, other than by charges."""
    kinds: tuple[str, ...] | None = None
    """Of the tenant's transfers after its opening balance; None: one charge for each request that owes something."""

    @property
    def owes(self) -> bool:
        return self.used is not None and self.billing in ("paid", "byok")

    @property
    def cost(self) -> int:
        return owed_nano(self.used, self.terms) if self.used is not None and self.owes else 0

    @property
    def house(self) -> int:
        """List price of what was used, whoever pays for it."""
        return owed_nano(self.used, Terms(self.terms.price)) if self.used is not None else 0


VOID = Expect(None, billing="void", source="none")
"""Nothing was used, as far as the books know, and nothing is owed."""


@dataclass
class Scene:
    """A row's gateway and its providers."""

    gateway: Gateway
    up: ScriptedUpstream
    spare: ScriptedUpstream
    value: Config
    folder: Path
    """Where the books are, in `data`."""
    patch: pytest.MonkeyPatch
    replies: dict[Cell, Reply] = field(default_factory=dict)
    callers: dict[Cell, Caller] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(
        self, cell: Cell, model: str = "solo", *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Caller:
        """A request of this cell that has been sent, its answer unread."""
        caller = await self.gateway.connect()
        body = {**body_of(cell.wire), "model": model, "stream": cell.stream, **fields}
        await caller.send("POST", cell.wire.value, body, key=cell.key, headers=headers)
        return caller

    async def ask(self, cell: Cell, model: str = "solo", **options: Any) -> Reply:
        """A request of this cell, and what its caller was told."""
        reply = await (await self.send(cell, model, **options)).reply()
        self.replies[cell] = reply
        return reply

    async def admin(self, method: str, path: str, body: Any = None) -> Reply:
        return await self.gateway.ask(method, f"/admin/v1{path}", body, key=ADMIN_KEY)


def body_of(wire: Wire) -> dict[str, Any]:
    match wire:
        case Wire.CHAT:
            return {"messages": HELLO, "max_tokens": OUTPUT_MAX}
        case Wire.MESSAGES:
            return {"messages": HELLO, "max_tokens": OUTPUT_MAX}
        case Wire.RESPONSES:
            return {"input": "Hello", "max_output_tokens": OUTPUT_MAX}


Play = Callable[[Scene, Cell], Awaitable[None]]
Change = Callable[[Config], None]
ByCell = Callable[[Cell], Expect | str]


def unchanged(value: Config) -> None:
    """The plain configuration."""


def answers(up: Behaviour, spare: Behaviour | None = None, model: str | None = None, **options: Any) -> Play:
    """Ask a provider that does this, with `spare` behind it where that is said."""

    async def play(scene: Scene, cell: Cell) -> None:
        scene.up.default = up
        scene.spare.default = spare if spare is not None else Ok()
        asked = model if model is not None else "solo" if spare is None else "duo"
        await scene.ask(cell, asked, **options)
        await scene.gateway.settled()

    return play


@dataclass(frozen=True)
class Row:
    """One situation of the charge policy, in one of its forms."""

    letter: str
    """In the design's table."""
    name: str
    play: Play
    """The situation, up to where its request has settled; or up to `end`."""
    expect: Expect | ByCell
    change: Change = unchanged
    """Of the configuration."""
    end: Callable[[Scene], Awaitable[None]] | None = None
    """What becomes of all cells together, once each is played."""

    @property
    def id(self) -> str:
        return f"{self.letter}_{self.name}"

    def at(self, cell: Cell) -> Expect | str:
        return self.expect(cell) if callable(self.expect) else self.expect


def only_streams(expect: Expect | ByCell, reason: str) -> ByCell:
    return lambda cell: (expect(cell) if callable(expect) else expect) if cell.stream else reason


def only_buffered(expect: Expect | ByCell, reason: str) -> ByCell:
    return lambda cell: reason if cell.stream else (expect(cell) if callable(expect) else expect)


def only_chat(expect: Expect | ByCell, reason: str) -> ByCell:
    return lambda cell: (expect(cell) if callable(expect) else expect) if cell.wire is Wire.CHAT else reason


def priced(**price: Any) -> Change:
    """Another price list for `solo`."""

    def change(value: Config) -> None:
        value["models"]["solo"]["endpoints"][0]["price"] = price

    return change


def planned(**plan: Any) -> Change:
    """Another plan."""

    def change(value: Config) -> None:
        value["plans"]["prepaid"] |= plan

    return change


def both(*changes: Change) -> Change:
    def change(value: Config) -> None:
        for one in changes:
            one(value)

    return change


def opened_with(amount: str) -> Change:
    """Another opening balance."""

    def change(value: Config) -> None:
        for tenant in value["tenants"].values():
            tenant["opening_balance"] = amount

    return change


# --- the runner --------------------------------------------------------------------------------------------------


async def run(row: Row, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Play all cells of a row, and check all that it says."""
    played = {cell: expect for cell in CELLS if isinstance(expect := row.at(cell), Expect)}
    async with _stage(row, folder, patch) as scene:
        for cell in played:
            with _named(cell):
                await row.play(scene, cell)
        if row.end is not None:
            await row.end(scene)
        else:
            await scene.gateway.assert_books_are_clean()
    path = scene.folder / "data" / "ledger.db"
    assert verify_file(str(path)).violations == ()
    for cell, expect in played.items():
        with _named(cell):
            check(Books(path, str(cell)), cell, expect, scene.replies.get(cell))


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """What fails within says in which cell."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in cell {cell}")
        raise


@asynccontextmanager
async def _stage(row: Row, folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        up, spare = [await stack.enter_async_context(ScriptedUpstream()) for _ in range(2)]
        patch.setattr("routerx.routing.window.RETRY_FLOOR", 1_000)  # The cells of a row are no outage.
        value = staged(up.url, spare.url)
        row.change(value)
        gateway = await stack.enter_async_context(running(folder, value))
        yield Scene(gateway, up, spare, value, folder, patch)


def staged(up: str, spare: str) -> Config:
    """The plain configuration with a tenant for each cell. Its circuits stay closed: what fails here, fails often."""
    value = config(up, spare)
    value["policies"]["default"]["breaker"] = {"min_requests": 100_000, "consecutive": 100_000}
    terms = {"plan": "prepaid", "opening_balance": "$10"}
    value["tenants"] = {str(cell): {**terms, "keys": [digest(cell.key)]} for cell in CELLS}
    return value


class Books:
    """What the file says of one tenant."""

    def __init__(self, path: Path, tenant: str) -> None:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            self._read(connection, tenant)

    def _read(self, connection: sqlite3.Connection, tenant: str) -> None:
        account = connection.execute("SELECT id, balance FROM accounts WHERE name = ?", (tenant,)).fetchone()
        self.balance: int = account["balance"]
        requests = connection.execute("SELECT * FROM requests WHERE tenant = ? ORDER BY n", (account["id"],))
        self.requests = [dict(row) for row in requests.fetchall()]
        self.attempts: list[dict[str, Any]] = []
        if self.requests:
            found = connection.execute("SELECT * FROM attempts WHERE request = ? ORDER BY n", (self.requests[-1]["n"],))
            self.attempts = [dict(row) for row in found.fetchall()]
        moves = connection.execute("SELECT * FROM transfers WHERE tenant = ? ORDER BY id", (account["id"],))
        self.transfers = [dict(row) for row in moves.fetchall()]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Of the transfers after the opening balance."""
        kinds = tuple(row["kind"] for row in self.transfers)
        return kinds[1:] if kinds[:1] == ("opening",) else kinds

    @cached_property
    def opening(self) -> int:
        return sum(row["amount"] for row in self.transfers if row["kind"] == "opening")

    def sum(self, *kinds: str) -> int:
        return sum(row["amount"] for row in self.transfers if row["kind"] in kinds)


Facts = dict[str, Any]


def check(books: Books, cell: Cell, expect: Expect, reply: Reply | None) -> None:
    """All that is written of one cell, and what its caller was told of it."""
    charged = expect.cost - expect.written_off
    wanted: Facts = {
        "charges": expect.earlier + charged,
        "write-offs": expect.written_off,
        "balance": books.opening - expect.earlier - charged + expect.moved,
        "transfers": expect.kinds if expect.kinds is not None else _kinds(expect),
        "requests": expect.rows,
    }
    found: Facts = {
        "charges": books.sum("charge", "byok_fee"),
        "write-offs": books.sum("writeoff"),
        "balance": books.balance,
        "transfers": books.kinds,
        "requests": len(books.requests),
    }
    if expect.rows:
        wanted |= _wanted_request(cell, expect) | {"attempts": [_wanted_attempt(cell, one) for one in expect.attempts]}
        found |= _found_request(books.requests[-1]) | {"attempts": [_found_attempt(row) for row in books.attempts]}
    if expect.held is Held.UNSAID and expect.rows:
        del wanted["held"], found["held"]
    if reply is not None and reply.status == 200 and not cell.stream:
        wanted["header"], found["header"] = usd(charged), Decimal(reply.headers["x-routerx-cost-usd"])
    differences = [f"{name}: {found[name]!r}, not {wanted[name]!r}" for name in wanted if found[name] != wanted[name]]
    assert not differences, "\n".join(differences)


def _kinds(expect: Expect) -> tuple[str, ...]:
    kinds = ["charge"] if expect.earlier else []
    if expect.cost > expect.written_off:
        kinds.append("byok_fee" if expect.billing == "byok" else "charge")
    if expect.written_off:
        kinds.append("writeoff")
    return tuple(kinds)


def _wanted_request(cell: Cell, expect: Expect) -> Facts:
    return {
        "outcome": expect.outcome,
        "status": expect.status,
        "billing": expect.billing,
        "usage_source": expect.source,
        "flags": expect.flags,
        "usage": None if expect.used is None else expect.used.stored(),
        "cost": expect.cost,
        "charged": expect.cost - expect.written_off,
        "written_off": expect.written_off,
        "provider_cost": expect.house,
        "held": _held(cell, expect) if expect.held is Held.MOST else 0,
    }


def _found_request(row: Mapping[str, Any]) -> Facts:
    same = ("outcome", "billing", "usage_source", "cost", "charged", "written_off", "provider_cost", "held")
    return {name: row[name] for name in same} | {
        "status": row["http_status"],
        "flags": frozenset(filter(None, row["flags"].split(","))),
        "usage": None if row["usage"] is None else json.loads(row["usage"]),
    }


def _held(cell: Cell, expect: Expect) -> int:
    """All that the prompt and the longest answer could come to, by the dearest terms."""
    most = Used(in_fresh=PROMPT[cell.wire], out_text=OUTPUT_MAX)
    return owed_nano(most, expect.held_by if expect.held_by is not None else expect.terms)


def _wanted_attempt(cell: Cell, tried: Tried) -> tuple[str, str, bool, int]:
    may_cost = owed_nano(cell.prompt, Terms(tried.bills)) if tried.bills is not None else 0
    return tried.provider, tried.outcome, tried.outcome == "ok", may_cost


def _found_attempt(row: Mapping[str, Any]) -> tuple[str, str, bool, int]:
    return row["provider"], row["outcome"], bool(row["won"]), row["cost_est"]


def at_spare(expect: Expect, *before: Tried) -> Expect:
    """Answered by `spare`, at its own price, after these attempts."""
    return replace(expect, terms=Terms(SPARE), attempts=(*before, Tried("spare")))
