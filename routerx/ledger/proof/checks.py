"""What must be true of each row, and of a row and its neighbours. Pure: values in, complaints out.

The names I1, I2 … are those of docs/money.md.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from routerx.domain.pricing import PriceSnapshot, cost_nano
from routerx.domain.usage import Usage
from routerx.ledger.batch import GENESIS, link
from routerx.ledger.budget import day_of
from routerx.ledger.proof.pruning import Watermark, fold
from routerx.ledger.schema.initial import HOUSE_CASH, HOUSE_REVENUE, HOUSE_WRITEOFF

_usage = msgspec.json.Decoder(Usage).decode
_price = msgspec.json.Decoder(PriceSnapshot).decode


class Progress:
    """How far a check has come and what it adds up on the way; a later check goes on from here."""

    def __init__(self, first_day: int = 0) -> None:
        self.first_day = first_day
        """Daily figures are compared from this UTC day on."""
        self.transfer = 0
        self.transfer_hash = GENESIS
        self.ts_ns = 0
        self.request = 0
        self.audit = 0
        self.audit_hash = GENESIS
        self.audit_ts_ns = 0
        self.sums: dict[int, int] = {}
        """Account id → credits − debits."""
        self.latest: dict[int, int] = {}
        """Account id → the tenant's latest transfer."""
        self.days: dict[tuple[int, int], list[int]] = {}
        """(account id, UTC day) → [requests, nano-USD charged]."""
        self.opened: dict[str, str] = {}
        """Account id, as text → tenant name, from the audit chain."""
        self.watermark = Watermark()
        """Requests up to here may be gone, and with them what only they can prove."""
        self.seal: bytes | None = GENESIS
        """Of the transfers so far; None where the check began in their middle."""
        self.pruned: dict[int, int] = {}
        """Account id → nano-USD charged for requests up to the watermark."""
        self.prunings: list[str] = []
        """Watermarks as the audit chain has them."""


class TransferCheck(msgspec.Struct, frozen=True):
    """A row of transfers, and of requests where it names one."""

    id: int
    ts_ns: int
    kind: str
    debit: int
    credit: int
    amount: int
    tenant: int
    balance: int
    previous: int | None
    request_id: str | None
    ext_ref: str | None
    reverses: int | None
    actor: str | None
    note: str | None
    prev_hash: bytes
    hash: bytes
    request: int | None
    """The number it names; request_id is None where that row is not there."""
    request_tenant: int | None
    request_billing: str | None
    charged: int | None
    written_off: int | None
    corrected: int | None
    """The charge that a refund or a re-rating corrects, with what is known of it; None where there is none."""
    corrected_kind: str | None
    corrected_tenant: int | None
    corrected_amount: int | None
    refunded: int | None
    """nano-USD of that charge refunded, this transfer included; None: none."""
    rerated: int | None
    """nano-USD of it given back by re-rating, this transfer included; below 0 where more was taken. None: none."""


TRANSFERS = """
SELECT t.id, t.ts_ns, t.kind, t.debit, t.credit, t.amount, t.tenant, t.balance, t.previous, r.id, t.ext_ref, t.reverses,
       t.actor, t.note, t.prev_hash, t.hash, t.request, r.tenant, r.billing, r.charged, r.written_off,
       c.id, c.kind, c.tenant, c.amount,
       CASE WHEN c.id IS NOT NULL THEN
         (SELECT sum(f.amount) FROM transfers AS f WHERE f.reverses = c.id AND f.id <= t.id) END,
       CASE WHEN t.kind IN ('adjustment', 'refund') THEN
         (SELECT sum(CASE a.credit WHEN a.tenant THEN a.amount ELSE -a.amount END) FROM transfers AS a
          WHERE a.request = coalesce(c.request, t.request) AND a.kind = 'adjustment' AND a.id <= t.id) END
FROM transfers AS t
LEFT JOIN requests AS r ON r.n = t.request
LEFT JOIN transfers AS c ON c.id = CASE t.kind
  WHEN 'refund' THEN t.reverses
  WHEN 'adjustment' THEN
    (SELECT x.id FROM transfers AS x WHERE x.request = t.request AND x.kind IN ('charge', 'byok_fee')) END
WHERE t.id > ? ORDER BY t.id LIMIT ?"""


