"""Limits as callers meet them: what refusals and headers tell, and what comes back of what was not used."""

import asyncio
from pathlib import Path

import pytest

from tests.flow.flow_kit import planned
from tests.support.behaviours import Behaviour, Hangup, Ok, Silence, Status, Stream
from tests.support.gateway import Gateway, digest, running, wait_for
from tests.support.upstream import ScriptedUpstream

TPM = 100_000


async def test_a_refusal_says_when_to_come_back_in_seconds_and_milliseconds(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    async with running(tmp_path, planned(up.url, limits={"rpm": 3})) as gw:
        for _ in range(3):
            assert (await gw.chat()).status == 200
        refused = await gw.chat()
        assert (refused.status, refused.error["limit"], refused.error["limit_of"]) == (429, "rpm", "tenant")
        seconds, milliseconds = int(refused.headers["retry-after"]), int(refused.headers["retry-after-ms"])
        assert 15_000 < milliseconds <= 20_000
        assert (seconds - 1) * 1000 < milliseconds <= seconds * 1000
        assert "x-should-retry" not in refused.headers
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_whoever_would_have_to_wait_for_tomorrow_is_told_not_to_try(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, planned(up.url, limits={"daily_requests": 1})) as gw:
        first, refused = await gw.chat(), await gw.chat()
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert (refused.status, refused.error["limit"]) == (429, "daily_requests")
        minute = int(refused.headers["retry-after-ms"]) <= 60_000  # Of a test that runs at midnight.
        assert minute or refused.headers["x-should-retry"] == "false"


async def test_a_tenant_that_was_taken_out_of_the_file_begins_no_new_day(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = planned(up.url, limits={"daily_requests": 2})
    without = value | {"tenants": {"rival": {"plan": "prepaid", "keys": [digest("rival_key_fake_123456")]}}}
    async with running(tmp_path, value) as gw:
        assert (await gw.chat()).status == 200
        for one in (without, value):
            assert (await gw.reload(one)).ok
        assert [(await gw.chat()).status for _ in range(2)] == [200, 429]


async def left(gw: Gateway) -> int:
    limits = (await gw.ask("GET", "/router/rate-limits")).json
    remaining = limits["tokens_per_minute"]["remaining"]
    assert isinstance(remaining, int)
    return remaining


@pytest.mark.parametrize("failure", [Status(500), Status(400), Hangup()], ids=["5xx", "4xx", "hangup"])
async def test_tokens_of_requests_that_failed_come_back(
    tmp_path: Path, up: ScriptedUpstream, failure: Behaviour
) -> None:
    async with running(tmp_path, planned(up.url, limits={"tpm": TPM})) as gw:
        up.default = failure
        assert (await gw.chat()).status >= 400
        assert await left(gw) == TPM


async def test_tokens_of_abandoned_and_broken_streams_come_back_but_for_those_that_flowed(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    async with running(tmp_path, planned(up.url, limits={"tpm": TPM})) as gw:
        up.queue(Silence())
        silent = await gw.begin(stream=True)
        await wait_for(lambda: len(up.requests) == 1)
        assert await left(gw) < TPM - 3_000  # The plan's hold_output_tokens are reserved.
        silent.leave()
        await gw.settled()
        assert await left(gw) == TPM
        up.queue(Stream(["x" * 40_000, "more"], gates={2: asyncio.Event()}))
        half = await gw.begin(stream=True)
        await half.head()
        await half.until(b"x")
        half.leave()
        await gw.settled()
        assert TPM - 12_000 < await left(gw) < TPM - 5_000  # It refills meanwhile: 1,667 tokens a second.


async def test_an_answer_takes_what_it_used(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, planned(up.url, limits={"tpm": TPM})) as gw:
        up.queue(Ok(usage=(20_000, 10)))
        reply = await gw.chat()
        assert TPM - 20_010 <= int(reply.headers["x-ratelimit-remaining-tokens"]) <= await left(gw) < TPM - 15_000
