"""Looks at providers off the request path: what they find, and what they change."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from routerx.config.snapshot import SnapshotHolder
from routerx.control.checks import CheckParts, HealthChecks
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.policy import Policy
from routerx.providers.spec import Auth, Credential, Provider
from routerx.routing.state import CircuitView, RoutingState
from routerx.secrets import Secret
from routerx.tasks import TaskSet
from routerx.upstream.pool import TransportPool
from tests.flow.flow_kit import metrics
from tests.support.clock import ManualClock
from tests.support.gateway import ADMIN_KEY, UPSTREAM_KEY, Gateway, config, running, wait_for
from tests.support.upstream import (
    Behaviour,
    Html,
    Json,
    Redirect,
    Reset,
    ScriptedUpstream,
    Silence,
    Status,
    refused_url,
)
from tests.unit.routing.routing_world import endpoint, model, snapshot

MODELS = Json({"object": "list", "data": []})


async def look(gateway: Gateway, provider: str = "up") -> dict[str, Any]:
    reply = await gateway.ask("POST", f"/admin/v1/providers/{provider}/test", {}, key=ADMIN_KEY)
    assert reply.status == 200, reply.body
    (found,) = reply.json["looks"]
    assert reply.json["ok"] is (found["seen"] == "ok")
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("behaviour", "seen", "reason", "status"),
    [
        (MODELS, "ok", None, 200),
        (Json({"data": ["x" * 2_000_000]}), "ok", None, 200),
        (Status(404), "ok", "upstream_4xx", 404),
        (Status(429), "ok", "upstream_429", 429),
        (Status(401), "auth", "upstream_auth_failed", 401),
        (Status(402), "auth", "provider_exhausted", 402),
        (Status(503, code="overloaded_error"), "failed", "upstream_overloaded", 503),
        (Status(500), "failed", "upstream_5xx", 500),
        (Html(), "failed", "upstream_bad_content_type", 200),
        (Redirect("http://127.0.0.1:1/"), "failed", "upstream_redirect", 302),
        (Reset(), "unreachable", "upstream_reset_before_output", None),
    ],
)
async def test_what_a_look_finds(
    gw: Gateway, up: ScriptedUpstream, behaviour: Behaviour, seen: str, reason: str | None, status: int | None
) -> None:
    up.queue(behaviour)
    found = await look(gw)
    assert (found["seen"], found["reason"], found["status"]) == (seen, reason, status)
    asked = up.requests[0]
    assert (asked.method, asked.path) == ("GET", "/v1/models")
    assert asked.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"


async def test_an_address_where_nobody_listens_is_unreachable(tmp_path: Path) -> None:
    async with running(tmp_path, config(refused_url())) as gateway:
        found = await look(gateway)
        assert (found["seen"], found["reason"]) == ("unreachable", "upstream_connect_error")


async def test_a_provider_that_says_nothing_is_given_up(
    gw: Gateway, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerx.providers.probe.PROBE_TOTAL_S", 0.05)
    up.queue(Silence())
    found = await look(gw)
    assert (found["seen"], found["reason"]) == ("unreachable", "upstream_first_byte_timeout")
    assert found["latency_ms"] >= 50


async def test_the_mock_is_always_well(tmp_path: Path) -> None:
    value = config("http://127.0.0.1:1")
    value["providers"]["up"]["mock"] = {}
    async with running(tmp_path, value) as gateway:
        assert (await look(gateway))["seen"] == "ok"


async def test_looks_that_fail_open_no_circuit(gw: Gateway, up: ScriptedUpstream) -> None:
    await gw.chat()
    for _ in range(6):
        up.queue(Status(500))
        await look(gw)
    reply = await gw.chat()
    assert reply.status == 200
    health = await gw.ask("GET", "/health", key=None)
    assert [one["circuit"] for one in health.json["endpoints"]] == ["closed"]
    assert health.json["providers"][0]["seen"] == "failed"
    assert health.json["providers"][0]["consecutive"] == 6


async def test_a_running_gateway_looks_by_itself_and_shows_it(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerx.routing.health.FIRST_CHECK_S", 0.0)
    monkeypatch.setattr("routerx.control.checks.TICK_S", 0.01)
    value = config(up.url, refused_url())
    value["server"]["health_interval"] = "1h"
    value["tenants"]["acme"]["allow"] = ["solo"]
    up.default = MODELS
    async with running(tmp_path, value) as gateway:
        await wait_for(lambda: len(gateway.runtime.vitals.providers_up()) == 2)
        health = await gateway.ask("GET", "/health", key=None)
        seen = {one["provider"]: one["seen"] for one in health.json["providers"]}
        assert seen == {"spare": "unreachable", "up": "ok"}
        assert "key" not in str(health.json["providers"])
        text = await metrics(gateway)
        assert 'routerx_provider_up{provider="spare"} 0.0' in text
        assert 'routerx_provider_up{provider="up"} 1.0' in text
        own = await gateway.ask("GET", "/v1/health/providers")
        assert [(one["provider"], one["seen"], one["circuit"]) for one in own.json["data"]] == [("up", "ok", "closed")]
        assert (await gateway.ask("GET", "/v1/health/providers", key=None)).status == 401


async def test_an_interval_of_0_asks_nobody(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerx.routing.health.FIRST_CHECK_S", 0.0)
    monkeypatch.setattr("routerx.control.checks.TICK_S", 0.001)
    async with running(tmp_path, config(up.url)) as gateway:
        for _ in range(5):
            await gateway.ask("GET", "/readyz", key=None)
        assert up.requests == []
        assert gateway.runtime.vitals.providers_up() == []


# --- with time of a test's own


class World:
    """Looks at one provider, with the clock in the test's hand."""

    def __init__(self, url: str, *keys: str, interval_s: float = 300.0) -> None:
        self.clock = ManualClock()
        self.endpoint = endpoint("up/m")
        credentials = tuple(Credential(f"up-{key}", Secret(key)) for key in keys)
        known = Provider("up", "openai", f"{url}/v1", Auth.BEARER, credentials)
        self.provider = known
        made = snapshot([model("m", self.endpoint)], [known])
        server = msgspec.structs.replace(made.server, health_interval_s=interval_s)
        self.routing = RoutingState(random.Random(7))
        self.transports = TransportPool(self.clock)
        holder = SnapshotHolder(msgspec.structs.replace(made, server=server))
        self.checks = HealthChecks(CheckParts(holder, self.routing, self.transports, self.clock))
        self.checks.retain()
        self.tasks = TaskSet()
        self.tasks.spawn("looks", self.checks.run())

    async def seconds(self, count: int) -> None:
        """Let seconds pass, each with what happens in it on the network."""
        for _ in range(count):
            await self.clock.run(1.0)
            await wait_for(lambda: not self.checks.book._watched["up"].busy)

    def fails(self, times: int) -> None:
        """Chats go out and fail."""
        for _ in range(times):
            now_s = self.clock.monotonic_s()
            chosen = self.routing.pick_credential(self.provider, self.endpoint, Policy("default"), now_s)
            assert chosen is not None
            failure = Failure(FailureKind.SERVER_ERROR, "down")
            self.routing.failed("up/m", chosen.id, failure, Policy("default"), now_s)

    @property
    def circuit(self) -> CircuitView:
        (view,) = self.routing.view(self.clock.monotonic_s())
        return view

    async def close(self) -> None:
        await self.tasks.close()
        await self.transports.close()


