"""Credentials: rests, limits, pacing and counts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.failure import Failure, FailureKind
from routerx.providers.spec import Credential
from routerx.routing.credentials import CredentialBook

KEY = Credential("lab-1", None)
NOW_S = 600.0


def test_tokens_per_minute_are_reserved_and_corrected_by_what_was_used() -> None:
    book, key = CredentialBook(), Credential("lab-1", None, tpm=1_000)
    book.take(key, NOW_S, 900)
    assert book.ready_s(key, NOW_S, 200) > NOW_S
    assert book.why(key, NOW_S) == "credential_tpm"
    book.used(key.id, NOW_S, 900, 100)
    assert book.ready_s(key, NOW_S, 200) <= NOW_S


def test_a_call_larger_than_the_whole_limit_goes_when_nothing_else_does() -> None:
    book, key = CredentialBook(), Credential("lab-1", None, tpm=100)
    assert book.ready_s(key, NOW_S, 5_000) <= NOW_S
    book.take(key, NOW_S, 1)
    assert book.ready_s(key, NOW_S, 5_000) > NOW_S


def test_a_provider_that_says_nothing_is_left_is_not_asked_until_more_is() -> None:
    book = CredentialBook()
    book.paced("lab-1", 20.0, NOW_S)
    assert (book.ready_s(KEY, NOW_S), book.why(KEY, NOW_S)) == (NOW_S + 20.0, "credential_paced")
    book.paced("lab-1", 5.0, NOW_S)
    assert book.ready_s(KEY, NOW_S) == NOW_S + 20.0
    book.paced("lab-1", 10_000.0, NOW_S)
    assert book.ready_s(KEY, NOW_S) == NOW_S + 60.0


def test_pacing_never_ends_a_quarantine() -> None:
    book = CredentialBook()
    book.failed("lab-1", Failure(FailureKind.AUTH_FAILED, "x"), NOW_S)
    until_s = book.until_s("lab-1")
    book.paced("lab-1", 1.0, NOW_S)
    assert (book.state("lab-1", NOW_S), book.until_s("lab-1")) == ("quarantined", until_s)


def test_an_operator_ends_a_quarantine() -> None:
    book = CredentialBook()
    book.failed("lab-1", Failure(FailureKind.AUTH_FAILED, "x"), NOW_S)
    book.cleared("lab-1", NOW_S)
    assert (book.state("lab-1", NOW_S), book.ready_s(KEY, NOW_S)) == ("active", NOW_S)


def test_what_was_done_with_a_key_is_counted_in_all_and_by_time() -> None:
    book = CredentialBook()
    for minute, outcome in enumerate(["ok", "ok", "limited", "broken"]):
        at_s = NOW_S + 60.0 * minute
        book.take(KEY, at_s, 10)
        if outcome == "ok":
            book.proved(KEY.id, 30, at_s)
        else:
            kind = FailureKind.RATE_LIMITED if outcome == "limited" else FailureKind.SERVER_ERROR
            book.failed(KEY.id, Failure(kind, "x"), at_s)
    now_s = NOW_S + 3 * 60.0
    (stats,) = book.stats(now_s)
    assert (stats.requests, stats.successes, stats.failures, stats.rate_limited, stats.tokens) == (4, 2, 1, 1, 60)
    assert stats.last_used_s == now_s
    series = book.series(KEY.id, 300.0, 60.0, now_s + 59.0)
    assert [point.requests for point in series] == [0, 1, 1, 1, 1]
    assert [point.tokens for point in series] == [0, 30, 30, 0, 0]
    assert sum(point.requests for point in book.series(KEY.id, 3_600.0, 1_800.0, now_s)) == 4


@given(
    st.lists(st.tuples(st.floats(0.0, 900.0), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([60.0, 300.0, 3_600.0, 7_000.0]),
    st.integers(1, 24),
)
@settings(max_examples=60, deadline=None)
def test_a_series_has_every_call_of_its_window_once_to_the_minute(
    calls: list[tuple[float, bool]], step_s: float, steps: int
) -> None:
    book, now_s, ended = CredentialBook(), NOW_S, []
    for gap_s, good in calls:
        now_s += gap_s
        ended.append(now_s)
        if good:
            book.proved(KEY.id, 7, now_s)
        else:
            book.failed(KEY.id, Failure(FailureKind.SERVER_ERROR, "x"), now_s)
    series = book.series(KEY.id, steps * step_s, step_s, now_s)
    assert [point.ago_s for point in series] == [(steps - n) * step_s for n in range(steps)]
    begin_s = now_s - steps * step_s
    shown = sum(point.requests for point in series)
    assert sum(at_s > begin_s for at_s in ended) <= shown <= sum(at_s > begin_s - 60.0 for at_s in ended)
    assert sum(point.successes + point.failures for point in series) == shown
    (stats,) = book.stats(now_s)
    assert stats.requests == stats.successes + stats.failures == len(calls)
    assert stats.tokens == 7 * stats.successes


def test_a_key_is_kept_only_as_long_as_it_is_configured() -> None:
    book = CredentialBook()
    book.failed("lab-1", Failure(FailureKind.AUTH_FAILED, "x"), NOW_S)
    book.failed("lab-2", Failure(FailureKind.AUTH_FAILED, "x"), NOW_S)
    book.retain(frozenset({"lab-2"}))
    assert [one.credential_id for one in book.stats(NOW_S)] == ["lab-2"]
    assert (book.state("lab-1", NOW_S), book.state("lab-2", NOW_S)) == ("active", "quarantined")


def test_a_key_that_nobody_used_has_an_empty_history() -> None:
    assert [point.requests for point in CredentialBook().series("nobody", 120.0, 60.0, NOW_S)] == [0, 0]


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=80), st.integers(1, 10))
@settings(max_examples=60)
def test_requests_per_minute_are_never_more_than_the_limit_in_any_minute(gaps: list[float], rpm: int) -> None:
    book, key = CredentialBook(), Credential("lab-1", None, rpm=rpm)
    now_s, taken = NOW_S, []
    for gap in gaps:
        now_s += gap
        if book.ready_s(key, now_s) <= now_s:
            book.take(key, now_s, 1)
            taken.append(now_s)
    for end_s in taken:
        assert sum(end_s - 60.0 < at_s <= end_s for at_s in taken) <= rpm


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 400), st.integers(0, 400)), min_size=1, max_size=60))
@settings(max_examples=60)
def test_tokens_that_were_used_never_pass_the_limit_in_any_minute(calls: list[tuple[float, int, int]]) -> None:
    """Where nobody takes more than was reserved."""
    book, key = CredentialBook(), Credential("lab-1", None, tpm=1_000)
    now_s, used = NOW_S, []
    for gap, reserved, share in calls:
        now_s += gap
        if book.ready_s(key, now_s, reserved) <= now_s:
            book.take(key, now_s, reserved)
            tokens = min(share, reserved)
            book.used(key.id, now_s, reserved, tokens)
            used.append((now_s, tokens))
    for end_s, _ in used:
        assert sum(tokens for at_s, tokens in used if end_s - 60.0 < at_s <= end_s) <= 1_000
