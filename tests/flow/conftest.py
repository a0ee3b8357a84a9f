"""These tests run on the event loop that `routerx serve` runs on. And the plain gateway that many of them ask."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.support.gateway import Gateway, config, running
from tests.support.upstream import ScriptedUpstream


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, config(up.url)) as gateway:
        yield gateway
