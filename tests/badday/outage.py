"""A primary that is down for a minute and comes back: everybody is served all along, and it is used again soon."""

import asyncio
import time
from dataclasses import dataclass

import openai

from tests.badday.scenarios import DOWN_S, TEXT, USAGE
from tests.support.behaviours import Ok, Status
from tests.support.gateway import HELLO
from tests.support.upstream import ScriptedUpstream

EVERY_S = 0.5
"""Between two calls."""


@dataclass(frozen=True)
class Recovery:
    calls: int
    failed: int
    back_after_s: float | None
    """From the primary's return until it was used again, on the real scale; None: never."""


async def outage(
    client: openai.AsyncOpenAI, up: ScriptedUpstream, spare: ScriptedUpstream, scale: float, patience_s: float
) -> Recovery:
    """Calls without a pause of their own until the primary has answered again, or `patience_s` after its return."""
    up.default, spare.default = Status(503), Ok("spare", (1, 1))
    began_s = time.monotonic()
    back_s: float | None = None
    calls = failed = 0
    while True:
        now_s = time.monotonic()
        if back_s is None and now_s - began_s >= DOWN_S * scale:
            up.default, back_s = Ok(TEXT, USAGE), now_s
        if back_s is not None and now_s - back_s > patience_s * scale:
            return Recovery(calls, failed, None)
        calls += 1
        try:
            answer = await client.chat.completions.create(model="duo", messages=HELLO)  # type: ignore[arg-type]
        except openai.APIError:
            failed += 1
        else:
            if back_s is not None and answer.choices[0].message.content == TEXT:
                return Recovery(calls, failed, (time.monotonic() - back_s) / scale)
        await asyncio.sleep(EVERY_S * scale)