def transfer(row: Sequence[Any], at: Progress) -> Iterator[tuple[str, str]]:
    """(invariant, complaint) pairs; adds the row to `at`."""
    t = TransferCheck(*row)
    if t.id != at.transfer + 1:
        yield "I11", f"transfer {at.transfer + 1} is missing or transfer {t.id} is there twice"
    is_pruned = t.request is not None and t.request <= at.watermark.request
    if t.prev_hash != at.transfer_hash or not (
        (is_pruned and t.request_id is None) or link(t.prev_hash, row[:14]) == t.hash
    ):
        yield "I11", f"the hash chain is broken at transfer {t.id}"
    yield from _sealed(t, row, at)
    if t.ts_ns < at.ts_ns:
        yield "I12", f"transfer {t.id} is older than the one before it"
    if t.previous != at.latest.get(t.tenant):
        yield "I11", f"transfer {t.id} does not follow the tenant's one before it"
    at.transfer, at.transfer_hash, at.ts_ns = t.id, t.hash, t.ts_ns
    at.latest[t.tenant] = t.id
    if type(t.amount) is not int or type(t.balance) is not int or t.amount <= 0:
        yield "I15", f"transfer {t.id} moves {t.amount!r}, which is no positive whole number"
        return
    at.sums[t.debit] = at.sums.get(t.debit, 0) - t.amount
    at.sums[t.credit] = at.sums.get(t.credit, 0) + t.amount
    expected = at.sums.get(t.tenant, 0)
    if t.balance != expected:
        yield "I1", f"transfer {t.id} says balance {t.balance}, its tenant's transfers add up to {expected}"
    if (t.debit, t.credit) not in _parties(t):
        yield "I17", f"transfer {t.id} ({t.kind}) moves money between the wrong accounts {t.debit} and {t.credit}"
    if t.kind in ("opening", "topup", "refund") and not t.ext_ref:
        yield "I19", f"transfer {t.id} ({t.kind}) has no reference"
    if is_pruned:
        if t.kind in ("charge", "byok_fee"):
            at.pruned[t.tenant] = at.pruned.get(t.tenant, 0) + t.amount
    elif t.request is not None:
        yield from _for_request(t)
    if t.kind == "refund" or (t.kind == "adjustment" and t.request is not None):
        yield from _given_back(t)


def _sealed(t: TransferCheck, row: Sequence[Any], at: Progress) -> Iterator[tuple[str, str]]:
    """I11 for transfers whose requests may be gone."""
    if at.seal is not None and t.id <= at.watermark.transfer:
        at.seal = fold(at.seal, row, t.request, t.hash)
        if t.id == at.watermark.transfer and at.seal != at.watermark.seal:
            yield "I11", f"transfers up to {t.id} are not those that were sealed when their requests were pruned"


def _parties(t: TransferCheck) -> tuple[tuple[int, int], ...]:
    match t.kind:
        case "opening" | "topup":
            return ((HOUSE_CASH, t.tenant),)
        case "charge" | "byok_fee":
            return ((t.tenant, HOUSE_REVENUE),)
        case "writeoff":
            return ((HOUSE_WRITEOFF, HOUSE_REVENUE),)
        case "adjustment":
            house = HOUSE_CASH if t.request is None else HOUSE_REVENUE
            return (house, t.tenant), (t.tenant, house)
        case "refund":
            return ((HOUSE_REVENUE, t.tenant),)
    return ()


def _for_request(t: TransferCheck) -> Iterator[tuple[str, str]]:
    """I5, I6, I17 from the transfer's side."""
    if t.request_id is None:
        yield "I6", f"transfer {t.id} ({t.kind}) is for request row {t.request}, which is not there"
        return
    if t.request_billing != ("byok" if t.kind == "byok_fee" else "paid") and not _corrects(t):
        yield "I6", f"transfer {t.id} ({t.kind}) is for request {t.request_id!r}, billed {t.request_billing!r}"
    if t.request_tenant != t.tenant:
        yield "I17", f"transfer {t.id} ({t.kind}) charges another tenant than that of request {t.request_id!r}"
    if t.kind != "adjustment" and t.amount != (t.written_off if t.kind == "writeoff" else t.charged):
        yield "I5", f"transfer {t.id} ({t.kind}) moves another amount than request {t.request_id!r} says"


