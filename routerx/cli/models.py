"""`routerx models …`: what callers may ask for, who serves it and for how much."""

import click

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.render import Cell, Column, count, money
from routerx.cli.settings import settings_of, shared_options
from routerx.control.values import EndpointView, ModelQuery, ModelView
from routerx.domain.model import Kind


@click.group(name="models")
def command() -> None:
    """Models: the bundled catalogue and those of the configuration."""


@command.command("list")
@click.argument("search", required=False)
@click.option("--provider", metavar="NAME", help="Only those this provider serves.")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only those of this kind.")
@shared_options
@click.pass_context
def list_models(ctx: click.Context, search: str | None, provider: str | None, kind: str | None) -> None:
    """The models callers may ask for, those whose name holds SEARCH. Prices are in USD per million tokens."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        models = access.models(ModelQuery(provider=provider, kind=kind, search=search))
    render.emit(settings, models, _table)


@command.command("show")
@click.argument("name")
@shared_options
@click.pass_context
def show_model(ctx: click.Context, name: str) -> None:
    """One model: every endpoint that serves it, with prices, context and capabilities."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        model = access.model(name)
    render.emit(settings, model, _detail)


def _table(models: tuple[ModelView, ...]) -> None:
    columns = (
        Column("model"),
        Column("kind"),
        Column("providers", wrap=True),
        Column("context", right=True),
        Column("in $/1M", right=True),
        Column("out $/1M", right=True),
    )
    rows = [
        (
            model.name,
            model.kind,
            ", ".join(dict.fromkeys(endpoint.provider for endpoint in model.endpoints)) or None,
            count(max((e.context_tokens for e in model.endpoints if e.context_tokens is not None), default=None)),
            _cheapest(model, "input"),
            _cheapest(model, "output"),
        )
        for model in models
    ]
    render.table(columns, rows, "No model matches.")


def _cheapest(model: ModelView, unit: str) -> str | None:
    """The lowest price among its endpoints."""
    rates = [endpoint.price[unit] for endpoint in model.endpoints if endpoint.price and unit in endpoint.price]
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
    render.facts(pairs)
    for endpoint in model.endpoints:
        render.heading(endpoint.key)
        render.facts(_endpoint(endpoint))
    if not model.endpoints:
        render.say("No configured provider serves it.")


def _endpoint(endpoint: EndpointView) -> list[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = [
        ("context", None if endpoint.context_tokens is None else f"{endpoint.context_tokens:,} tokens"),
        ("longest answer", None if endpoint.output_tokens_max is None else f"{endpoint.output_tokens_max:,} tokens"),
        ("can", ", ".join(endpoint.capabilities) or None),
    ]
    if endpoint.price is None:
        return [*pairs, ("price", "unknown")]
    for unit, rate in endpoint.price.items():
        pairs.append((unit.replace("_", " "), f"{money(rate.usd)} per {rate.per}"))
    return pairs
