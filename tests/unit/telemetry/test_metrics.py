"""Metrics: what one scrape says after some requests, and that labels stay bounded whatever callers send."""

import asyncio
import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.usage import Usage, UsageSource
from routerx.telemetry import metrics as module
from routerx.telemetry.metrics import (
    LAG_INTERVAL_S,
    METRICS,
    TOKEN_BUCKETS,
    LoopLag,
    Metrics,
    Reading,
    _Histogram,
)
from tests.support.clock import ManualClock


def attempt(n: int, endpoint: str, outcome: str) -> AttemptRecord:
    return AttemptRecord(
        n=n,
        endpoint=endpoint,
        provider=endpoint.split("/")[0],
        credential_id="a-0",
        outcome=outcome,
        upstream_status=None,
        dispatched=True,
        started_ms=0,
        first_byte_ms=None,
        duration_ms=10,
        won=outcome == "ok",
    )


def record(**changes: object) -> RequestRecord:
    base = RequestRecord(
        id="req_1",
        tenant="acme",
        key_id="key_1",
        operation="chat",
        model="gpt-4o",
        endpoint="openai/gpt-4o",
        provider="openai",
        stream=True,
        outcome="ok",
        http_status=200,
        billing=BillingMode.PAID,
        usage=Usage(in_fresh=100, in_cache_read=20, out_text=7),
        usage_source=UsageSource.PROVIDER,
        price=None,
        cost_nano=1_500_000,
        held_nano=9,
        provider_cost_nano=1_000_000,
        started_ns=0,
        duration_ms=1_200,
        ttft_ms=300,
        overhead_us=800,
        attempts=(attempt(1, "openai/gpt-4o", "ok"),),
    )
    return msgspec.structs.replace(base, **changes)


