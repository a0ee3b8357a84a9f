"""How providers and their keys are shown to people."""

from rich.text import Text

from routerx.cli import render
from routerx.cli.render import Cell, Column, count, state, when
from routerx.control.provider_values import (
    CircuitRow,
    HealthView,
    KeyCounts,
    LookView,
    ProviderDetail,
    ProviderKeyView,
    ProviderTest,
    ProviderView,
)

WIDE_COLUMNS = 100
"""From here on a table has room for the number of models and the time of the last look."""

_STATES = {"on": "on", "off": "off", "no_key": "no key", "own_keys": "own keys only"}
_CALLED = ("on", "own_keys")


def provider_table(providers: tuple[ProviderView, ...]) -> None:
    wide = render.console().width >= WIDE_COLUMNS
    columns = [Column("provider"), Column("state"), Column("health"), Column("circuit"), Column("keys", wrap=True)]
    columns += [Column("latency", right=True), Column("uptime", right=True)]
    if wide:
        columns += [Column("models", right=True), Column("looked at (UTC)")]
    render.table(columns, [_row(provider, wide=wide) for provider in providers], "No provider is configured.")


def _row(provider: ProviderView, *, wide: bool) -> list[Cell]:
    health, called = provider.health, provider.state in _CALLED
    row: list[Cell] = [
        provider.name,
        state(called, "mock" if provider.mock and provider.state == "on" else _STATES[provider.state]),
        _seen(None if health is None else health.last),
        _circuit(provider.circuit) if provider.state == "on" else None,
        _counts(provider.keys),
        None if health is None else f"{health.last.latency_ms} ms",
        _uptime(health),
    ]
    if wide:
        row += [provider.models, None if health is None else when(health.last.at)]
    return row


def detail(shown: ProviderDetail) -> None:
    provider = shown.provider
    health = provider.health
    pairs: list[tuple[str, Cell]] = [
        ("provider", provider.name),
        ("state", state(provider.state in _CALLED, _STATES[provider.state])),
        ("address", "the built-in mock" if provider.mock else provider.base_url),
        ("wire format", provider.dialect),
        ("models", provider.models),
        ("health", _seen(None if health is None else health.last)),
    ]
    if health is not None:
        pairs += [
            ("looked at (UTC)", f"{when(health.last.at)}, {health.last.latency_ms} ms"),
            ("looks like this", f"{health.consecutive:,} in a row"),
            ("uptime", _uptime(health)),
        ]
    render.facts(pairs)
    if shown.keys:
        render.heading("Keys")
        key_table(shown.keys)
    if shown.circuits:
        render.heading("Circuits")
        _circuits(shown.circuits)


def key_table(keys: tuple[ProviderKeyView, ...]) -> None:
    wide = render.console().width >= WIDE_COLUMNS
    columns = [Column("key"), Column("state", wrap=True), Column("calls", right=True), Column("failed", right=True)]
    columns += [Column("429", right=True), Column("tokens", right=True)]
    if wide:
        columns += [Column("rpm", right=True), Column("tpm", right=True), Column("last used (UTC)")]
    rows: list[list[Cell]] = []
    for key in keys:
        stats = key.stats
        row: list[Cell] = [key.id, _key_state(key), stats.requests, stats.failures, stats.rate_limited, stats.tokens]
        rows.append([*row, key.rpm, key.tpm, when(stats.last_used)] if wide else row)
    render.table(columns, rows, "There are no keys.")


def looks(outcome: ProviderTest) -> None:
    columns = (
        Column("key"),
        Column("outcome"),
        Column("status", right=True),
        Column("latency", right=True),
        Column("cause", wrap=True),
    )
    rows: list[tuple[Cell, ...]] = [
        (look.key, state(look.seen == "ok", look.seen), look.status, f"{look.latency_ms} ms", look.reason)
        for look in outcome.looks
    ]
    render.table(columns, rows, "It has no key to ask with.")


def _circuits(circuits: tuple[CircuitRow, ...]) -> None:
    columns = (
        Column("endpoint"),
        Column("key"),
        Column("circuit", wrap=True),
        Column("first token", right=True),
        Column("total", right=True),
    )
    rows = [
        (
            row.endpoint,
            row.key,
            _circuit(row.circuit, row.ready_in_s),
            None if row.ttft_ms is None else f"{count(row.ttft_ms)} ms",
            None if row.total_ms is None else f"{count(row.total_ms)} ms",
        )
        for row in circuits
    ]
    render.table(columns, rows, "Nothing was asked of it yet.")


def _seen(look: LookView | None) -> Cell:
    if look is None:
        return None
    return state(look.seen == "ok", look.seen)


def _circuit(circuit: str, ready_in_s: float = 0.0) -> Text:
    wait = f", asked again in {ready_in_s:.0f} s" if circuit == "open" and ready_in_s > 0 else ""
    return state(circuit == "closed", circuit.replace("_", "-") + wait)


def _key_state(key: ProviderKeyView) -> Text:
    wait = f", {key.ready_in_s:.0f} s left" if key.ready_in_s > 0 and key.state != "disabled" else ""
    return state(key.state == "active", key.state + wait)


def _counts(keys: KeyCounts) -> Cell:
    """`2 active, 1 cooling`; what is 0 is left out."""
    parts = (
        (keys.active, "active"),
        (keys.cooling, "cooling"),
        (keys.quarantined, "quarantined"),
        (keys.disabled, "disabled"),
    )
    return ", ".join(f"{number} {word}" for number, word in parts if number) or None


def _uptime(health: HealthView | None) -> str | None:
    return None if health is None or health.uptime is None else f"{health.uptime:.1%}"
