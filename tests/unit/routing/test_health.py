"""When providers are looked at, and what a look does to circuits that are open."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.providers.spec import Auth, Credential, Provider
from routerx.routing.health import FIRST_CHECK_S, JITTER, RECHECK_S, HealthBook, Look, Seen

NONE: frozenset[str] = frozenset()
UP: frozenset[str] = frozenset({"up"})
INTERVAL_S = 300.0


def provider(name: str = "up", *keys: str) -> Provider:
    credentials = tuple(Credential(f"{name}-{key}", None) for key in keys or ("a",))
    return Provider(name, "openai", f"https://{name}.test/v1", Auth.BEARER, credentials)


def look(seen: Seen = Seen.OK, name: str = "up") -> Look:
    return Look(name, f"{name}-a", seen, None, 200, 12, 0)


OPEN = [("up/m", "up-a", True)]


@pytest.fixture
def book() -> HealthBook:
    """One provider, there since second 0, and never looked at."""
    book = HealthBook(random.Random(3))
    book.retain([provider()], 0.0)
    return book


def looked(book: HealthBook, seen: Seen, now_s: float) -> None:
    book.due(INTERVAL_S, UP, now_s)
    book.record(look(seen), now_s)


def test_the_first_look_comes_soon_and_the_next_after_the_interval(book: HealthBook):
    assert book.due(INTERVAL_S, NONE, FIRST_CHECK_S * (1 - JITTER) - 0.1) == []
    assert book.due(INTERVAL_S, NONE, FIRST_CHECK_S * (1 + JITTER)) == ["up"]
    book.record(look(), 6.0)
    assert book.due(INTERVAL_S, NONE, INTERVAL_S * (1 - JITTER)) == []
    assert book.due(INTERVAL_S, NONE, 6.0 + INTERVAL_S * (1 + JITTER)) == ["up"]


def test_nobody_is_looked_at_twice_at_once(book: HealthBook):
    assert book.due(INTERVAL_S, NONE, 10.0) == ["up"]
    assert book.due(INTERVAL_S, UP, 1_000.0) == []
    book.given_up("up")
    assert book.due(INTERVAL_S, UP, 1_000.0) == ["up"]


def test_an_interval_of_0_is_never(book: HealthBook):
    assert book.due(0.0, UP, 1e6) == []


def test_a_tiny_interval_is_a_second(book: HealthBook):
    book.due(0.001, NONE, 10.0)
    book.record(look(), 10.0)
    assert book.due(0.001, NONE, 10.5) == []
    assert book.due(0.001, NONE, 11.2) == ["up"]


def test_many_providers_are_not_looked_at_together():
    book = HealthBook(random.Random(3))
    names = [f"p{n}" for n in range(40)]
    book.retain([provider(name) for name in names], 0.0)
    assert 0 < len(book.due(INTERVAL_S, NONE, FIRST_CHECK_S)) < 40


def test_while_a_circuit_is_open_looks_come_often(book: HealthBook):
    assert book.due(INTERVAL_S, UP, 0.1) == ["up"]
    book.record(look(Seen.UNREACHABLE), 1.0)
    assert book.due(INTERVAL_S, UP, 1.0 + RECHECK_S - 0.1) == []
    assert book.due(INTERVAL_S, UP, 1.0 + RECHECK_S) == ["up"]


def test_keys_take_turns_and_those_in_quarantine_only_where_there_is_no_other(book: HealthBook):
    three = provider("up", "a", "b", "c")
    book.retain([three], 0.0)
    usable = frozenset({"up-a", "up-c"})
    assert {book.credential(three, usable).id for _ in range(4)} == usable
    assert {book.credential(three, NONE).id for _ in range(6)} == {"up-a", "up-b", "up-c"}
    assert book.credential(provider("gone"), NONE).id == "gone-a"


def test_a_success_brings_each_open_circuit_of_the_provider_forward_once(book: HealthBook):
    circuits = [*OPEN, ("up/m", "up-b", True), ("up/o", "up-a", False), ("upper/m", "up-a", True)]
    looked(book, Seen.OK, 10.0)
    assert book.to_bring_forward("up", circuits) == [("up/m", "up-a"), ("up/m", "up-b")]
    book.brought_forward("up", ("up/m", "up-a"))
    looked(book, Seen.OK, 20.0)
    assert book.to_bring_forward("up", circuits) == [("up/m", "up-b")]


def test_a_circuit_that_closed_or_a_provider_that_was_down_since_is_brought_forward_again(book: HealthBook):
    looked(book, Seen.OK, 10.0)
    book.brought_forward("up", ("up/m", "up-a"))
    assert book.to_bring_forward("up", OPEN) == []
    assert book.to_bring_forward("up", []) == []
    assert book.to_bring_forward("up", OPEN)
    book.brought_forward("up", ("up/m", "up-a"))
    looked(book, Seen.UNREACHABLE, 40.0)
    looked(book, Seen.OK, 50.0)
    assert book.to_bring_forward("up", OPEN)


@pytest.mark.parametrize("seen", [Seen.FAILED, Seen.AUTH, Seen.UNREACHABLE])
def test_only_a_success_brings_anything_forward(book: HealthBook, seen: Seen):
    looked(book, seen, 10.0)
    assert book.to_bring_forward("up", OPEN) == []


def test_looks_of_the_same_outcome_are_counted_and_uptime_is_time(book: HealthBook):
    assert book.health("up", 9.0) is None
    looked(book, Seen.OK, 10.0)
    health = book.health("up", 10.0)
    assert health is not None
    assert (health.consecutive, health.uptime) == (1, None)
    for now_s in (20.0, 30.0, 40.0):
        looked(book, Seen.OK, now_s)
    for now_s in (50.0, 51.0, 52.0):
        looked(book, Seen.FAILED, now_s)
    health = book.health("up", 60.0)
    assert health is not None
    assert (health.consecutive, health.last.seen) == (3, Seen.FAILED)
    assert health.uptime == pytest.approx(40 / 50, abs=0.001)


def test_old_times_count_less(book: HealthBook):
    looked(book, Seen.FAILED, 0.0)
    looked(book, Seen.OK, 86_400.0)
    health = book.health("up", 4 * 86_400.0)
    assert health is not None
    assert health.uptime is not None
    assert health.uptime > 0.9


def test_what_is_gone_is_forgotten_and_what_has_changed_is_looked_at_anew(book: HealthBook):
    looked(book, Seen.OK, 10.0)
    book.retain([provider()], 20.0)
    assert book.health("up", 20.0) is not None
    moved = msgspec.structs.replace(provider(), base_url="https://elsewhere.test")
    book.retain([moved], 20.0)
    assert book.health("up", 20.0) is None
    assert book.due(INTERVAL_S, NONE, 30.0) == ["up"]
    book.retain([], 40.0)
    book.record(look(), 41.0)
    assert book.health("up", 41.0) is None
    assert book.to_bring_forward("up", OPEN) == []
    book.brought_forward("up", ("up/m", "up-a"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Seen), st.floats(0.0, 1e5)), max_size=30))
def test_uptime_is_always_a_share(looks: list[tuple[Seen, float]]):
    book = HealthBook(random.Random(1))
    book.retain([provider()], 0.0)
    now_s = 0.0
    for seen, passed_s in looks:
        now_s += passed_s
        looked(book, seen, now_s)
        health = book.health("up", now_s + 1.0)
        assert health is not None
        assert health.uptime is None or -1e-9 <= health.uptime <= 1 + 1e-9
