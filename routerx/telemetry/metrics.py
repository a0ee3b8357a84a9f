"""Metrics: counted in plain integers on the hot path, turned into Prometheus families only when scraped.

The Prometheus client locks a mutex per increment and looks labels up on each; a request touches some twenty series. So
the event loop writes plain numbers here, each metric has one writing thread, and a collector reads them. Label values
come from the configuration and from our own tables, never from callers: a model that is not configured is `other`.
Names, labels and meanings are docs/metrics.md.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from routerx.clock import Clock
from routerx.domain.dropped import DROPPABLE
from routerx.domain.record import AttemptRecord, Outcome, RequestRecord
from routerx.domain.usage import Usage
from routerx.money import NANO_PER_USD

log = logging.getLogger("routerx.loop")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NONE = "none"
"""Label value where there is no tenant or provider: the request ended before it had one."""
OTHER = "other"
"""Label value for what the configuration does not name."""
SERIES_MAX = 20_000
"""(tenant, model, provider) combinations kept apart; what comes later is counted under `other`."""
LAG_INTERVAL_S = 0.25
LAG_WARN_S = 1.0

DURATION_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TTFT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
OVERHEAD_BOUNDS_S = (0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
LAG_BOUNDS_S = (0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
COMMIT_BOUNDS_S = (0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

TOKEN_BUCKETS = tuple(field for field in Usage.__struct_fields__ if field != "requests")
CIRCUITS: Mapping[str, int] = MappingProxyType({"closed": 0, "half_open": 1, "open": 2})


class MetricSpec(msgspec.Struct, frozen=True):
    """One metric as it is documented."""

    name: str
    kind: str
    """counter | gauge | histogram"""
    help: str
    labels: tuple[str, ...] = ()


REQUESTS = MetricSpec(
    "routerx_requests_total", "counter", "Finished requests.", ("tenant", "model", "provider", "outcome")
)
COST = MetricSpec("routerx_cost_usd_total", "counter", "What tenants owe.", ("tenant", "model", "provider"))
HOUSE_COST = MetricSpec(
    "routerx_provider_cost_usd_total",
    "counter",
    "List price of requests answered with keys of the house.",
    ("model", "provider"),
)
TOKENS = MetricSpec(
    "routerx_tokens_total", "counter", "Tokens by bucket, and web searches.", ("model", "provider", "bucket")
)
DURATION = MetricSpec("routerx_request_duration_seconds", "histogram", "From first byte in to last.", ("provider",))
TTFT = MetricSpec("routerx_time_to_first_token_seconds", "histogram", "Until the first content.", ("provider",))
OVERHEAD = MetricSpec("routerx_overhead_seconds", "histogram", "Time spent in the gateway before the first byte.")
ATTEMPTS = MetricSpec("routerx_attempts_total", "counter", "Calls to providers.", ("provider", "outcome"))
RETRIES = MetricSpec("routerx_retries_total", "counter", "Calls repeated at the same endpoint.", ("provider",))
FALLBACKS = MetricSpec(
    "routerx_fallbacks_total", "counter", "Requests that went on to another endpoint.", ("provider", "result")
)
DROPPED = MetricSpec(
    "routerx_dropped_fields_total", "counter", "Wishes that a translation had to leave out.", ("field",)
)
FLAGS = MetricSpec("routerx_flagged_requests_total", "counter", "Requests with a flag in their row.", ("flag",))
BREAKER = MetricSpec("routerx_breaker_state", "gauge", "0 closed, 1 half-open, 2 open.", ("endpoint", "credential"))
PROVIDER_UP = MetricSpec(
    "routerx_provider_up", "gauge", "1 when the last look at the provider off the request path was ok.", ("provider",)
)
GENERATION = MetricSpec("routerx_config_generation", "gauge", "Generation of the configuration in force.")
RELOAD_OK = MetricSpec("routerx_config_last_reload_ok", "gauge", "1 when the last configuration read is in force.")
RELOAD_FAILURES = MetricSpec("routerx_config_reload_failures_total", "counter", "Configurations refused.")
LOOP_LAG = MetricSpec("routerx_loop_lag_seconds", "histogram", "How late the event loop ran a timer.")
CLOSED = MetricSpec("routerx_connections_closed_total", "counter", "Connections ended by the server.", ("reason",))
COMMIT = MetricSpec("routerx_ledger_commit_seconds", "histogram", "Duration of a ledger commit.")


class Reading(StrEnum):
    """Values that others own and that are read when scraped."""

    IN_FLIGHT = "routerx_requests_in_flight"
    HELD_NANO = "routerx_held_usd"
    LEDGER_QUEUE = "routerx_ledger_queue_operations"
    LOG_LINES_DROPPED = "routerx_log_lines_dropped_total"
    CACHE_HITS = "routerx_cache_hits_total"
    CACHE_COALESCED = "routerx_cache_coalesced_total"
    CACHE_MISSES = "routerx_cache_misses_total"
    CACHE_BYTES = "routerx_cache_bytes"
    REPLAYS = "routerx_idempotent_replays_total"


READINGS: Mapping[Reading, MetricSpec] = MappingProxyType(
    {
        Reading.IN_FLIGHT: MetricSpec(Reading.IN_FLIGHT, "gauge", "Requests being served."),
        Reading.HELD_NANO: MetricSpec(Reading.HELD_NANO, "gauge", "Money set aside for requests being served."),
        Reading.LEDGER_QUEUE: MetricSpec(Reading.LEDGER_QUEUE, "gauge", "Operations waiting for the ledger's writer."),
        Reading.LOG_LINES_DROPPED: MetricSpec(
            Reading.LOG_LINES_DROPPED, "counter", "Log lines lost because the log's reader was too slow."
        ),
        Reading.CACHE_HITS: MetricSpec(Reading.CACHE_HITS, "counter", "Answers of the response cache."),
        Reading.CACHE_COALESCED: MetricSpec(
            Reading.CACHE_COALESCED, "counter", "Of these, those that waited for an equal request in flight."
        ),
        Reading.CACHE_MISSES: MetricSpec(
            Reading.CACHE_MISSES, "counter", "Requests that the response cache had no answer for."
        ),
        Reading.CACHE_BYTES: MetricSpec(Reading.CACHE_BYTES, "gauge", "Memory of the response cache."),
        Reading.REPLAYS: MetricSpec(Reading.REPLAYS, "counter", "Answers told again under an idempotency key."),
    }
)

METRICS = (
    *(REQUESTS, COST, HOUSE_COST, TOKENS, DURATION, TTFT, OVERHEAD, ATTEMPTS, RETRIES, FALLBACKS),
    *(DROPPED, FLAGS, BREAKER, PROVIDER_UP, GENERATION, RELOAD_OK, RELOAD_FAILURES, LOOP_LAG, CLOSED, COMMIT),
    *READINGS.values(),
)
"""Every metric of this program, for the documentation's test. The `process_` metrics are the client library's."""

BreakerRow = tuple[str, str, str]
"""Endpoint key, credential id, circuit (closed | half_open | open)."""


class _Histogram:
    """Counts by bound, and a sum. One writing thread."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, value_s: float) -> None:
        self.counts[bisect_left(self.bounds, value_s)] += 1
        self.sum_s += value_s

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        seen = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            seen += count
            buckets.append(("+Inf" if bound is None else repr(bound), seen))
        family.add_metric(labels, buckets, self.sum_s)


