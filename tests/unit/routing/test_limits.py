"""What a provider's limits, and its keys', let through: laws over any traffic, and what callers are told."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.failure import FailureKind
from routerx.domain.policy import Policy
from routerx.errors import UpstreamsLimited
from routerx.providers.spec import Credential, Provider, RequestLimit
from routerx.routing.plan import no_healthy
from routerx.routing.state import Measured
from routerx.routing.window import SlidingCount
from tests.unit.routing.routing_world import World, chat, endpoint, failure, model, provider, snapshot

POLICY = Policy("default")


def limited(requests: int, window_s: float, *, keys: int = 1) -> Provider:
    return msgspec.structs.replace(provider("a", keys=keys), limit=RequestLimit(requests, window_s))


def by_tokens(name: str, tpm: int) -> Provider:
    key = Credential(f"{name}-1", None, tpm=tpm)
    return msgspec.structs.replace(provider(name), credentials=(key,), limits_tokens=True)


def one(made: Provider) -> World:
    return World(snapshot([model("m", endpoint(f"{made.name}/x"))], [made]))


# --- limits of requests


@given(
    st.lists(st.tuples(st.floats(0.0, 30.0), st.booleans()), min_size=1, max_size=80),
    st.integers(1, 8),
    st.floats(0.5, 120.0),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_provider_gets_no_more_than_its_limit_in_any_window(
    calls: list[tuple[float, bool]], requests: int, window_s: float, keys: int
) -> None:
    """Whichever of its keys and endpoints are called."""
    made = limited(requests, window_s, keys=keys)
    world = World(snapshot([model("m", endpoint("a/x"), endpoint("a/y"))], [made]))
    went: list[float] = []
    for gap_s, other in calls:
        world.now_s += gap_s
        path = "a/y" if other else "a/x"
        is_ready = world.state.ready_s(made, path, world.now_s) <= world.now_s
        picked = world.pick(path)
        assert (picked is not None) is is_ready
        if picked is not None:
            went.append(world.now_s)
    for end_s in went:
        assert sum(end_s - window_s < at_s <= end_s for at_s in went) <= requests


@given(st.integers(1, 6), st.floats(0.1, 600.0), st.floats(0.0, 10_000.0))
@settings(max_examples=60, deadline=None)
def test_who_waits_as_long_as_it_is_told_finds_room(requests: int, window_s: float, begin_s: float) -> None:
    world = one(limited(requests, window_s))
    world.now_s = begin_s
    for _ in range(requests):
        assert world.pick("a/x") == "a-1"
    assert world.pick("a/x") is None
    wait_s = world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s)
    assert window_s * 0.999 <= wait_s <= window_s * 13 / 12 * 1.001
    world.now_s += wait_s + 0.001  # What is added to a clock is rounded.
    assert world.pick("a/x") == "a-1"


def test_a_limit_that_is_changed_keeps_what_was_counted() -> None:
    world = one(limited(2, 60.0))
    assert [world.pick("a/x") for _ in range(3)] == ["a-1", "a-1", None]
    world.config = snapshot([model("m", endpoint("a/x"))], [limited(3, 60.0)], generation=2)
    world.state.retain(world.config)
    assert [world.pick("a/x") for _ in range(2)] == ["a-1", None]


def test_calls_that_failed_count_against_a_limit_and_open_nothing() -> None:
    world = one(limited(3, 60.0))
    world.fail("a/x", FailureKind.SERVER_ERROR, times=3)
    assert world.state.why_blocked(world.config.providers["a"], "a/x", world.now_s) == "provider_limited"
    assert world.state.view(world.now_s)[0].circuit == "closed"


# --- limits of tokens


def test_a_request_that_does_not_fit_into_what_is_left_of_a_keys_tokens_goes_to_another_provider() -> None:
    config = snapshot([model("m", endpoint("a/x"), endpoint("b/x"))], [by_tokens("a", 1_000)], POLICY)
    world = World(config)
    large, small = (chat(input_tokens_estimate=1_200, output_tokens_max=most) for most in (200, 10))
    taken = world.state.pick_credential(config.providers["a"], world.endpoint("a/x"), POLICY, world.now_s, tokens=300)
    assert taken is not None
    plan = world.plan(large)
    assert [each.endpoint.key for each in plan.candidates] == ["b/x"]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("a/x", "credential_tpm")]
    assert sorted(world.order(small)) == ["a/x", "b/x"]


def test_where_only_tokens_are_in_the_way_callers_are_told_when_their_request_fits() -> None:
    config = snapshot([model("m", endpoint("a/x"))], [by_tokens("a", 1_000)], POLICY)
    world = World(config)
    ask = chat(input_tokens_estimate=1_200, output_tokens_max=200)
    plan = world.plan(ask)
    at, key = world.endpoint("a/x"), config.providers["a"]
    assert world.state.pick_credential(key, at, POLICY, world.now_s, tokens=300) is not None
    world.now_s += 30.0
    assert world.state.pick_credential(key, at, POLICY, world.now_s, tokens=100) is not None
    with pytest.raises(UpstreamsLimited) as caught:
        world.plan(ask)
    told = no_healthy(plan, config, world.state, world.now_s, ask.tokens_likely)
    assert isinstance(told, UpstreamsLimited)
    assert caught.value.retry_after_s == told.retry_after_s == pytest.approx(30.0, abs=5.0)
    world.now_s += told.retry_after_s + 0.001
    assert world.order(ask) == ["a/x"]
    assert world.state.pick_credential(key, at, POLICY, world.now_s, tokens=ask.tokens_likely) is not None


def test_tokens_of_a_call_that_failed_stay_reserved() -> None:
    """Calls that fail count against OpenAI's limits (its guide on rate limits)."""
    world = one(by_tokens("a", 1_000))
    at, key = world.endpoint("a/x"), world.config.providers["a"]
    assert world.state.pick_credential(key, at, POLICY, world.now_s, tokens=900) is not None
    world.state.failed("a/x", "a-1", failure(FailureKind.SERVER_ERROR), POLICY, world.now_s)
    assert world.state.pick_credential(key, at, POLICY, world.now_s, tokens=900) is None


