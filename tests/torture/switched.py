"""Tenants that operators switch on and off while their callers go on: what they are told is exact at every moment.

A request that was sent after the order to switch off had been answered is refused, one that was answered before the
order was sent is served; only of those beside an order nothing is said.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from tests.torture import world
from tests.torture.client import FAILURES, Caller, fetch
from tests.torture.traffic import Odd, Traffic, Who

SUSPENDED, ROTATING = "paused", "rotor"
REFUSALS = {SUSPENDED: (403, "tenant_suspended"), ROTATING: (401, "invalid_api_key")}
RETRY_S = 0.1
CALL_S = 0.03


class Operator:
    """Orders to the admin API, by those whom the gateway must always obey."""

    def __init__(self, lanes: Traffic) -> None:
        self._lanes = lanes
        self.orders = 0

    async def order(self, method: str, path: str, body: dict[str, str] | None = None) -> bytes:
        """The answer, once it is 200; it is asked for until then, and what it was is kept."""
        while True:
            began_s = time.monotonic()
            data = b"" if body is None else json.dumps(body).encode()
            status, answer = await fetch(self._lanes.port, method, path, world.ADMIN_KEY, data)
            if status == 200:
                self.orders += 1
                return answer
            is_storage = status == 503 and json.loads(answer)["error"]["code"] == "storage_unavailable"
            odd = Odd(began_s, time.monotonic(), f"{method} {path} was answered with {status}", is_storage)
            self._lanes.odd.append(odd)
            await asyncio.sleep(RETRY_S)


class Switch:
    """One tenant, its caller, and those who switch it."""

    def __init__(self, lanes: Traffic, operator: Operator, tenant: str, pause_s: float) -> None:
        self._lanes = lanes
        self._operator = operator
        self._pause_s = pause_s
        self._refusal = REFUSALS[tenant]
        self.tenant = tenant
        self.who = Who.of_tenant(tenant)
        self.served = 0
        self.refused = 0
        self.switched = 0
        self._is_on: bool | None = True
        """None beside an order."""
        self._epoch = 0
        self._wants: Callable[[], Awaitable[None]] = self._suspend if tenant == SUSPENDED else self._rotate

    async def operate(self) -> None:
        """Without end."""
        while True:
            await asyncio.sleep(self._pause_s)
            await self._wants()

    async def call(self) -> None:
        """Without end."""
        caller = Caller()
        try:
            while True:
                await asyncio.sleep(CALL_S)
                await self._lanes.opened()
                began_s, epoch, is_on = time.monotonic(), self._epoch, self._is_on
                saw = await self._lanes.ask(caller, self.who)
                if (saw.end, saw.status, saw.code) == ("refused", *self._refusal):
                    self.refused += 1
                    if is_on and epoch == self._epoch:
                        self._lanes.odd.append(Odd(began_s, time.monotonic(), f"{self.tenant} is on: {saw}", False))
                elif self._lanes.judge(saw, began_s, "complete"):
                    self.served += 1
                    if is_on is False and epoch == self._epoch:
                        self._lanes.odd.append(Odd(began_s, time.monotonic(), f"{self.tenant} is off: {saw}", False))
        finally:
            caller.close()

    async def _suspend(self) -> None:
        await self._to("POST", f"/admin/v1/tenants/{self.tenant}/suspend", False)
        await asyncio.sleep(self._pause_s / 2)
        await self._to("POST", f"/admin/v1/tenants/{self.tenant}/unsuspend", True)

    async def _rotate(self) -> None:
        """The caller goes on with a key that is revoked, until it gets another one."""
        answer = json.loads(await self._operator.order("POST", "/admin/v1/keys", {"tenant": self.tenant}))
        self._is_on, self._epoch = None, self._epoch + 1
        self.who = Who(self.tenant, answer["key"], answer["view"]["id"])
        self._is_on, self._epoch = True, self._epoch + 1
        await asyncio.sleep(self._pause_s)
        await self._to("POST", f"/admin/v1/keys/{self.who.key_id}/revoke", False)

    async def _to(self, method: str, path: str, is_on: bool) -> None:
        self._is_on, self._epoch = None, self._epoch + 1
        await self._operator.order(method, path, {})
        self._is_on, self._epoch = is_on, self._epoch + 1
        self.switched += 1


async def read(lanes: Traffic, path: str) -> bytes:
    """What a dashboard reads; always answered with 200."""
    began_s = time.monotonic()
    try:
        status, body = await fetch(lanes.port, "GET", path, world.ADMIN_KEY)
    except FAILURES as error:
        status, body = 0, str(error).encode()
    if status != 200:
        lanes.odd.append(Odd(began_s, time.monotonic(), f"GET {path}: {status} {body[:200]!r}", False))
    return body