def _corrects(t: TransferCheck) -> bool:
    """Whether it is a kind that requests of both ways of paying may have."""
    return t.kind in ("writeoff", "adjustment") and t.request_billing in OWED


def _given_back(t: TransferCheck) -> Iterator[tuple[str, str]]:
    """I10: nobody gets back more than was charged, nor what somebody else was charged."""
    given_nano = t.amount if t.credit == t.tenant else -t.amount
    charged_nano = t.corrected_amount if t.corrected_amount is not None else 0
    refunded_nano = t.refunded if t.refunded is not None else 0
    rerated_nano = t.rerated if t.rerated is not None else 0
    if t.kind == "refund" and t.corrected_kind not in ("charge", "byok_fee"):
        yield "I10", f"transfer {t.id} refunds transfer {t.reverses}, which is no charge"
    if t.corrected_tenant not in (None, t.tenant):
        yield "I10", f"transfer {t.id} ({t.kind}) corrects transfer {t.corrected}, of another tenant"
    if given_nano > 0 and max(refunded_nano, refunded_nano + rerated_nano) > charged_nano:
        yield "I10", f"with transfer {t.id} ({t.kind}) more is given back of transfer {t.corrected} than was charged"


OWED = ("paid", "byok")


class RequestCheck(msgspec.Struct, frozen=True):
    """A row of requests beside its transfers, its key and the sums of its attempts."""

    n: int
    id: str
    tenant: int
    key_id: str
    outcome: str
    billing: str
    usage: str | None
    usage_source: str
    price: str | None
    cost: int
    charged: int
    written_off: int
    held: int
    attempts: int
    flags: str
    settled_ns: int
    charge_kind: str | None
    charge_amount: int | None
    charge_tenant: int | None
    writeoff_amount: int | None
    key_tenant: int | None
    attempt_rows: int | None
    attempts_won: int | None
    attempt_last: int | None


REQUESTS = """
SELECT r.n, r.id, r.tenant, r.key_id, r.outcome, r.billing, r.usage, r.usage_source, r.price, r.cost, r.charged,
       r.written_off, r.held, r.attempts, r.flags, r.settled_ns,
       c.kind, c.amount, c.tenant, w.amount, k.tenant, a.rows_, a.won, a.last
FROM requests AS r
LEFT JOIN transfers AS c ON c.request = r.n AND c.kind IN ('charge', 'byok_fee')
LEFT JOIN transfers AS w ON w.request = r.n AND w.kind = 'writeoff'
LEFT JOIN keys AS k ON k.id = r.key_id
LEFT JOIN (SELECT request, count(*) AS rows_, sum(won) AS won, max(n) AS last FROM attempts
           WHERE request > ?1 AND request <= ?2 GROUP BY request) AS a ON a.request = r.n
WHERE r.n > ?1 AND r.n <= ?2 ORDER BY r.n"""


def request(row: Sequence[Any], at: Progress) -> Iterator[tuple[str, str]]:
    """(invariant, complaint) pairs; adds the row to `at`."""
    r = RequestCheck(*row)
    if r.n == at.request:
        yield "I5", f"request {r.id!r} has more than one charge or write-off"
        return
    if r.n != at.request + 1:
        yield "I11", f"request rows {at.request + 1} to {r.n - 1} are missing"
    at.request = r.n
    day = day_of(r.settled_ns)
    if day >= at.first_day:
        figures = at.days.setdefault((r.tenant, day), [0, 0])
        figures[0] += 1
        figures[1] += r.charged
    if not all(type(value) is int for value in (r.cost, r.charged, r.written_off, r.held)):
        yield "I15", f"request {r.id!r} holds money that is no whole number"
        return
    if not r.outcome:
        yield "I7", f"request {r.id!r} has no outcome"
    yield from _charge(r)
    if r.key_tenant is not None and r.key_tenant != r.tenant:
        yield "I17", f"request {r.id!r} was made with key {r.key_id!r} of another tenant"
    yield from _attempts(r)


