"""One finished request as one line for people: aligned, compact, its outcome coloured. Pure."""

from rich.text import Text

from routerx.cli.render import clean
from routerx.control.values import LogEntry
from routerx.domain.record import BillingMode

TENANT_CHARS_MIN = 8
TENANT_CHARS_MAX = 24
ROUTE_CHARS_MIN = 16
ROUTE_CHARS_MAX = 48
FIXED_CHARS = 8 + 3 + 11 + 12 + 11 + 2  # Time, status, tokens, cost, latency, the shortest outcome.
GAPS = 7
TITLES = ("time", "st.", "tenant", "model → provider", "in/out", "cost", "ttft/total", "outcome")


class LogLines:
    """Formats entries for a terminal of `width` characters (None: no limit, nothing is cut).

    The two variable columns grow with what has been seen, so that lines stay aligned without a look ahead.
    """

    def __init__(self, width: int | None) -> None:
        self._room = None if width is None else max(width - FIXED_CHARS - GAPS, TENANT_CHARS_MIN + ROUTE_CHARS_MIN)
        self._tenant_chars = TENANT_CHARS_MIN
        self._route_chars = ROUTE_CHARS_MIN

    def head(self) -> Text:
        cells = (*TITLES[:2], *self._fit(TITLES[2], TITLES[3]), *TITLES[4:])
        return Text(_join(cells), style="dim")

    def line(self, entry: LogEntry) -> Text:
        tenant, route = self._fit(clean(entry.tenant), clean(_route(entry)))
        tokens = f"{_number(entry.input_tokens)}/{_number(entry.output_tokens)}"
        latency = f"{_duration(entry.ttft_ms)}/{_duration(entry.duration_ms)}"
        cells = (entry.at[11:19], str(entry.http_status), tenant, route, tokens, f"${entry.cost_usd}", latency, "")
        text = Text(_join(cells))
        text.append(clean(entry.outcome), style=_style(entry))
        for flag in entry.flags:
            text.append(f" {clean(flag)}", style="yellow")
        return text

    def _fit(self, tenant: str, route: str) -> tuple[str, str]:
        self._tenant_chars = max(self._tenant_chars, min(len(tenant), TENANT_CHARS_MAX))
        self._route_chars = max(self._route_chars, min(len(route), ROUTE_CHARS_MAX))
        if self._room is None:
            return tenant.ljust(self._tenant_chars), route.ljust(self._route_chars)
        tenant_chars = min(self._tenant_chars, self._room - ROUTE_CHARS_MIN)
        return _cut(tenant, tenant_chars), _cut(route, min(self._route_chars, self._room - tenant_chars))


def _join(cells: tuple[str, ...]) -> str:
    time, status, tenant, route, tokens, cost, latency, outcome = cells
    return f"{time:8} {status:3} {tenant} {route} {tokens:>11} {cost:>12} {latency:>11} {outcome}"


def _route(entry: LogEntry) -> str:
    """`gpt-4o → openai`; the model that answered where it is another one; `gpt-4o → (cache)` where nobody had to."""
    if entry.provider is None:
        return f"{entry.model} → (cache)" if entry.billing == BillingMode.CACHED else entry.model
    served = entry.served_model
    if served is not None and served not in (entry.model, entry.model.partition("/")[2]):
        return f"{entry.model} → {entry.provider}/{served}"
    return f"{entry.model} → {entry.provider}"


def _style(entry: LogEntry) -> str:
    if entry.outcome == "ok":
        return "green"
    return "red" if entry.http_status >= 500 else "yellow"


def _number(tokens: int | None) -> str:
    return "–" if tokens is None else str(tokens)


def _duration(ms: int | None) -> str:
    if ms is None:
        return "–"
    return f"{ms}ms" if ms < 1_000 else f"{ms / 1_000:.1f}s"


def _cut(text: str, chars: int) -> str:
    """Exactly `chars` long."""
    return text.ljust(chars) if len(text) <= chars else text[: chars - 1] + "…"
