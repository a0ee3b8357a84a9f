"""`routerx explain`: where a request would go now, why, and what it could cost, without making it."""

import random

import click

from routerx import jsonx
from routerx.cli import render
from routerx.cli.access import open_remote
from routerx.cli.files import load
from routerx.cli.render import Cell, Column, money
from routerx.cli.settings import Settings, settings_of, shared_options
from routerx.clock import SystemClock
from routerx.domain.explanation import CandidateTold, ExclusionTold, Explanation
from routerx.domain.tenant import NO_KEYS
from routerx.gateway.explain import Explainer
from routerx.http.explain import ADMIN_PATH, Question, answer_operator
from routerx.jsonx import Raw
from routerx.limits.memory import MemoryLimiter
from routerx.routing.state import RoutingState

WIDE_COLUMNS = 140
"""From here on candidates are a table; below it each is written out, and so is what is left out."""
PIXEL = "data:image/png;base64,iVBORw0KGgo="
NOTHING_USD = "0.00"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


@click.command("explain")
@click.argument("model")
@click.option("--tenant", metavar="NAME", help="As which tenant; the first one unless given.")
@click.option("--stream", is_flag=True, help="The request asks for a stream.")
@click.option("--image", is_flag=True, help="It holds a picture.")
@click.option("--tools", is_flag=True, help="It offers a tool.")
@click.option("--prompt-tokens", metavar="N", type=click.IntRange(0), help="How long its prompt is.")
@click.option("--max-tokens", metavar="N", type=click.IntRange(1), help="Its ceiling on output tokens.")
@click.option("--header", "headers", metavar="TEXT", multiple=True, help="Like 'X-RouterX-Sort: price'; repeatable.")
@shared_options
@click.pass_context
def command(ctx: click.Context, /, model: str, **given: str | bool | int | tuple[str, ...] | None) -> None:
    """Why a request for MODEL would go where it goes: candidates in order, what is left out, hold, limits, deadlines.

    Asks the RouterX that runs here or at --url; where none runs, the configuration alone, of which nothing has been
    measured. Nothing is called, and no turn, limit or hold is taken.
    """
    settings = settings_of(ctx)
    question = _question(model, given)
    remote = open_remote(settings)
    if remote is not None:
        found = remote.call("POST", ADMIN_PATH, question, Explanation)
    else:
        render.say("note: no RouterX runs here, so nothing is known of latencies, circuits, balances and stored keys.")
        found = _offline(settings, question)
    render.emit(settings, found, _show)
    if found.refused is not None:
        ctx.exit(1)


def _question(model: str, given: dict[str, str | bool | int | tuple[str, ...] | None]) -> Question:
    text = {"type": "text", "text": "Hello"}
    content: object = [text, {"type": "image_url", "image_url": {"url": PIXEL}}] if given["image"] else "Hello"
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": content}]}
    if given["stream"]:
        body["stream"] = True
    if given["tools"]:
        body["tools"] = [TOOL]
    if given["max_tokens"] is not None:
        body["max_tokens"] = given["max_tokens"]
    tenant, prompt_tokens, headers = given["tenant"], given["prompt_tokens"], given["headers"]
    return Question(
        request={name: Raw(jsonx.encode(value)) for name, value in body.items()},
        tenant=tenant if isinstance(tenant, str) else None,
        headers=_headers(headers if isinstance(headers, tuple) else ()),
        prompt_tokens=prompt_tokens if isinstance(prompt_tokens, int) else None,
    )


