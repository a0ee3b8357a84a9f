"""Both transports for real providers pass the same tests, on both event loops: production has uvloop, which closes and
reports in its own ways."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.unit.upstream.kit import TRANSPORTS, chosen


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name.startswith(("test_client", "test_direct")):
        loops["uvloop"] = uvloop.new_event_loop
    return loops


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.path.name.startswith("test_client"):
        metafunc.parametrize("transport_name", list(TRANSPORTS), indirect=True)


@pytest.fixture(autouse=True)
def transport_name(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = getattr(request, "param", "direct")
    chosen.append(name)
    yield name
    chosen.pop()
