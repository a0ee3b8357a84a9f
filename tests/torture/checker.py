"""Compares what callers and provider saw with the ledger file. Fails closed: what it cannot explain is a violation.

It knows nothing of the gateway but the columns of its ledger, and takes no amount from it: prices are the oracle's.
Each violation begins with the name of the rule that is broken; RULES says what they are.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.torture import oracle
from tests.torture.client import Saw
from tests.torture.driver import Credit, Sent
from tests.torture.oracle import Leaving

RULES = {
    "lost": "a caller saw a complete answer, and there is no charge for it",
    "twice": "one request is charged more than once, be it under two ids",
    "amount": "a charge is not what the oracle says",
    "tenant": "a charge or row is another tenant's than the caller's",
    "undispatched": "a request is charged that the provider was never asked for",
    "unearned": "a request that was refused, broke off or was answered from the cache is charged",
    "unexplained": "a charge that no request of the journal explains",
    "rowless": "a request was dispatched by a gateway that was not killed, or answered from its cache, and has no row",
    "credit": "a top-up or refund is missing, doubled, or not as it was sent",
    "overspent": "a request whose price was known beforehand was let in although the balance did not pay for it",
    "balance": "a balance is not opening plus top-ups and refunds less charges",
    "books": "all balances together are not 0",
    "floor": "a tenant's balance is below 0",
    "answer": "a caller saw an answer that cannot be right",
}

CHARGES = ("charge", "byok_fee")
"""Kinds of transfers."""

PLENTY_NANO = 10**12

LATE_NS = 5 * 10**9
"""How long after a caller has left its request may still be started: it may wait in a socket."""


class Evidence(msgspec.Struct):
    """What the outside saw."""

    seed: int
    opening: dict[str, int]
    sent: dict[int, Sent]
    saw: dict[int, Saw]
    credits: dict[str, Credit]
    acknowledged: set[str]
    """References of the credits that were."""
    dispatched: Counter[int]
    """Number of a request → calls that reached the provider."""


class Row(msgspec.Struct):
    """A row of `requests`."""

    n: int
    id: str
    tenant: str
    key_id: str
    model: str
    outcome: str
    written_off: int
    usage: str | None
    usage_source: str
    held: int
    attempts: int
    started_ns: int


class Transfer(msgspec.Struct):
    """A row of `transfers`, accounts by their names."""

    id: int
    kind: str
    debit: str
    credit: str
    amount: int
    tenant: str
    request: int | None
    reference: str | None


class Books(msgspec.Struct):
    """The ledger file as it is."""

    rows: list[Row]
    transfers: list[Transfer]
    balances: dict[str, int]
    """By account; the house's are named by their kind."""


class _Usage(msgspec.Struct):
    in_fresh: int = 0
    in_cache_read: int = 0


ROWS = """
SELECT r.n, r.id, a.name, r.key_id, r.model, r.outcome, r.written_off, r.usage, r.usage_source, r.held, r.attempts,
  r.started_ns
FROM requests AS r JOIN accounts AS a ON a.id = r.tenant ORDER BY r.n"""
TRANSFERS = """
SELECT t.id, t.kind, iif(d.kind = 'tenant', d.name, d.kind), iif(c.kind = 'tenant', c.name, c.kind), t.amount, a.name,
  t.request, t.ext_ref
FROM transfers AS t JOIN accounts AS d ON d.id = t.debit JOIN accounts AS c ON c.id = t.credit
JOIN accounts AS a ON a.id = t.tenant ORDER BY t.id"""
BALANCES = "SELECT iif(kind = 'tenant', name, kind), balance FROM accounts"


