"""`routerx models …`: what callers may ask for, who serves it and for how much."""

import click

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.render import Cell, Column, count, money
from routerx.cli.settings import settings_of, shared_options
from routerx.control.values import EndpointView, ModelQuery, ModelView, Rate
from routerx.domain.model import Capability, Kind

WIDE_COLUMNS = 118
"""From here on a table has room for the kind, the providers and the longest answer."""

_KINDS = [kind.value for kind in Kind]
_CAPABILITIES = [capability.value for capability in Capability]
# What callers ask for, in words as short as a column needs; `models show` has them in full.
_SHORT = {"tools": "tools", "vision": "vision", "audio": "audio", "json_schema": "json", "reasoning": "reasoning"}


def _or(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


@click.group(name="models")
def command() -> None:
    """Models: the bundled catalogue and those of the configuration."""


@command.command("list")
@click.argument("search", required=False)
@click.option("--provider", metavar="NAME", help="Only those this provider serves.")
@click.option("--kind", metavar="NAME", type=click.Choice(_KINDS), help=f"Only those of this kind: {_or(_KINDS)}.")
@click.option(
    "--capability",
    metavar="NAME",
    type=click.Choice(_CAPABILITIES),
    help=f"Only those that can do this: {_or(_CAPABILITIES)}.",
)
@click.option("--all", "everywhere", is_flag=True, help="Those of the catalogue that nobody here serves as well.")
@shared_options
@click.pass_context
def list_models(ctx: click.Context, /, search: str | None, **given: str | bool | None) -> None:
    """The models callers may ask for, those whose name holds SEARCH. Prices are in USD per million tokens."""
    settings = settings_of(ctx)
    query = ModelQuery(
        search=search,
        provider=_text(given["provider"]),
        kind=_text(given["kind"]),
        capability=_text(given["capability"]),
        everywhere=given["everywhere"] is True,
    )
    with open_access(settings) as access:
        models = access.models(query)
    render.emit(settings, models, _table)


@command.command("show")
@click.argument("name")
@shared_options
@click.pass_context
def show_model(ctx: click.Context, name: str) -> None:
    """One model: every endpoint that serves it, with limits, capabilities and prices, and who else offers it."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        model = access.model(name)
    render.emit(settings, model, _detail)


def _text(value: str | bool | None) -> str | None:
    return value if isinstance(value, str) else None


def _table(models: tuple[ModelView, ...]) -> None:
    wide = render.console().width >= WIDE_COLUMNS
    titles = [Column("model")]
    if wide:
        titles += [Column("kind"), Column("providers", wrap=True)]
    titles.append(Column("context", right=True))
    if wide:
        titles.append(Column("output", right=True))
    titles += [Column("in $/M", right=True), Column("out $/M", right=True), Column("can", wrap=True)]
    render.table(titles, [_row(model, wide=wide) for model in models], "No model matches.")


def _row(model: ModelView, *, wide: bool) -> list[Cell]:
    offers = _offers(model)
    row: list[Cell] = [model.name]
    if wide:
        row += [model.kind, ", ".join(dict.fromkeys(endpoint.provider for endpoint in model.endpoints)) or None]
    row.append(_short(max((one.context_tokens for one in offers if one.context_tokens is not None), default=None)))
    if wide:
        outputs = (one.output_tokens_max for one in offers if one.output_tokens_max is not None)
        row.append(_short(max(outputs, default=None)))
    row += [_cheapest(offers, "input"), _cheapest(offers, "output")]
    able = {capability for offer in offers for capability in offer.capabilities}
    words = [word for capability, word in _SHORT.items() if capability in able]
    if not wide and model.kind != Kind.CHAT:
        words.insert(0, model.kind)
    change = min((one.next_price.at[:10] for one in model.endpoints if one.next_price is not None), default=None)
    if change is not None:
        words.append(f"(new price {change})")
    return [*row, " ".join(words) or None]


def _offers(model: ModelView) -> tuple[EndpointView, ...]:
    """Who serves it; where nobody here does, who would."""
    return model.endpoints if model.endpoints else model.elsewhere


def _short(tokens: int | None) -> str | None:
    """`131072` → `131k`, `1048576` → `1.05M`."""
    if tokens is None or tokens < 1_000:
        return count(tokens)
    if tokens < 999_500:
        return f"{tokens / 1e3:.3g}k"
    return f"{tokens / 1e6:.3g}M"


def _cheapest(offers: tuple[EndpointView, ...], unit: str) -> str | None:
    """The lowest price among several offers."""
    rates = [offer.price[unit] for offer in offers if offer.price and unit in offer.price]
    return money(min(rates, key=lambda rate: rate.pico).usd) if rates else None


def _detail(model: ModelView) -> None:
    pairs: list[tuple[str, Cell]] = [
        ("model", model.name),
        ("kind", model.kind),
        ("owner", model.owner or None),
        ("released", model.released),
    ]
    if model.alias_of is not None:
        pairs.insert(1, ("alias of", model.alias_of))
    if model.aliases:
        pairs.append(("other names", ", ".join(model.aliases)))
    pairs.append(("served by", ", ".join(dict.fromkeys(one.provider for one in model.endpoints)) or "nobody here"))
    if model.elsewhere:
        pairs.append(("offered by", ", ".join(one.provider for one in model.elsewhere) + " (not configured)"))
    render.facts(pairs)
    for endpoint in model.endpoints:
        render.heading(endpoint.key)
        render.facts(_endpoint(endpoint))
    for offer in model.elsewhere:
        render.heading(f"{offer.key} (not configured)")
        render.facts(_endpoint(offer))


def _endpoint(endpoint: EndpointView) -> list[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = [
        ("context", None if endpoint.context_tokens is None else f"{endpoint.context_tokens:,} tokens"),
        ("longest answer", None if endpoint.output_tokens_max is None else f"{endpoint.output_tokens_max:,} tokens"),
        ("can", ", ".join(endpoint.capabilities) or None),
    ]
    if endpoint.price is None:
        return [*pairs, ("price", "unknown")]
    pairs += [*_prices(endpoint.price, endpoint.long_above_tokens), *_tiers(endpoint.tiers), *_origin(endpoint)]
    coming = endpoint.next_price
    if coming is not None:
        pairs.append(("from (UTC)", f"{render.when(coming.at)}, the price is"))
        pairs += [*_prices(coming.price, coming.long_above_tokens), *_tiers(coming.tiers)]
    return pairs


def _prices(price: dict[str, Rate], long_above: int | None) -> list[tuple[str, Cell]]:
    """Each price once, with the one it gives way to in a request whose input is long."""
    pairs: list[tuple[str, Cell]] = []
    for unit, rate in price.items():
        if unit.startswith("long_"):
            continue
        text = f"{money(rate.usd)} per {rate.per}"
        long = price.get(f"long_{unit}")
        if long is not None and long_above is not None:
            text += f"; {money(long.usd)} above {long_above:,} input tokens"
        pairs.append((unit.replace("_", " "), text))
    return pairs


def _tiers(tiers: dict[str, dict[str, Rate]]) -> list[tuple[str, Cell]]:
    """Each service tier in a line."""
    return [
        (f"tier {name}", ", ".join(f"{unit.replace('_', ' ')} {money(rate.usd)}" for unit, rate in price.items()))
        for name, price in tiers.items()
    ]


def _origin(endpoint: EndpointView) -> list[tuple[str, Cell]]:
    if endpoint.price_source is None:
        return []
    read = "" if endpoint.price_as_of is None else f", read on {endpoint.price_as_of}"
    return [("source", f"{endpoint.price_source}{read}")]
