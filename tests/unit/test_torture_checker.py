"""The checker of the torture where what callers saw does not say whose a row is."""

from collections import Counter

from tests.torture.checker import Books, Evidence, Row, Transfer, check
from tests.torture.client import Saw
from tests.torture.driver import Sent
from tests.torture.oracle import Leaving

MS = 10**6
OPENING_NANO = 10**15


def evidence(*sent: Sent, dispatched: tuple[int, ...]) -> Evidence:
    by_number = {one.number: one for one in sent}
    left = {number: Saw(number, "left") for number in by_number}
    return Evidence(1, {"north": OPENING_NANO}, by_number, left, {}, set(), Counter(dispatched))


def leaver(number: int, at_ms: int) -> Sent:
    return Sent(number, "north", "key", Leaving.EARLY, at_ms * MS)


def row(n: int, outcome: str, started_ms: int) -> Row:
    return Row(n, f"req_{n}", "north", "key", "chat-model", outcome, 0, None, "estimated", 100, 1, started_ms * MS)


def books(rows: list[Row], *charges: tuple[int, int]) -> Books:
    """`charges`: (row, nano-USD)."""
    transfers = [
        Transfer(n, "charge", "north", "house_revenue", nano, "north", request, None)
        for n, (request, nano) in enumerate(charges, 1)
    ]
    spent = sum(nano for _, nano in charges)
    balances = {"north": OPENING_NANO - spent, "house_revenue": spent, "house_cash": -OPENING_NANO}
    return Books(rows, transfers, balances)


def test_two_who_left_may_be_served_the_other_way_round():
    """The second was looked at first, and gone before anything was sent for it."""
    seen = evidence(leaver(1, 100), leaver(2, 120), dispatched=(1,))
    rows = [row(1, "client_gone_predispatch", 130), row(2, "client_gone_midstream", 140)]
    assert check(seen, books(rows, (2, 50))) == []


def test_a_charge_is_explained_by_one_who_left_and_by_no_two():
    seen = evidence(leaver(1, 100), dispatched=(1,))
    rows = [row(1, "client_gone_midstream", 110), row(2, "client_gone_midstream", 120)]
    (found,) = check(seen, books(rows, (1, 50), (2, 50)))
    assert found.startswith("unexplained: request None (req_2")


def test_a_charge_is_not_explained_by_a_request_that_the_provider_never_saw():
    seen = evidence(leaver(1, 100), dispatched=())
    (found,) = check(seen, books([row(1, "client_gone_midstream", 110)], (1, 50)))
    assert found.startswith("unexplained:")


def test_every_row_of_a_chain_of_leavers_finds_its_own():
    """Each can only be of those before it: whoever takes the latest first has to give it back."""
    seen = evidence(*(leaver(n, 100 * n) for n in range(1, 8)), dispatched=tuple(range(1, 8)))
    rows = [row(n, "client_gone_midstream", 100 * n + 650) for n in range(1, 8)]
    assert check(seen, books(rows, *((n, 10) for n in range(1, 8))), unkilled=True) == []