def read_books(path: Path) -> Books:
    """Read-only and in one snapshot; the gateway may be running."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("BEGIN")
        return Books(
            rows=[Row(*row) for row in connection.execute(ROWS)],
            transfers=[Transfer(*row) for row in connection.execute(TRANSFERS)],
            balances=dict(connection.execute(BALANCES).fetchall()),
        )
    finally:
        connection.close()


def read_evidence(seed: int, opening: dict[str, int], journal: Path, dispatches: Path) -> Evidence:
    """From the driver's and the provider's journals."""
    evidence = Evidence(seed, opening, {}, {}, {}, set(), Counter())
    for line in journal.read_bytes().splitlines():
        kind, raw = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
        if kind == "sent":
            sent = msgspec.json.decode(raw, type=Sent)
            evidence.sent[sent.number] = sent
        elif kind == "saw":
            saw = msgspec.json.decode(raw, type=Saw)
            evidence.saw[saw.number] = saw
        else:
            credit = msgspec.json.decode(raw, type=Credit)
            evidence.credits[credit.reference] = credit
            if kind == "credited":
                evidence.acknowledged.add(credit.reference)
    evidence.dispatched.update(int(line) for line in dispatches.read_text().splitlines())
    return evidence


def check(evidence: Evidence, books: Books, *, unkilled: bool = False) -> list[str]:
    """Every violation. `unkilled`: the gateway was never killed, so every dispatch must have left a row."""
    return list(_Check(evidence, books).violations(unkilled=unkilled))


def charged_numbers(evidence: Evidence, books: Books) -> set[int]:
    """The requests that are charged, as far as their rows can be traced."""
    charged = {transfer.request for transfer in books.transfers if transfer.kind in CHARGES}
    return {number for row, number in _Check(evidence, books).trace().items() if row in charged}


class _Check:
    """One comparison. Traces rows to requests first, then judges."""

    def __init__(self, evidence: Evidence, books: Books) -> None:
        self._evidence = evidence
        self._books = books
        self._by_id = {saw.request_id: number for number, saw in evidence.saw.items() if saw.request_id}
        self._charges: dict[int, list[Transfer]] = defaultdict(list)
        for transfer in books.transfers:
            if transfer.kind in CHARGES and transfer.request is not None:
                self._charges[transfer.request].append(transfer)
        self._leavers: dict[str, list[Sent]] = defaultdict(list)
        """Those who left without having seen an id, by key."""
        for number, sent in evidence.sent.items():
            saw = evidence.saw.get(number)
            if sent.leaving is not Leaving.NEVER and (saw is None or not saw.request_id):
                self._leavers[sent.key_id].append(sent)

    def violations(self, *, unkilled: bool) -> Iterator[str]:
        charged: Counter[int] = Counter()
        numbers = self.trace()
        for row in self._books.rows:
            number = numbers.get(row.n)
            if charges := self._charges.get(row.n):
                yield from self._charge(row, charges, number)
                charged.update([number] if number is not None else [])
            if row.written_off and row.model == oracle.PRICED_PER_REQUEST:
                yield f"overspent: request {number} ({row.id}) of {row.tenant} by {row.written_off}"
        yield from (f"twice: request {n} is charged under {times} ids" for n, times in charged.items() if times > 1)
        known = {row.n for row in self._books.rows}
        yield from (f"unexplained: charges of row {n}, which is not there" for n in self._charges if n not in known)
        yield from self._views(charged)
        yield from self._credits()
        yield from self._balances()
        if unkilled:
            yield from (f"rowless: request {n}" for n in sorted(self._evidence.dispatched.keys() - numbers.values()))

    def trace(self) -> dict[int, int]:
        """Row → request: by the id that its caller saw, else by the provider's usage. What is left are rows of callers
        who left before they had seen anything: by key and time."""
        numbers: dict[int, int] = {}
        for row in self._books.rows:
            if (number := self._by_id.get(row.id)) is not None:
                numbers[row.n] = number
            elif row.usage_source == "provider" and row.usage is not None:
                usage = msgspec.json.decode(row.usage, type=_Usage)
                numbers[row.n] = usage.in_fresh + usage.in_cache_read
        untold = [row for row in self._books.rows if row.n not in numbers]
        return numbers | self._paired(untold, set(numbers.values()))

    def _paired(self, rows: list[Row], taken: set[int]) -> dict[int, int]:
        """Rows of callers who left, each with a request of its own: so many as can be, what is charged first. Who
        leaves and asks again may be served the other way round, so no order says whose a row is."""
        owners: dict[int, Row] = {}

        def place(row: Row, tried: set[int]) -> bool:
            for sent in self._possible(row):
                if sent.number in taken or sent.number in tried:
                    continue
                tried.add(sent.number)
                other = owners.get(sent.number)
                if other is None or place(other, tried):
                    owners[sent.number] = row
                    return True
            return False

        for row in sorted(rows, key=lambda row: (row.n not in self._charges, row.started_ns)):
            place(row, set())
        return {row.n: number for number, row in owners.items()}

    def _possible(self, row: Row) -> list[Sent]:
        """Leavers of this key who sent before the row was started, the latest first; those that reached the provider
        before those that did not, which owe nothing."""
        dispatched = self._evidence.dispatched
        before = [
            sent
            for sent in self._leavers[row.key_id]
            if sent.at_ns <= row.started_ns <= sent.at_ns + LATE_NS
            and (dispatched[sent.number] or row.n not in self._charges)
        ]
        return sorted(before, key=lambda sent: (dispatched[sent.number] > 0, sent.at_ns), reverse=True)

    def _charge(self, row: Row, charges: list[Transfer], number: int | None) -> Iterator[str]:
        """A row that is charged: by right, once, the right amount, to the right tenant."""
        what = f"request {number} ({row.id}, {row.outcome})"
        sent = self._evidence.sent.get(number) if number is not None else None
        if number is None or sent is None:
            yield f"unexplained: {what} is charged to {row.tenant}"
            return
        if len(charges) > 1:
            yield f"twice: {what} has {len(charges)} charges"
        charge = charges[0]
        if {row.tenant, charge.tenant, charge.debit} != {sent.tenant} or row.key_id != sent.key_id:
            yield f"tenant: {what} of {sent.tenant} is charged to {charge.debit}, its row is of {row.tenant}"
        if not self._evidence.dispatched[number]:
            yield f"undispatched: {what}"
        saw = self._evidence.saw.get(number)
        if saw is not None and saw.end in ("refused", "broke_off", "told"):
            yield f"unearned: {what} was {saw.end}: {saw.status} {saw.code}"
        abandoned = row.outcome.startswith("client_gone") and sent.leaving is not Leaving.NEVER
        if row.outcome != "ok" and not abandoned:
            yield f"unearned: {what} is charged {charge.amount}"
        elif row.outcome == "ok" or row.usage_source == "provider":
            owed = self._owed(sent)
            if charge.amount + (row.written_off if self._may_be_short(sent) else 0) != owed:
                yield f"amount: {what} is charged {charge.amount}, not {owed}"
        elif charge.amount > row.held:
            yield f"amount: {what} is an estimate of {charge.amount}, above the {row.held} that were held"

    def _may_be_short(self, sent: Sent) -> bool:
        """The house bears what a tenant's balance cannot; the tenants of the load have plenty."""
        return self._evidence.opening[sent.tenant] < PLENTY_NANO

    def _owed(self, sent: Sent) -> int:
        if sent.model == oracle.PRICED_PER_REQUEST:
            return oracle.REQUEST_NANO
        return oracle.cost_nano(self._evidence.seed, sent.number, sent.tenant)

    def _views(self, charged: Counter[int]) -> Iterator[str]:
        rows = {row.id for row in self._books.rows}
        for number, saw in self._evidence.saw.items():
            if saw.end == "wrong":
                yield f"answer: request {number}: {saw.code}"
            elif saw.end == "complete" and (saw.request_id not in rows or not charged[number]):
                yield f"lost: request {number} ({saw.request_id})"
            elif saw.end == "told" and saw.request_id not in rows:
                yield f"rowless: request {number} was answered from the cache"

    def _credits(self) -> Iterator[str]:
        seen: Counter[str] = Counter()
        for transfer in self._books.transfers:
            if transfer.kind not in ("topup", "refund"):
                continue
            reference = transfer.reference if transfer.reference is not None else ""
            seen[reference] += 1
            credit = self._evidence.credits.get(reference)
            is_so = (transfer.kind, transfer.credit, transfer.amount)
            if credit is None or (credit.kind, credit.tenant, credit.nano) != is_so:
                yield f"credit: transfer {transfer.id} ({is_so}) was not sent so"
        yield from (f"credit: {name} is there {times} times" for name, times in seen.items() if times > 1)
        yield from (f"credit: {name} is missing" for name in sorted(self._evidence.acknowledged - seen.keys()))

    def _balances(self) -> Iterator[str]:
        due = dict(self._evidence.opening)
        for transfer in self._books.transfers:
            if transfer.kind in ("topup", "refund"):
                due[transfer.credit] = due.get(transfer.credit, 0) + transfer.amount
            elif transfer.kind in CHARGES:
                due[transfer.debit] = due.get(transfer.debit, 0) - transfer.amount
        for tenant, nano in due.items():
            balance = self._books.balances.get(tenant)
            if balance != nano:
                yield f"balance: {tenant} has {balance}, not {nano}"
            if balance is not None and balance < 0:
                yield f"floor: {tenant} has {balance}"
        if total := sum(self._books.balances.values()):
            yield f"books: all balances together are {total}"
