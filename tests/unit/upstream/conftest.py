"""The aiohttp transport runs on both event loops: production has uvloop, which closes and reports in its own ways."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name.startswith("test_client"):
        loops["uvloop"] = uvloop.new_event_loop
    return loops