def _charge(r: RequestCheck) -> Iterator[tuple[str, str]]:
    """I5, I6, I8, I9 from the request's side."""
    if r.billing not in OWED:
        if r.charged or r.written_off or r.charge_amount is not None or r.writeoff_amount is not None:
            yield "I6", f"request {r.id!r} is charged although it is billed {r.billing!r}"
        return
    if (r.charge_amount if r.charge_amount is not None else 0) != r.charged:
        yield "I5", f"request {r.id!r} was charged {r.charged}, its transfer says {r.charge_amount}"
    if r.charge_kind is not None and (r.charge_kind == "byok_fee") != (r.billing == "byok"):
        yield "I6", f"request {r.id!r}, billed {r.billing!r}, was charged by a transfer of kind {r.charge_kind!r}"
    if r.charge_tenant is not None and r.charge_tenant != r.tenant:
        yield "I17", f"request {r.id!r} was charged to another tenant"
    if (r.writeoff_amount if r.writeoff_amount is not None else 0) != r.written_off:
        yield "I8", f"request {r.id!r}: {r.written_off} was written off, its transfer says {r.writeoff_amount}"
    if r.charged + r.written_off != r.cost:
        yield "I5", f"request {r.id!r} cost {r.cost}, but charge and write-off are {r.charged + r.written_off}"
    if r.written_off and "overrun" not in r.flags.split(","):
        yield "I8", f"request {r.id!r} has a write-off without the flag 'overrun'"
    expected = _recomputed(r)
    capped = r.usage_source == "estimated" and r.cost == min(expected, r.held)
    if r.cost != expected and not capped:
        yield "I9", f"request {r.id!r} cost {r.cost}, its usage at its price{_in_tier(r)} makes {expected}"


def _recomputed(r: RequestCheck) -> int:
    """Cost in nano-USD from what the row says was used and agreed; -1 where that cannot be read."""
    if r.usage is None or r.price is None:
        return 0
    try:
        return cost_nano(_usage(r.usage), _price(r.price))
    except msgspec.DecodeError:
        return -1


def _in_tier(r: RequestCheck) -> str:
    try:
        tier = None if r.price is None else _price(r.price).tier
    except msgspec.DecodeError:
        return ""
    return "" if tier is None else f" in the tier {tier!r}"


def _attempts(r: RequestCheck) -> Iterator[tuple[str, str]]:
    rows = r.attempt_rows if r.attempt_rows is not None else 0
    if rows != r.attempts or (r.attempt_last is not None and r.attempt_last != rows):
        yield "I13", f"request {r.id!r} made {r.attempts} attempts, {rows} of them have rows"
    won = r.attempts_won if r.attempts_won is not None else 0
    if won > 1 or (won == 0 and rows > 0 and r.outcome == "ok"):
        yield "I13", f"request {r.id!r} ({r.outcome}) was answered by {won} attempts"


AUDIT = "SELECT id, ts_ns, actor, action, subject, detail, prev_hash, hash FROM audit WHERE id > ? ORDER BY id LIMIT ?"


def audit(row: Sequence[Any], at: Progress) -> Iterator[tuple[str, str]]:
    """(invariant, complaint) pairs; adds the row to `at`."""
    number, ts_ns, _, action, subject, detail, prev_hash, digest = row
    if number != at.audit + 1:
        yield "I11", f"audit row {at.audit + 1} is missing or {number} is there twice"
    if prev_hash != at.audit_hash or link(prev_hash, row[:6]) != digest:
        yield "I11", f"the audit trail's hash chain is broken at row {number}"
    if ts_ns < at.audit_ts_ns:
        yield "I12", f"audit row {number} is older than the one before it"
    at.audit, at.audit_hash, at.audit_ts_ns = number, digest, ts_ns
    if action == "account.open":
        at.opened[detail] = subject
    elif action == "ledger.prune":
        at.prunings.append(detail)
