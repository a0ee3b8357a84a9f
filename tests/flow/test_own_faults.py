"""Faults of this gateway's own: told as such, logged under the request's id, and never charged."""

import asyncio
from pathlib import Path

import pytest

from routerx.gateway.context import BufferedCommit, RequestContext, StreamCommit
from routerx.http.answer import CallerStream
from tests.flow.flow_kit import OPENING
from tests.support.gateway import config, running
from tests.support.upstream import ScriptedUpstream, Stream


class Planted(Exception):
    """A fault that nobody foresaw."""


@pytest.mark.parametrize("stream", [False, True])
async def test_fault_before_the_answer_is_an_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        gateway = gw.runtime.gateway
        commit = gateway._commit

        def fail(ctx: RequestContext, attempt: BufferedCommit | StreamCommit) -> None:
            commit(ctx, attempt)
            raise Planted("hush")

        monkeypatch.setattr(gateway, "_commit", fail)
        if stream:
            up.queue(Stream(["Hel", "lo"], gates={2: asyncio.Event()}))
        reply = await gw.chat(stream=stream)

        assert (reply.status, reply.error["code"], reply.error["type"]) == (500, "internal_error", "server_error")
        assert b"hush" not in reply.body
        assert "Planted: hush" in caplog.text
        assert f"request {reply.headers['x-request-id']} failed" in caplog.text
        row = await gw.settled()
        assert (row.outcome, row.http_status, row.cost_nano) == ("internal_error", 500, 0)
        if stream:
            await up.requests[0].gone()
        assert gw.funds().balance_nano == OPENING
        await gw.assert_books_are_clean()
        monkeypatch.undo()
        assert (await gw.chat(stream=stream)).status == 200


async def test_fault_in_the_middle_of_a_stream_cuts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a stream must not look like a whole one."""
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        gate = asyncio.Event()
        up.default = Stream(["Hel", "lo"], gates={2: gate, 3: asyncio.Event()})
        caller = await gw.begin(stream=True)
        head = await caller.head()
        seen = await caller.until(b'"Hel"')

        def fail(*_: object) -> bytes:
            raise Planted("hush")

        monkeypatch.setattr(CallerStream, "write", fail)
        gate.set()
        reply = await caller.reply(head, seen)

        assert reply.cut
        assert b"[DONE]" not in reply.body
        assert "Planted: hush" in caplog.text
        row = await gw.settled()
        assert (row.outcome, row.billing, row.cost_nano) == ("internal_error", "void", 0)
        await up.requests[0].gone()
        assert gw.funds().balance_nano == OPENING
        await gw.assert_books_are_clean()