def configured() -> Metrics:
    metrics = Metrics()
    metrics.config_loaded(3, frozenset({"gpt-4o", "openai/gpt-4o"}))
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """(name, label values in alphabetical order of their names) → value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_a_request_is_counted_with_its_tokens_and_its_cost() -> None:
    metrics = configured()

    metrics.observe(record())
    metrics.observe(record())
    seen = samples(metrics)

    assert seen["routerx_requests_total", "gpt-4o", "ok", "openai", "acme"] == 2
    assert seen["routerx_tokens_total", "in_fresh", "gpt-4o", "openai"] == 200
    assert seen["routerx_tokens_total", "in_cache_read", "gpt-4o", "openai"] == 40
    assert seen["routerx_tokens_total", "out_text", "gpt-4o", "openai"] == 14
    assert seen["routerx_cost_usd_total", "gpt-4o", "openai", "acme"] == pytest.approx(0.003)
    assert seen["routerx_provider_cost_usd_total", "gpt-4o", "openai"] == pytest.approx(0.002)


@pytest.mark.parametrize("bucket", TOKEN_BUCKETS)
def test_every_bucket_of_usage_is_counted_under_its_own_name(bucket: str) -> None:
    metrics = configured()

    metrics.observe(record(usage=msgspec.structs.replace(Usage(), **{bucket: 5})))

    tokens = {key: value for key, value in samples(metrics).items() if key[0] == "routerx_tokens_total"}
    assert tokens == {("routerx_tokens_total", bucket, "gpt-4o", "openai"): 5}


def test_tokens_of_all_tenants_are_added_up() -> None:
    metrics = configured()

    metrics.observe(record(tenant="a"))
    metrics.observe(record(tenant="b"))

    assert samples(metrics)["routerx_tokens_total", "in_fresh", "gpt-4o", "openai"] == 200


def test_histograms_are_cumulative_and_bounds_are_inclusive() -> None:
    metrics = configured()

    metrics.observe(record(duration_ms=1_000, ttft_ms=None))
    metrics.observe(record(duration_ms=1_001, ttft_ms=50))
    seen = samples(metrics)

    name = "routerx_request_duration_seconds"
    assert seen[f"{name}_bucket", "0.5", "openai"] == 0
    assert seen[f"{name}_bucket", "1.0", "openai"] == 1
    assert seen[f"{name}_bucket", "2.5", "openai"] == 2
    assert seen[f"{name}_bucket", "+Inf", "openai"] == 2
    assert seen[f"{name}_count", "openai"] == 2
    assert seen[f"{name}_sum", "openai"] == pytest.approx(2.001)
    assert seen["routerx_time_to_first_token_seconds_count", "openai"] == 1
    assert seen["routerx_overhead_seconds_count",] == 2


@given(st.lists(st.floats(0, 1_000), max_size=50))
def test_a_histogram_counts_every_value_once_and_at_its_bound(values: list[float]) -> None:
    histogram = _Histogram((0.5, 1.0, 100.0))
    for value in values:
        histogram.observe(value)

    assert sum(histogram.counts) == len(values)
    assert sum(histogram.counts[:2]) == sum(value <= 1.0 for value in values)


def test_a_request_without_tenant_or_provider_is_counted_under_none() -> None:
    metrics = configured()

    metrics.observe(
        record(tenant="", provider=None, endpoint=None, outcome="rejected", usage=None, attempts=(), cost_nano=0)
    )
    seen = samples(metrics)

    assert seen["routerx_requests_total", "gpt-4o", "rejected", "none", "none"] == 1
    assert not [key for key in seen if key[0].startswith("routerx_request_duration_seconds")]


def test_a_model_that_is_not_configured_is_other() -> None:
    metrics = configured()
    for number in range(50):
        metrics.observe(record(model=f"made-up-{number}"))

    models = {key[1] for key in samples(metrics) if key[0] == "routerx_requests_total"}
    assert models == {"other"}


def test_the_number_of_series_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SERIES_MAX", 10)
    metrics = configured()

    for number in range(30):
        metrics.observe(record(tenant=f"t{number}"))
    requests = {key: value for key, value in samples(metrics).items() if key[0] == "routerx_requests_total"}

    assert len(requests) == 11
    assert requests["routerx_requests_total", "other", "ok", "other", "other"] == 20
    assert sum(requests.values()) == 30


def test_retries_and_fallbacks_are_told_apart() -> None:
    metrics = configured()
    bad = "upstream_5xx"

    metrics.observe(
        record(
            attempts=(attempt(1, "openai/gpt-4o", bad), attempt(2, "openai/gpt-4o", bad), attempt(3, "groq/x", "ok"))
        )
    )
    metrics.observe(record(attempts=(attempt(1, "openai/gpt-4o", bad), attempt(2, "openai/gpt-4o", "ok"))))
    metrics.observe(
        record(outcome=bad, attempts=(attempt(1, "openai/gpt-4o", bad), attempt(2, "groq/x", bad)), provider=None)
    )
    seen = samples(metrics)

    assert seen["routerx_attempts_total", bad, "openai"] == 4
    assert seen["routerx_attempts_total", "ok", "openai"] == 1
    assert seen["routerx_attempts_total", bad, "groq"] == 1
    assert seen["routerx_retries_total", "openai"] == 2
    assert seen["routerx_retries_total", "groq"] == 0
    assert seen["routerx_fallbacks_total", "openai", "ok"] == 1
    assert seen["routerx_fallbacks_total", "openai", "failed"] == 1


def test_flags_of_rows_are_counted() -> None:
    metrics = configured()

    metrics.observe(record(flags=("unpriced", "coerced")))
    metrics.observe(record(flags=("unpriced",)))

    assert samples(metrics)["routerx_flagged_requests_total", "unpriced"] == 2


def test_reloads_are_shown() -> None:
    metrics = configured()
    status = (False, 1)
    metrics.read_reloads_from(lambda: status)
    refused = samples(metrics)
    metrics.config_loaded(4, frozenset())
    status = (True, 1)
    loaded = samples(metrics)

    assert (refused["routerx_config_generation",], refused["routerx_config_last_reload_ok",]) == (3, 0)
    assert (loaded["routerx_config_generation",], loaded["routerx_config_last_reload_ok",]) == (4, 1)
    assert loaded["routerx_config_reload_failures_total",] == 1


def test_values_of_others_are_read_at_each_scrape() -> None:
    metrics = configured()
    in_flight = 0
    metrics.read_from(Reading.IN_FLIGHT, lambda: in_flight)
    metrics.read_from(Reading.HELD_NANO, lambda: 2_500_000_000)
    metrics.read_from(Reading.LOG_LINES_DROPPED, lambda: 5)
    metrics.read_breakers_from(lambda: [("openai/gpt-4o", "openai-ab", "open"), ("groq/x", "groq-cd", "closed")])
    in_flight = 7
    seen = samples(metrics)

    assert seen["routerx_requests_in_flight",] == 7
    assert seen["routerx_held_usd",] == 2.5
    assert seen["routerx_log_lines_dropped_total",] == 5
    assert seen["routerx_breaker_state", "openai-ab", "openai/gpt-4o"] == 2
    assert seen["routerx_breaker_state", "groq-cd", "groq/x"] == 0


def test_closed_connections_and_commits_are_counted() -> None:
    metrics = configured()
    metrics.connection_closed("header_timeout")
    metrics.committed(0.002)
    seen = samples(metrics)

    assert seen["routerx_connections_closed_total", "header_timeout"] == 1
    assert seen["routerx_ledger_commit_seconds_bucket", "0.0025"] == 1


def test_every_metric_of_a_scrape_is_in_the_table_and_follows_the_naming_rule() -> None:
    metrics = configured()
    metrics.observe(record(flags=("coerced",)))
    metrics.connection_closed("x")
    for reading in Reading:
        metrics.read_from(reading, lambda: 0)
    metrics.read_breakers_from(lambda: [("a/b", "a-1", "closed")])
    families = {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}
    ours = {name for name in families if name.startswith("routerx_")}

    assert ours == {spec.name.removesuffix("_total") for spec in METRICS}
    for spec in METRICS:
        family = families[spec.name.removesuffix("_total")]
        assert family.type == spec.kind
        assert family.documentation == spec.help
        assert (spec.kind == "counter") == spec.name.endswith("_total")
        assert all(set(sample.labels) - {"le"} == set(spec.labels) for sample in family.samples)


async def test_loop_lag_is_what_a_timer_is_late(caplog: pytest.LogCaptureFixture) -> None:
    metrics, clock = Metrics(), ManualClock()
    task = asyncio.create_task(LoopLag(metrics, clock).run())

    await clock.wait_for_sleepers()
    await clock.run(LAG_INTERVAL_S)
    with caplog.at_level(logging.WARNING, "routerx.loop"):
        clock.advance(LAG_INTERVAL_S + 2.0)
        await clock.wait_for_sleepers()
    task.cancel()

    seen = samples(metrics)
    assert seen["routerx_loop_lag_seconds_bucket", "0.001"] == 1
    assert seen["routerx_loop_lag_seconds_sum",] == pytest.approx(2.0)
    assert "blocked for 2.00 s" in caplog.text