def _headers(written: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in written:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or not value.strip():
            raise click.BadParameter(f"{text!r} is not like 'X-RouterX-Sort: price'", param_hint="--header")
        found[name.strip()] = value.strip()
    return found


def _offline(settings: Settings, question: Question) -> Explanation:
    snapshot, clock = load(settings), SystemClock()
    routing = RoutingState(random.Random())  # noqa: S311 - draws the order of equals.
    limiter = MemoryLimiter(snapshot.server.concurrency_max)
    return answer_operator(Explainer(routing, limiter, clock, None), snapshot, clock, question, lambda _: NO_KEYS)


# --- what people see


def _show(found: Explanation) -> None:
    wide = render.console().width >= WIDE_COLUMNS
    render.facts(_summary(found))
    if found.candidates:
        render.heading("asked in this order")
        if wide:
            _candidates_table(found.candidates)
        else:
            for candidate in found.candidates:
                render.facts(_candidate(candidate))
    if found.excluded:
        render.heading("left out")
        if wide:
            _exclusions_table(found.excluded)
        else:
            render.facts([(one.endpoint, f"{one.rule}: {one.says}{_at(one.place)}") for one in found.excluded])


def _summary(found: Explanation) -> list[tuple[str, Cell]]:
    settings, hold = found.settings, found.hold
    pairs: list[tuple[str, Cell]] = [
        ("asked", found.asked if found.model in (None, found.asked) else f"{found.asked}, which is {found.model}"),
        ("tenant", found.tenant),
        ("request", _kind(found)),
        ("policy", f"{found.policy}{_order(found)}{_at(settings.place)}"),
    ]
    if found.refused is not None:
        refused = f"{found.refused.status} {found.refused.code}: {found.refused.message}"
        pairs.append(("refused", render.state(False, refused)))
    if hold is not None:
        pairs.append(("hold", _hold(found)))
    pairs.append(("limits", ", ".join(f"{one.limit} {one.left:,} of {one.value:,} left" for one in found.limits)))
    pairs += [
        (
            "calls",
            f"at most {settings.attempts_max} in all, {settings.retries_max} repeats of one endpoint after "
            f"{_seconds(settings.backoff_min_s)} to {_seconds(settings.backoff_max_s)}",
        ),
        (
            "circuit",
            f"opens at {settings.breaker_error_rate:.0%} of {settings.breaker_requests_min} calls or more in "
            f"{_seconds(settings.breaker_window_s)}, or {settings.breaker_consecutive_max} failures in a row, for "
            f"{_seconds(settings.breaker_cooldown_s)} to {_seconds(settings.breaker_cooldown_max_s)}",
        ),
        ("stream", _stream(found)),
    ]
    return [(name, value) for name, value in pairs if value != ""]


def _kind(found: Explanation) -> str:
    needs = f", needs {', '.join(found.needs)}" if found.needs else ""
    return f"{found.route}, {'streamed' if found.stream else 'buffered'}{needs}"


def _order(found: Explanation) -> str:
    return "" if found.sort is None else f", by {found.sort}"


def _hold(found: Explanation) -> Cell:
    hold = found.hold
    assert hold is not None
    text = (
        f"{money(hold.amount_usd)} for up to {hold.input_tokens_most:,} tokens in and {hold.output_tokens_most:,} out"
    )
    if hold.available_usd is not None:
        text += f"; {money(hold.available_usd)} available"
    return text if hold.fits else render.state(False, text)


def _stream(found: Explanation) -> str:
    settings = found.settings
    parts = [f"commit {settings.stream_commit}", f"rescue {'on' if settings.stream_rescue else 'off'}"]
    if settings.hedge_after_s is not None:
        parts.append(f"hedged after {_seconds(settings.hedge_after_s)}")
    if settings.affinity_s is not None:
        parts.append(f"conversations stay for {_seconds(settings.affinity_s)}")
    return ", ".join(parts)


def _candidate(one: CandidateTold) -> list[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = [
        (f"{one.n}.", f"{one.endpoint}{_at(one.place)}"),
        ("", one.why),
        ("", f"{_prices(one)}; this request at most {money(one.cost_most_usd) or 'unknown'}"),
        ("", f"deadlines: {_deadlines(one)}"),
    ]
    if one.circuits:
        pairs.append(("", _circuits(one)))
    return pairs


def _candidates_table(candidates: tuple[CandidateTold, ...]) -> None:
    columns = [
        Column("", right=True),
        Column("endpoint", wrap=True),
        Column("why here", wrap=True),
        Column("in $/M", right=True),
        Column("out $/M", right=True),
        Column("at most", right=True),
        Column("first token", right=True),
        Column("total", right=True),
        Column("circuit", wrap=True),
        Column("declared", wrap=True),
    ]
    rows: list[list[Cell]] = [
        [
            str(one.n),
            one.endpoint,
            one.why,
            None if one.price is None else money(one.price.input_usd_per_million),
            None if one.price is None else money(one.price.output_usd_per_million),
            money(one.cost_most_usd),
            _seconds(one.deadlines.first_token_s),
            _seconds(one.deadlines.total_s),
            _circuits(one) if one.circuits else None,
            _short(one.place),
        ]
        for one in candidates
    ]
    render.table(columns, rows, "")


def _exclusions_table(excluded: tuple[ExclusionTold, ...]) -> None:
    columns = [Column("endpoint", wrap=True), Column("rule"), Column("because", wrap=True), Column("see", wrap=True)]
    rows: list[list[Cell]] = [[one.endpoint, one.rule, one.says, _short(one.place)] for one in excluded]
    render.table(columns, rows, "")


def _prices(one: CandidateTold) -> str:
    if one.price is None:
        return "no price"
    if one.price.request_usd != NOTHING_USD:
        return f"{money(one.price.request_usd)} a request"
    into, out = money(one.price.input_usd_per_million), money(one.price.output_usd_per_million)
    return f"{into} in, {out} out per million tokens"


def _deadlines(one: CandidateTold) -> str:
    limits = one.deadlines
    return (
        f"connect {_seconds(limits.connect_s)}, first token {_seconds(limits.first_token_s)}, "
        f"idle {_seconds(limits.idle_s)}, total {_seconds(limits.total_s)}"
    )


def _circuits(one: CandidateTold) -> Cell:
    """The state of each key that has been used; what is not well stands out."""
    texts = []
    for circuit in one.circuits:
        state = circuit.circuit if circuit.credential == "active" else f"{circuit.circuit}, {circuit.credential}"
        failed = f", {circuit.failures:g} of {circuit.requests} failed" if circuit.failures else ""
        texts.append(f"{circuit.credential_id}: {state}{failed}")
    well = all(circuit.circuit == "closed" and circuit.credential == "active" for circuit in one.circuits)
    return "; ".join(texts) if well else render.state(False, "; ".join(texts))


def _at(place: str | None) -> str:
    return "" if place is None else f" ({_short(place)})"


def _short(place: str | None) -> str | None:
    """A place without its folder; `--json` has the whole path."""
    return None if place is None else place.rpartition("/")[2]


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"