@pytest.mark.parametrize(("reported", "room"), [(0, False), (100, True)])
def test_tokens_that_nobody_reports_stay_reserved(reported: int, room: bool) -> None:
    world = one(by_tokens("a", 1_000))
    at, key = world.endpoint("a/x"), world.config.providers["a"]
    assert world.state.pick_credential(key, at, POLICY, world.now_s, tokens=900) is not None
    world.now_s += 2.0
    world.state.succeeded("a/x", "a-1", Measured(None, 2.0, tokens=reported, reserved=900), world.now_s)
    picked = world.state.pick_credential(key, at, POLICY, world.now_s, tokens=500)
    assert (picked is not None) is room


calls_by_tokens = st.lists(
    st.tuples(st.floats(0.0, 15.0), st.integers(1, 600), st.integers(0, 600), st.floats(0.0, 90.0)),
    min_size=1,
    max_size=50,
)


@given(calls_by_tokens)
@settings(max_examples=60, deadline=None)
def test_no_minute_takes_more_tokens_than_the_limit_however_late_the_bills_come(
    calls: list[tuple[float, int, int, float]],
) -> None:
    """Where nobody takes more than was reserved: whoever answers late is corrected where it began."""
    made = by_tokens("a", 1_000)
    world = one(made)
    went: list[tuple[float, int]] = []
    bills: list[tuple[float, float, int, int]] = []
    for gap_s, reserved, share, took_s in calls:
        world.now_s += gap_s
        for bill in [bill for bill in bills if bill[0] <= world.now_s]:
            bills.remove(bill)
            end_s, began_s, tokens, held = bill
            world.state.succeeded("a/x", "a-1", Measured(None, end_s - began_s, 1, tokens, held), end_s)
        at = world.endpoint("a/x")
        if world.state.pick_credential(made, at, POLICY, world.now_s, tokens=reserved) is not None:
            used = max(1, min(share, reserved))
            went.append((world.now_s, used))
            bills.append((world.now_s + took_s, world.now_s, used, reserved))
    for end_s, _ in went:
        assert sum(used for at_s, used in went if end_s - 60.0 < at_s <= end_s) <= 1_000


@given(
    st.lists(
        st.tuples(st.floats(0.0, 20.0), st.integers(0, 50), st.integers(-80, 80), st.floats(0.0, 90.0)), max_size=60
    )
)
@settings(max_examples=100, deadline=None)
def test_a_corrected_count_is_never_below_nothing_and_ends_empty(
    steps: list[tuple[float, int, int, float]],
) -> None:
    count = SlidingCount(60.0, 12)
    now_s = 100.0
    for gap_s, added, delta, ago_s in steps:
        now_s += gap_s
        count.add(now_s, added)
        before = count.count(now_s)
        count.correct(now_s - ago_s, delta)
        after = count.count(now_s)
        assert 0 <= after <= before + max(delta, 0)
    assert count.count(now_s + 66.0) == 0


# --- pacing


def test_a_key_that_is_paced_makes_room_for_another_and_is_no_failure() -> None:
    world = World(snapshot([model("m", endpoint("a/x"))], [provider("a", keys=2)]))
    world.state.retain(world.config)
    assert world.pick("a/x") == "a-1"
    world.state.paced("a-1", 20.0, world.now_s)
    assert {world.pick("a/x") for _ in range(3)} == {"a-2"}
    world.state.paced("a-2", 10.0, world.now_s)
    with pytest.raises(UpstreamsLimited) as caught:
        world.plan()
    assert caught.value.retry_after_s == pytest.approx(10.0)
    assert {row.circuit for row in world.state.view(world.now_s)} == {"closed"}
    world.now_s += 10.0
    assert world.pick("a/x") == "a-2"


def test_what_is_said_of_a_callers_own_key_is_not_kept() -> None:
    world = one(provider("a"))
    world.state.retain(world.config)
    world.state.paced("own-1234", 20.0, world.now_s)
    assert world.state.key_stats(world.now_s) == ()
