"""A load whose every request carries an Idempotency-Key and is sent again under it until it is known what became of it.

What became of it is either a whole answer, or `replay_unavailable`: it was served and charged, and its answer is gone.
"""

import asyncio

from tests.torture import oracle, world
from tests.torture.client import Saw, request_of
from tests.torture.driver import RETRY_S, Journal, Load, Sent
from tests.torture.oracle import Leaving

UNKNOWN_MODEL = "nobody-has-it"
UNKNOWN_EVERY = 6
"""One request in so many asks for a model that is not there: its key is free again afterwards."""

SERVED = "replay_unavailable"


class KeyedLoad(Load):
    """As Load. Nobody leaves; whoever is cut off asks again."""

    def __init__(self, seed: int, journal: Journal, *, aborts: float = 0.0, retry_s: float = RETRY_S) -> None:
        super().__init__(seed, journal, aborts=aborts, retry_s=retry_s)
        self.served: set[int] = set()
        """Numbers of requests that have come to an end: each is charged exactly once."""

    async def _lane(self, lane: int) -> None:
        caller, turn = self._callers[lane], 0
        try:
            while True:
                await self._gate.wait()
                turn += 1
                if turn % UNKNOWN_EVERY == 0:
                    await self._unknown(lane, turn)
                    continue
                number = len(self.journal.sent) + 1
                key, tenant = world.lane_key(lane), world.tenant_of(lane)
                self.journal.sending(Sent(number, tenant, world.key_id(key), Leaving.NEVER, 0))
                asked = oracle.script(self._seed, number)
                request = _keyed(request_of(asked, key), f"request-{number}")
                while True:
                    saw = await self._asked(lane, request, number)
                    if saw.end == "complete" or saw.code == SERVED:
                        break
                self.served.add(number)
                # Under which id it was served its caller cannot know: it may have been told again under another one.
                self.journal.seen(Saw(number, "left"))
        finally:
            caller.close()

    async def _unknown(self, lane: int, turn: int) -> None:
        asked = oracle.script(self._seed, turn, UNKNOWN_MODEL)
        request = _keyed(request_of(asked, world.lane_key(lane), UNKNOWN_MODEL), f"unknown-{lane}-{turn}")
        while (await self._asked(lane, request, turn)).code != "model_not_found":
            pass

    async def _asked(self, lane: int, request: bytes, number: int) -> Saw:
        """One try; a wrong answer, and a refusal that cannot be, are unexpected."""
        await self._gate.wait()
        self._busy += 1
        try:
            asked = oracle.script(self._seed, number)
            saw = await self._callers[lane].call(self.port, request, asked, (Leaving.NEVER, 0.0))
        finally:
            self._callers[lane].phase = ""
            self._busy -= 1
        if saw.end == "wrong" or (saw.end == "refused" and saw.code not in (SERVED, "model_not_found")):
            self.unexpected.append(saw)
        if saw.end != "complete":
            await asyncio.sleep(self._retry_s)
        return saw


def _keyed(request: bytes, key: str) -> bytes:
    return request.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: " + key.encode() + b"\r\n\r\n", 1)