async def test_an_open_circuit_is_looked_at_every_10_s_and_its_probe_comes_forward() -> None:
    async with ScriptedUpstream() as up:
        up.default = Status(503)
        world = World(up.url, "a")
        world.fails(5)
        await world.seconds(35)
        assert 3 <= len(up.requests) <= 5
        world.fails(1)  # The probe: the circuit opens for twice as long.
        assert world.circuit.ready_in_s == pytest.approx(60.0)
        up.default = MODELS
        await world.seconds(12)
        assert world.circuit.circuit == "open"
        assert world.circuit.ready_in_s == pytest.approx(30.0 - 12.0)
        await world.close()


async def test_a_provider_that_lists_models_and_answers_no_chat_is_not_probed_more_often() -> None:
    async with ScriptedUpstream() as up:
        up.default = MODELS
        world = World(up.url, "a")
        world.fails(5)
        await world.seconds(31)
        world.fails(1)
        await world.seconds(31)
        world.fails(1)
        assert world.circuit.ready_in_s == pytest.approx(90.0)
        await world.seconds(20)
        assert world.circuit.ready_in_s == pytest.approx(70.0)
        await world.close()


async def test_without_open_circuits_looks_keep_to_the_interval_and_keys_take_turns() -> None:
    async with ScriptedUpstream() as up:
        up.default = MODELS
        world = World(up.url, "a", "b", interval_s=60.0)
        await world.seconds(200)
        assert 3 <= len(up.requests) <= 5
        keys = [request.headers["authorization"] for request in up.requests]
        assert keys[0] == keys[2] != keys[1]
        health = world.checks.book.health("up", world.clock.monotonic_s())
        assert health is not None
        assert (health.last.seen, health.uptime) == ("ok", 1.0)
        await world.close()
