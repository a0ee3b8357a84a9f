"""What routing remembers of endpoints and credentials."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.failure import FailureKind
from routerx.domain.policy import Policy
from routerx.routing import state as state_module
from routerx.routing.credentials import QUARANTINE_PROBE_S
from routerx.routing.state import EXPLORE_S, LATENCY_STALE_S, Measured
from tests.unit.routing.routing_world import World, endpoint, failure, model, provider, snapshot

POLICY = Policy("default")


def two_keys() -> World:
    return World(snapshot([model("m", endpoint("a/x"))], [provider("a", keys=2)]))


def one_key() -> World:
    return World(snapshot([model("m", endpoint("a/x"))]))


def test_credentials_take_turns() -> None:
    world = two_keys()
    assert [world.pick("a/x") for _ in range(4)] == ["a-1", "a-2", "a-1", "a-2"]


def test_a_rate_limited_credential_rests_for_retry_after_and_the_circuit_stays_closed() -> None:
    world = one_key()
    world.fail("a/x", FailureKind.RATE_LIMITED, retry_after_s=7.0)
    assert world.pick("a/x") is None
    assert world.state.view(world.now_s)[0].circuit == "closed"
    assert world.state.view(world.now_s)[0].credential == "cooling"
    world.now_s += 6.9
    assert world.pick("a/x") is None
    world.now_s += 0.1
    assert world.pick("a/x") == "a-1"


def test_only_the_limited_credential_rests() -> None:
    world = two_keys()
    world.fail("a/x", FailureKind.RATE_LIMITED, retry_after_s=7.0)
    assert {world.pick("a/x") for _ in range(3)} == {"a-2"}


def test_the_longer_of_two_deadlines_wins() -> None:
    world = one_key()
    world.fail("a/x", FailureKind.RATE_LIMITED, retry_after_s=20.0)
    world.state.failed("a/x", "a-1", failure(FailureKind.RATE_LIMITED, 2.0), POLICY, world.now_s + 1)
    assert world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s) == 20.0


@pytest.mark.parametrize(
    ("retry_after_s", "rest_s"),
    [(10**9, 300.0), (math.inf, 300.0), (math.nan, 1.0), (-5.0, 1.0), (0.0, 1.0), (0.01, 1.0), (None, 1.0)],
)
def test_an_absurd_retry_after_is_tamed(retry_after_s: float | None, rest_s: float) -> None:
    world = one_key()
    world.fail("a/x", FailureKind.RATE_LIMITED, retry_after_s=retry_after_s)
    assert world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s) == rest_s


def test_without_retry_after_each_rest_doubles_up_to_a_minute_and_a_success_resets_it() -> None:
    world = one_key()
    rests = []
    for _ in range(8):
        world.fail("a/x", FailureKind.RATE_LIMITED)
        rests.append(world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s))
        world.now_s += rests[-1]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    world.answer("a/x")
    world.fail("a/x", FailureKind.RATE_LIMITED)
    assert world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s) == 1


def test_many_refusals_at_the_same_moment_are_one_sign() -> None:
    world = one_key()
    for _ in range(20):
        assert world.pick("a/x") == "a-1"
    for _ in range(20):
        world.state.failed("a/x", "a-1", failure(FailureKind.RATE_LIMITED), POLICY, world.now_s)
    assert world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s) <= 2.0


@pytest.mark.parametrize("kind", [FailureKind.AUTH_FAILED, FailureKind.EXHAUSTED])
def test_a_dead_credential_is_quarantined_and_one_probe_per_interval_may_bring_it_back(kind: FailureKind) -> None:
    world = two_keys()
    world.fail("a/x", kind)
    assert {world.pick("a/x") for _ in range(4)} == {"a-2"}
    world.state.succeeded("a/x", "a-1", Measured(None, 1.0), world.now_s + 1)  # A call from before proves nothing.
    world.now_s += 2
    assert world.pick("a/x") == "a-2"
    world.now_s += QUARANTINE_PROBE_S
    assert sorted(str(world.pick("a/x")) for _ in range(4)) == ["a-1", "a-2", "a-2", "a-2"]
    world.state.succeeded("a/x", "a-1", Measured(None, 1.0), world.now_s)
    assert sorted(str(world.pick("a/x")) for _ in range(4)) == ["a-1", "a-1", "a-2", "a-2"]


@pytest.mark.parametrize("how", ["abandoned", "rejected"])
def test_a_probe_of_a_quarantined_credential_that_says_nothing_is_given_back(how: str) -> None:
    world = one_key()
    world.fail("a/x", FailureKind.AUTH_FAILED)
    world.now_s += QUARANTINE_PROBE_S
    assert world.pick("a/x") == "a-1"
    assert world.pick("a/x") is None
    if how == "abandoned":
        world.state.abandoned("a/x", "a-1", world.now_s)
    else:
        world.state.failed("a/x", "a-1", failure(FailureKind.REJECTED), POLICY, world.now_s)
    assert world.state.view(world.now_s)[0].credential == "quarantined"
    assert world.pick("a/x") == "a-1"


def test_an_upstreams_rejection_of_the_request_counts_for_nothing() -> None:
    world = one_key()
    world.fail("a/x", FailureKind.REJECTED, times=20)
    assert world.pick("a/x") == "a-1"
    assert world.state.view(world.now_s)[0].failures == 0


def test_five_failures_open_the_circuit_of_that_credential_only() -> None:
    world = two_keys()
    world.fail("a/x", FailureKind.SERVER_ERROR, times=9)  # In turn: five by a-1, four by a-2.
    assert {world.pick("a/x") for _ in range(3)} == {"a-2"}


def test_exactly_one_probe_goes_through_an_open_circuit_per_interval() -> None:
    world = one_key()
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    assert world.pick("a/x") is None
    world.now_s += POLICY.breaker.cooldown_s
    assert [world.pick("a/x") for _ in range(3)] == ["a-1", None, None]
    assert world.state.view(world.now_s)[0].circuit == "half_open"
    world.now_s += 1.0
    world.state.succeeded("a/x", "a-1", Measured(0.1, 1.0), world.now_s)
    assert world.pick("a/x") == "a-1"


@pytest.mark.parametrize("how", ["abandoned", "rejected", "limited"])
def test_a_probe_that_says_nothing_of_the_endpoint_is_given_back(how: str) -> None:
    world = one_key()
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    world.now_s += POLICY.breaker.cooldown_s
    assert world.pick("a/x") == "a-1"
    if how == "abandoned":
        world.state.abandoned("a/x", "a-1", world.now_s)
    else:
        kind = FailureKind.REJECTED if how == "rejected" else FailureKind.RATE_LIMITED
        world.state.failed("a/x", "a-1", failure(kind), POLICY, world.now_s)
        world.now_s += 1.0
    assert world.pick("a/x") == "a-1"


@pytest.mark.parametrize("how", ["succeeded", "failed", "abandoned", "rejected"])
def test_calls_from_before_the_probe_say_nothing_of_it(how: str) -> None:
    """A hundred calls that hung when their provider went down end one by one, long after its circuit has opened."""
    world = one_key()
    began_s = world.now_s
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    world.now_s += POLICY.breaker.cooldown_s
    probed_s = world.now_s
    assert world.pick("a/x") == "a-1"
    world.now_s += 1.0
    match how:
        case "succeeded":
            world.state.succeeded("a/x", "a-1", Measured(None, world.now_s - began_s), world.now_s)
        case "abandoned":
            world.state.abandoned("a/x", "a-1", world.now_s, began_s=began_s)
        case _:
            kind = FailureKind.FIRST_BYTE_TIMEOUT if how == "failed" else FailureKind.REJECTED
            world.state.failed("a/x", "a-1", failure(kind), POLICY, world.now_s, began_s=began_s)
    assert world.state.view(world.now_s)[0].circuit == "half_open"
    assert world.pick("a/x") is None
    world.state.succeeded("a/x", "a-1", Measured(None, world.now_s - probed_s), world.now_s)
    assert world.state.view(world.now_s)[0].circuit == "closed"


@given(st.floats(0.0, 1e4), st.floats(0.0, 600.0))
def test_the_probes_own_answer_is_never_taken_for_an_older_one(at_s: float, took_s: float) -> None:
    world = one_key()
    world.now_s = at_s
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    world.now_s += POLICY.breaker.cooldown_s
    assert world.pick("a/x") == "a-1"
    end_s = world.now_s + took_s
    world.state.succeeded("a/x", "a-1", Measured(None, end_s - world.now_s), end_s)
    assert world.state.view(end_s)[0].circuit == "closed"


@given(st.lists(st.tuples(st.floats(0.0, 8.0), st.booleans()), min_size=1, max_size=150))
@settings(max_examples=60, deadline=None)
def test_while_everybody_is_down_each_endpoint_gets_one_call_per_cooldown(steps: list[tuple[float, bool]]) -> None:
    """However often a look off the request path says that its provider is well."""
    world = one_key()
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    opened_s = world.now_s
    calls = 0
    for passed_s, looks in steps:
        world.now_s += passed_s
        if looks:
            world.state.brought_forward("a/x", "a-1", world.now_s, POLICY)
        if world.pick("a/x") is not None:
            calls += 1
            world.state.failed("a/x", "a-1", failure(FailureKind.SERVER_ERROR), POLICY, world.now_s)
    assert calls <= (world.now_s - opened_s) / POLICY.breaker.cooldown_s


def test_a_good_look_brings_the_probe_forward_to_the_end_of_one_cooldown() -> None:
    world, cooldown_s = one_key(), POLICY.breaker.cooldown_s
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    assert not world.state.brought_forward("a/x", "a-1", world.now_s, POLICY)  # It is due by then anyway.
    world.now_s += cooldown_s
    world.fail("a/x", FailureKind.SERVER_ERROR)
    ready_in_s = world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s)
    assert ready_in_s == 2 * cooldown_s
    assert world.state.brought_forward("a/x", "a-1", world.now_s + 1.0, POLICY)
    assert world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s) == cooldown_s
    assert not world.state.brought_forward("b/x", "b-1", world.now_s, POLICY)


def test_a_credential_over_its_requests_per_minute_is_skipped_not_failed() -> None:
    world = World(snapshot([model("m", endpoint("a/x"))], [provider("a", rpm=3)]))
    assert [world.pick("a/x") for _ in range(4)] == ["a-1", "a-1", "a-1", None]
    wait_s = world.state.ready_in_s(world.config.providers["a"], "a/x", world.now_s)
    assert 60.0 <= wait_s <= 65.0
    world.now_s += wait_s
    assert world.pick("a/x") == "a-1"


def test_latency_is_of_first_tokens_for_streams_and_of_whole_answers_otherwise() -> None:
    world = one_key()
    assert world.state.latency_s("a/x", world.now_s, stream=True) is None
    world.answer("a/x", ttft_s=0.2, total_s=2.0)
    world.answer("a/x", ttft_s=0.7, total_s=2.0)
    assert world.state.latency_s("a/x", world.now_s, stream=True) == pytest.approx(0.3)
    assert world.state.latency_s("a/x", world.now_s, stream=False) == pytest.approx(2.0)


def test_a_stale_latency_is_forgotten() -> None:
    world = one_key()
    world.answer("a/x", ttft_s=9.0, total_s=9.0)
    world.now_s += LATENCY_STALE_S + 1
    assert world.state.latency_s("a/x", world.now_s, stream=True) is None
    world.answer("a/x", ttft_s=None, total_s=1.0)
    assert world.state.latency_s("a/x", world.now_s, stream=True) == 1.0


def test_percentiles_forget_what_is_stale() -> None:
    world = one_key()
    for _ in range(9):
        world.state.succeeded("a/x", "a-1", Measured(8.0, 9.0, 10), world.now_s)
    assert world.state.latency_at("a/x", 90, world.now_s) == 8.0
    assert world.state.throughput_at("a/x", 90, world.now_s) == pytest.approx(10.0)
    world.now_s += LATENCY_STALE_S + 1
    assert world.state.latency_at("a/x", 90, world.now_s) is None
    assert world.state.throughput_at("a/x", 90, world.now_s) is None
    world.state.succeeded("a/x", "a-1", Measured(0.5, 1.5, 50), world.now_s)
    assert world.state.latency_at("a/x", 90, world.now_s) == 0.5
    assert world.state.throughput_at("a/x", 90, world.now_s) == pytest.approx(50.0)


def test_exploring_has_one_turn_per_interval() -> None:
    world = one_key()
    target = world.endpoint("a/x")
    assert world.state.explore(target, world.now_s)
    assert not world.state.explore(target, world.now_s + EXPLORE_S - 1)
    assert world.state.explore(target, world.now_s + EXPLORE_S)


def test_a_reload_keeps_what_is_still_there_and_drops_the_rest() -> None:
    world = World(snapshot([model("m", endpoint("a/x"), endpoint("b/x")), model("n", endpoint("c/x", "n"))]))
    world.state.retain(world.config)
    for path in ("a/x", "b/x", "c/x"):
        world.fail(path, FailureKind.SERVER_ERROR, times=5)
    after = snapshot([model("m", endpoint("a/x")), model("n", endpoint("b/y", "n"))], generation=2)
    world.state.retain(after)
    assert [(row.endpoint, row.circuit) for row in world.state.view(world.now_s)] == [("a/x", "open")]


def test_results_of_calls_that_outlive_their_endpoint_are_dropped() -> None:
    world = World(snapshot([model("m", endpoint("a/x"), endpoint("b/x"))]))
    world.pick("b/x")
    world.state.retain(snapshot([model("m", endpoint("a/x"))], generation=2))
    world.state.succeeded("b/x", "b-1", Measured(0.1, 1.0), world.now_s)
    world.state.failed("b/x", "b-1", failure(FailureKind.AUTH_FAILED), POLICY, world.now_s)
    world.state.abandoned("b/x", "b-1", world.now_s)
    assert world.state.view(world.now_s) == ()


def test_results_of_calls_that_outlive_their_credential_are_dropped() -> None:
    world = two_keys()
    assert [world.pick("a/x"), world.pick("a/x")] == ["a-1", "a-2"]
    world.state.retain(snapshot([model("m", endpoint("a/x"))], generation=2))
    world.state.failed("a/x", "a-2", failure(FailureKind.SERVER_ERROR), POLICY, world.now_s)
    assert [row.credential_id for row in world.state.view(world.now_s)] == ["a-1"]


def test_a_new_key_starts_out_of_quarantine() -> None:
    world = one_key()
    world.fail("a/x", FailureKind.AUTH_FAILED)
    assert world.pick("a/x") is None
    world.config = snapshot([model("m", endpoint("a/x"))], [provider("a", keys=2)], generation=2)
    world.state.retain(world.config)
    assert world.pick("a/x") == "a-2"


def test_a_path_nobody_declared_survives_reloads_with_its_provider() -> None:
    world = one_key()
    world.state.retain(world.config)
    typed = endpoint("a/typed")
    for _ in range(5):
        world.state.pick_credential(world.config.providers["a"], typed, POLICY, world.now_s)
        world.state.failed("a/typed", "a-1", failure(FailureKind.SERVER_ERROR), POLICY, world.now_s)
    world.state.retain(world.config)
    assert [row.circuit for row in world.state.view(world.now_s)] == ["open"]
    world.state.retain(snapshot([model("m", endpoint("b/x"))], generation=3))
    assert world.state.view(world.now_s) == ()


def test_memory_is_bounded_whatever_paths_callers_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "LANES_MAX", 16)
    world = one_key()
    for number in range(100):
        world.now_s += 1
        world.pick("a/x")
        world.state.pick_credential(world.config.providers["a"], endpoint(f"a/typed-{number}"), POLICY, world.now_s)
    seen = [row.endpoint for row in world.state.view(world.now_s)]
    assert len(seen) <= 16
    assert "a/x" in seen


def test_a_provider_without_credentials_is_never_ready() -> None:
    world = World(snapshot([model("m", endpoint("a/x"))], [provider("a", keys=0)]))
    assert math.isinf(world.state.ready_s(world.config.providers["a"], "a/x", world.now_s))
    assert world.pick("a/x") is None
