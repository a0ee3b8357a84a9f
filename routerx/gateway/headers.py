"""Response headers of RouterX (docs/api.md lists them). The rim adds X-Request-Id to every response itself."""

from functools import lru_cache

from routerx.gateway.context import RequestContext
from routerx.money import format_usd

DROPPED_CHARS_MAX = 1_000

Headers = tuple[tuple[str, str], ...]


def route_headers(ctx: RequestContext) -> Headers:
    """Which provider answers, after how many attempts, and whether that was the first choice."""
    committed, plan = ctx.committed, ctx.plan
    assert committed is not None
    assert plan is not None
    fallback = committed.candidate.endpoint.key != plan.candidates[0].endpoint.key
    headers = _told(committed.candidate.endpoint.provider, len(ctx.attempts), fallback)
    if ctx.inbound.steering.cache:
        headers = (*headers, ("X-RouterX-Cache-Hit", "false"))
    return headers + dropped_headers(ctx.dropped)


@lru_cache(maxsize=1024)
def _told(provider: str, attempts: int, fallback: bool) -> Headers:
    return (
        ("X-RouterX-Provider", provider),
        ("X-RouterX-Attempts", str(attempts)),
        ("X-RouterX-Fallback", "true" if fallback else "false"),
    )


def dropped_headers(names: tuple[str, ...]) -> Headers:
    """What the wire of the endpoint that answers could not take."""
    return (("X-RouterX-Dropped", _listed(names)),) if names else ()


def _listed(names: tuple[str, ...]) -> str:
    """Names as a header's value. Some are the caller's own keys, so what has no place in a header is replaced."""
    text = ", ".join("".join(char if "!" <= char <= "~" and char != "," else "?" for char in name) for name in names)
    return text if len(text) <= DROPPED_CHARS_MAX else text[: DROPPED_CHARS_MAX - 3] + "..."


def cost_headers(ctx: RequestContext, now_s: float) -> Headers:
    """What a buffered answer cost and how long it took; overhead is the time not spent waiting for providers."""
    took_s = now_s - ctx.inbound.started_s
    cost_nano = ctx.receipt.charged_nano if ctx.receipt is not None else 0
    return (
        ("X-RouterX-Cost-USD", format_usd(cost_nano)),
        ("X-RouterX-Latency-Ms", f"{took_s * 1000:.0f}"),
        ("X-RouterX-Overhead-Ms", f"{max(0.0, took_s - ctx.upstream_s) * 1000:.3f}"),
    )


def json_type(content_type: str) -> str:
    """The label of a body that was judged to be JSON: the provider's own, where it says so and nothing odd besides."""
    return content_type if "json" in content_type and content_type.isprintable() else "application/json"
