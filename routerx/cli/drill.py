"""`routerx drill`: what callers would see on a bad day, with the configuration as it is."""

import click
import msgspec

from routerx.cli import render
from routerx.cli.advice import Advice, advise
from routerx.cli.files import load
from routerx.cli.rehearsal import Order, Scene, rehearse
from routerx.cli.render import Cell, Column, money
from routerx.cli.settings import local_options, settings_of
from routerx.config.snapshot import Snapshot
from routerx.control.lookup import require
from routerx.control.views import own_name
from routerx.domain.model import Kind
from routerx.errors import NotFound
from routerx.upstream.drill import FAULTS, WELL

MODELS_MAX = 20
"""Rehearsed where none is named."""
WHOLE_TABLES_MAX = 3
"""Of more models only what went wrong is shown."""
WIDE_COLUMNS = 140
"""From here on a table has room for what each fault is and for whole endpoints and charges."""


class Report(msgspec.Struct, frozen=True):
    """What `drill --json` says. `ok`: every fault that can be survived was, and all others were told clearly."""

    ok: bool
    tenant: str
    policy: str
    models: tuple[str, ...]
    scenes: tuple[Scene, ...]
    advice: tuple[Advice, ...]


@click.command("drill")
@click.option("--model", "models", metavar="NAME", multiple=True, help="A model to ask for; repeatable.")
@click.option("--policy", metavar="NAME", help="A policy of the configuration in place of the tenant's.")
@click.option("--tenant", metavar="NAME", help="Whose policy and permissions; the first tenant unless given.")
@click.option(
    "--fault",
    "faults",
    metavar="NAME",
    multiple=True,
    type=click.Choice(list(FAULTS)),
    help=f"Only this fault; repeatable. One of {', '.join(FAULTS)}.",
)
@click.option("--stream/--buffered", "streamed", default=None, help="Only streams, or only buffered answers.")
@local_options
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    policy: str | None,
    tenant: str | None,
    faults: tuple[str, ...],
    streamed: bool | None,
) -> None:
    """Play every fault to your own policies: the provider that is asked first fails, the others are well.

    Nothing is sent anywhere, no key is used and no data is touched. All times are real ones, although nobody waits.
    Exit code 1 where a caller would have missed an answer that somebody could have given.
    """
    settings = settings_of(ctx)
    snapshot = load(settings)
    order = Order(
        tenant=_tenant(snapshot, tenant),
        models=_models(snapshot, models),
        faults=tuple(FAULTS[name] for name in faults) if faults else tuple(FAULTS.values()),
        modes=(True, False) if streamed is None else (streamed,),
        policy=_policy(snapshot, policy),
    )
    if not models:
        render.say(f"models: {', '.join(order.models)} (name others with --model)")
    scenes = rehearse(snapshot, order)
    report = Report(
        ok=all(scene.good for scene in scenes),
        tenant=order.tenant,
        policy=order.policy if order.policy is not None else snapshot.tenants[order.tenant].policy,
        models=order.models,
        scenes=scenes,
        advice=advise(snapshot, order, scenes),
    )
    render.emit(settings, report, _show)
    if not report.ok:
        ctx.exit(1)


def _tenant(snapshot: Snapshot, name: str | None) -> str:
    if name is None:
        return next(iter(snapshot.tenants))
    require(name, snapshot.tenants, "tenant")
    return name


def _policy(snapshot: Snapshot, name: str | None) -> str | None:
    if name is not None:
        require(name, snapshot.policies, "policy")
    return name


def _models(snapshot: Snapshot, named: tuple[str, ...]) -> tuple[str, ...]:
    """Those named; else the chat models that the file declares, without their aliases; else the first chat model."""
    if named:
        return named
    chats = [name for name, model in snapshot.models.items() if model.kind is Kind.CHAT and own_name(model) == name]
    declared = [name for name in chats if f"models.{name}" in snapshot.places.by_path]
    found = tuple(declared[:MODELS_MAX] if declared else chats[:1])
    if not found:
        raise NotFound("The configuration serves no chat model that could be asked; see `routerx models list`.")
    return found


def _show(report: Report) -> None:
    whole = len(report.models) <= WHOLE_TABLES_MAX
    for model in report.models:
        for streamed in (True, False):
            scenes = [scene for scene in report.scenes if scene.model == model and scene.streamed is streamed]
            shown = scenes if whole else [scene for scene in scenes if not scene.good]
            if shown:
                render.heading(f"{model}, {'streamed' if streamed else 'buffered'}")
                _table(shown)
    render.heading(f"tenant {report.tenant}, policy {report.policy}")
    render.facts([(model, _verdict(report, model)) for model in report.models])
    for advice in report.advice:
        click.echo(render.clean(f"- {advice.text}"))


def _verdict(report: Report, model: str) -> Cell:
    scenes = [scene for scene in report.scenes if scene.model == model and scene.fault != WELL.name]
    if any(not scene.good for scene in report.scenes if scene.model == model and scene.fault == WELL.name):
        return render.state(False, "is not served although nothing is wrong")
    lost = sum(not scene.good for scene in scenes)
    told = sum(scene.good and not scene.whole for scene in scenes)
    text = f"{sum(scene.whole for scene in scenes)} of {len(scenes)} faults went unnoticed"
    if told:
        text += f", {told} that nobody could have mended {'was' if told == 1 else 'were'} told clearly"
    if lost:
        text += f", {lost} cost the caller its answer"
    return render.state(not lost, text)


def _table(scenes: list[Scene]) -> None:
    wide = render.console().width >= WIDE_COLUMNS
    columns = [Column("fault")]
    if wide:
        columns.append(Column("the first provider …", wrap=True))
    columns += [Column("the caller gets", wrap=True), Column("answered by", wrap=True)]
    columns += [Column("calls", right=True), Column("after", right=True)]
    if wide:
        columns.append(Column("charge", right=True))
    render.table(columns, [_row(scene, wide=wide) for scene in scenes], "")


def _row(scene: Scene, *, wide: bool) -> list[Cell]:
    told = scene.good and not scene.whole
    saw: Cell = scene.saw if told else render.state(scene.good, scene.saw)
    calls, after = len(scene.attempts), f"{scene.seconds:.1f} s"
    if not wide:
        return [scene.fault, saw, scene.provider, calls, after]
    return [scene.fault, scene.says, saw, scene.answered_by, calls, after, money(scene.cost_usd)]