class _Series:
    """What is counted per tenant, model and provider."""

    __slots__ = ("cost_nano", "outcomes", "provider_cost_nano", "tokens")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.tokens = [0] * len(TOKEN_BUCKETS)
        self.cost_nano = 0
        self.provider_cost_nano = 0


class _ProviderSeries:
    """What is counted per provider."""

    __slots__ = ("attempts", "duration", "fallbacks", "retries", "ttft")

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}
        self.fallbacks: dict[str, int] = {}
        self.retries = 0
        self.duration = _Histogram(DURATION_BOUNDS_S)
        self.ttft = _Histogram(TTFT_BOUNDS_S)


class Metrics(Collector):
    """All counters of the process. `observe` is the hot path: some microseconds, no lock, no allocation per series."""

    def __init__(self) -> None:
        self._models: Collection[str] = frozenset()
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._providers: dict[str, _ProviderSeries] = {}
        self._overhead = _Histogram(OVERHEAD_BOUNDS_S)
        self._flags: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._generation = 0
        self._reloads: Callable[[], tuple[bool, int]] = lambda: (True, 0)
        self._lag = _Histogram(LAG_BOUNDS_S)
        self._closed: dict[str, int] = {}
        self._commit = _Histogram(COMMIT_BOUNDS_S)
        self._readings: dict[Reading, Callable[[], int]] = {}
        self._breakers: Callable[[], Iterable[BreakerRow]] = tuple
        self._providers_up: Callable[[], Iterable[tuple[str, bool]]] = tuple
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    # --- events

    def observe(self, record: RequestRecord) -> None:
        """Count one finished request with its attempts."""
        series = self._bound(record)
        series.outcomes[record.outcome] = series.outcomes.get(record.outcome, 0) + 1
        series.cost_nano += record.cost_nano
        if "byok" not in record.flags:  # The provider bills the tenant.
            series.provider_cost_nano += record.provider_cost_nano
        if record.usage is not None:
            tokens, usage = series.tokens, record.usage
            tokens[0] += usage.in_fresh
            tokens[1] += usage.in_cache_read
            tokens[2] += usage.in_cache_write_5m
            tokens[3] += usage.in_cache_write_1h
            tokens[4] += usage.in_audio
            tokens[5] += usage.in_image
            tokens[6] += usage.out_text
            tokens[7] += usage.out_reasoning
            tokens[8] += usage.out_audio
            tokens[9] += usage.out_image
            tokens[10] += usage.searches
        if record.provider is not None:
            provider = self._provider(record.provider)
            provider.duration.observe(record.duration_ms / 1000)
            if record.ttft_ms is not None:
                provider.ttft.observe(record.ttft_ms / 1000)
            self._overhead.observe(record.overhead_us / 1_000_000)
        if record.attempts:
            self._observe_attempts(record.attempts, record.outcome)
        for flag in record.flags:
            self._flags[flag] = self._flags.get(flag, 0) + 1

    def dropped(self, names: Collection[str]) -> None:
        """Count what a translation had to leave out; names that are a caller's own are counted as one."""
        for name in names:
            label = name if name in DROPPABLE else OTHER
            self._dropped[label] = self._dropped.get(label, 0) + 1

    def _observe_attempts(self, attempts: tuple[AttemptRecord, ...], outcome: str) -> None:
        first = attempts[0]
        if len(attempts) == 1:
            counted = self._provider(first.provider).attempts
            counted[first.outcome] = counted.get(first.outcome, 0) + 1
            return
        before: str | None = None
        moved = False
        for attempt in attempts:
            provider = self._provider(attempt.provider)
            provider.attempts[attempt.outcome] = provider.attempts.get(attempt.outcome, 0) + 1
            if attempt.endpoint == before:
                provider.retries += 1
            moved = moved or attempt.endpoint != first.endpoint
            before = attempt.endpoint
        if moved:
            result = "ok" if outcome == Outcome.OK else "failed"
            fallbacks = self._provider(first.provider).fallbacks
            fallbacks[result] = fallbacks.get(result, 0) + 1

    def config_loaded(self, generation: int, models: Collection[str]) -> None:
        """A configuration is in force; `models` are the names that may stand in the label `model`."""
        self._generation = generation
        self._models = models

    def connection_closed(self, reason: str) -> None:
        """The server ended a connection; `reason` is one of the server's own words."""
        self._closed[reason] = self._closed.get(reason, 0) + 1

    def loop_lagged(self, lag_s: float) -> None:
        self._lag.observe(lag_s)

    def committed(self, duration_s: float) -> None:
        """The ledger committed a batch. May be called by its writer thread, and by no other."""
        self._commit.observe(duration_s)

    # --- readings

    def read_from(self, reading: Reading, source: Callable[[], int]) -> None:
        """Ask `source` for this value when scraped. It must not block. Money is in nano-USD."""
        self._readings[reading] = source

    def read_reloads_from(self, source: Callable[[], tuple[bool, int]]) -> None:
        """Ask `source` when scraped: is what is on disk in force, and how many configurations were refused so far?"""
        self._reloads = source

    def read_breakers_from(self, source: Callable[[], Iterable[BreakerRow]]) -> None:
        """Ask `source` for the circuits when scraped."""
        self._breakers = source

    def read_providers_from(self, source: Callable[[], Iterable[tuple[str, bool]]]) -> None:
        """Ask `source` when scraped which providers were looked at, and whether they were ok."""
        self._providers_up = source

    def render(self) -> bytes:
        """The answer to GET /metrics, of type CONTENT_TYPE."""
        return generate_latest(self._registry)

    # --- series

    def _bound(self, record: RequestRecord) -> _Series:
        model = record.model if record.model in self._models else OTHER
        key = (record.tenant or NONE, model, record.provider or NONE)
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= SERIES_MAX:
                key = (OTHER, OTHER, OTHER)
            series = self._series.setdefault(key, _Series())
        return series

    def _provider(self, name: str) -> _ProviderSeries:
        series = self._providers.get(name)
        if series is None:
            if len(self._providers) >= SERIES_MAX:
                name = OTHER
            series = self._providers.setdefault(name, _ProviderSeries())
        return series

    # --- scrape

    def collect(self) -> Iterator[Metric]:
        """What the Prometheus client asks for at each scrape."""
        yield from self._collect_requests()
        yield from self._collect_providers()
        yield _histogram(OVERHEAD, [((), self._overhead)])
        yield _values(DROPPED, (((name,), count) for name, count in self._dropped.items()))
        yield _values(FLAGS, (((flag,), count) for flag, count in self._flags.items()))
        yield _values(BREAKER, (((row[0], row[1]), CIRCUITS[row[2]]) for row in self._breakers()))
        yield _values(PROVIDER_UP, (((name,), int(is_up)) for name, is_up in self._providers_up()))
        yield _values(GENERATION, [((), self._generation)])
        in_force, refused = self._reloads()
        yield _values(RELOAD_OK, [((), int(in_force))])
        yield _values(RELOAD_FAILURES, [((), refused)])
        yield _histogram(LOOP_LAG, [((), self._lag)])
        yield _values(CLOSED, (((reason,), count) for reason, count in self._closed.items()))
        yield _histogram(COMMIT, [((), self._commit)])
        for reading, spec in READINGS.items():
            source = self._readings.get(reading)
            if source is not None:
                value = source()
                yield _values(spec, [((), _usd(value) if reading is Reading.HELD_NANO else value)])

    def _collect_requests(self) -> Iterator[Metric]:
        series = list(self._series.items())
        yield _values(
            REQUESTS, (((*key, outcome), count) for key, one in series for outcome, count in one.outcomes.items())
        )
        yield _values(COST, ((key, _usd(one.cost_nano)) for key, one in series))
        house: dict[tuple[str, ...], int] = {}
        tokens: dict[tuple[str, ...], int] = {}
        for (_, model, provider), one in series:
            house[model, provider] = house.get((model, provider), 0) + one.provider_cost_nano
            for bucket, count in zip(TOKEN_BUCKETS, one.tokens, strict=True):
                if count:
                    tokens[model, provider, bucket] = tokens.get((model, provider, bucket), 0) + count
        yield _values(HOUSE_COST, ((key, _usd(nano)) for key, nano in house.items()))
        yield _values(TOKENS, tokens.items())

    def _collect_providers(self) -> Iterator[Metric]:
        providers = list(self._providers.items())
        yield _histogram(DURATION, [((name,), one.duration) for name, one in providers])
        yield _histogram(TTFT, [((name,), one.ttft) for name, one in providers])
        yield _values(ATTEMPTS, (((name, key), n) for name, one in providers for key, n in one.attempts.items()))
        yield _values(RETRIES, (((name,), one.retries) for name, one in providers))
        yield _values(FALLBACKS, (((name, key), n) for name, one in providers for key, n in one.fallbacks.items()))


def _usd(nano: int) -> float:
    return nano / NANO_PER_USD


def _values(spec: MetricSpec, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family: CounterMetricFamily | GaugeMetricFamily
    if spec.kind == "counter":
        family = CounterMetricFamily(spec.name.removesuffix("_total"), spec.help, labels=spec.labels)
    else:
        family = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _histogram(spec: MetricSpec, values: Iterable[tuple[tuple[str, ...], _Histogram]]) -> Metric:
    family = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
    for labels, histogram in values:
        histogram.add_to(family, labels)
    return family


class LoopLag:
    """Measures how late the event loop runs a timer: blocked by a big parse, a slow callback, a busy machine."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Measure until cancelled (FAULTS.md 95)."""
        while True:
            started_s = self._clock.monotonic_s()
            await self._clock.sleep(LAG_INTERVAL_S)
            lag_s = max(self._clock.monotonic_s() - started_s - LAG_INTERVAL_S, 0.0)
            self._metrics.loop_lagged(lag_s)
            if lag_s >= LAG_WARN_S:
                log.warning("the event loop was blocked for %.2f s", lag_s)
