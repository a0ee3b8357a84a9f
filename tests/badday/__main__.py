"""`scripts/badday`: bad days in real time against `routerx serve`, and the storm. Exit code 1 when one went wrong."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import openai

from tests.badday.outage import outage
from tests.badday.play import call, complaints, scaled, script
from tests.badday.scenarios import BACK_WITHIN_S, SCENARIOS, Scenario
from tests.badday.storm import storm
from tests.support.gateway import ENVIRON, KEY, serving
from tests.support.upstream import ScriptedUpstream

REAL = 1.0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def day(scenario: Scenario) -> bool:
    """One scenario; True when the caller got what it should."""
    with tempfile.TemporaryDirectory() as folder:
        async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
            value = scaled(up.url, spare.url, scenario, REAL)
            async with serving(Path(folder), value, dict(ENVIRON)) as served:
                script(scenario, up, spare, REAL)
                async with client_of(served.port) as client:
                    got = await call(client, scenario, up, spare)
    wrong = complaints(scenario, got, REAL)
    told = f"error {got.code}" if got.code is not None else "whole answer" if got.text == scenario.want.text else "less"
    say(
        f"{scenario.name:54} {told:32} {got.seconds:6.2f} s  primary {got.calls[0]}  fallback {got.calls[1]}  "
        f"{'ok' if not wrong else 'WRONG: ' + '; '.join(wrong)}"
    )
    return not wrong


async def minute() -> bool:
    """The primary is down for a minute."""
    with tempfile.TemporaryDirectory() as folder:
        async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
            value = scaled(up.url, spare.url, SCENARIOS[0], REAL)
            value["server"]["health_interval"] = "5m"
            async with serving(Path(folder), value, dict(ENVIRON)) as served, client_of(served.port) as client:
                found = await outage(client, up, spare, REAL, patience_s=120.0)
    good = found.failed == 0 and found.back_after_s is not None and found.back_after_s <= BACK_WITHIN_S
    back = "never" if found.back_after_s is None else f"after {found.back_after_s:.1f} s"
    say(
        f"{'primary down for 60 s, then back':54} {found.calls} calls, {found.failed} failed; "
        f"primary used again {back}  {'ok' if good else 'WRONG'}"
    )
    return good


def client_of(port: int) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0, timeout=120)


async def play(chosen: argparse.Namespace) -> bool:
    good = True
    if chosen.only in (None, "days"):
        # Most of a day is waiting: all at once, in the order in which they end.
        good = all([*await asyncio.gather(*(day(scenario) for scenario in SCENARIOS), minute())])
    if chosen.only in (None, "storm"):
        for refuses, what in ((False, "answer 500"), (True, "refuse connections")):
            found = await storm(chosen.requests, refuses=refuses)
            say(f"all endpoints {what}: {found}  {'ok' if not found.broken() else 'WRONG'}")
            good = good and not found.broken()
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/badday", description="Bad days of providers, in real time.")
    parser.add_argument("--only", choices=["days", "storm"], help="one part alone")
    parser.add_argument("--requests", type=int, default=20_000, help="of each storm (default 20000)")
    return 0 if asyncio.run(play(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
