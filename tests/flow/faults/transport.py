"""Rows 1 to 23 of the table of faults: connecting, and what a connection does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.flow.faults.kit import ELSEWHERE, RETRIED, Row, Scene, always, failing
from tests.support.upstream import Hangup, Redirect, Reset


@asynccontextmanager
async def nobody_listens(scene: Scene) -> AsyncIterator[None]:
    await scene.up.refuse()
    yield


ROWS: tuple[Row, ...] = (
    Row(
        1,
        "refused",
        failing("upstream_connect_error", 502, "upstream_unreachable", up=ELSEWHERE, seen=0),
        gear=nobody_listens,
    ),
    Row(
        13,
        "reset",
        failing("upstream_reset_before_output", 502, "upstream_disconnected", up=RETRIED),
        play=always(Reset()),
    ),
    Row(
        13,
        "hangup",
        failing("upstream_reset_before_output", 502, "upstream_disconnected", up=RETRIED),
        play=always(Hangup()),
    ),
    Row(
        22,
        "redirect",
        failing("upstream_redirect", 502, "upstream_redirect"),
        play=always(Redirect("https://elsewhere.test/login?token=hush")),
    ),
)
