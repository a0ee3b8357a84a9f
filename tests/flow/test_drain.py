"""The end of a process: what runs is finished, what comes late is sent elsewhere, nothing is charged that was cut."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.flow.flow_kit import OPENING, UP_COST, completion
from tests.support.gateway import HELLO, KEY, config, running, save, serving, wait_for
from tests.support.upstream import Json, Ok, ScriptedUpstream, Stream, usage_of

CHAT = ("POST", "/v1/chat/completions", {"model": "solo", "messages": HELLO})


async def test_running_requests_are_finished_and_late_ones_sent_elsewhere(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        gates = [asyncio.Event(), asyncio.Event()]
        up.queue(Stream(["Hel", "lo"], gates={2: gates[0]}), Ok(gate=gates[1]), Ok())
        stream = await gw.begin(stream=True)
        head = await stream.head()
        seen = await stream.until(b'"Hel"')
        buffered = await gw.begin()
        await up.arrived(2)
        late = await gw.connect()
        await late.send(*CHAT)
        assert (await late.reply()).status == 200
        idle = await gw.connect()
        await idle.send("GET", "/readyz", key=None)
        assert (await idle.reply()).status == 200

        stopping = asyncio.ensure_future(gw.runtime.stop(5))
        await asyncio.sleep(0)

        await late.send(*CHAT)
        told = await late.reply()
        assert (told.status, told.error["code"], told.error["retryable"]) == (503, "shutting_down", True)
        assert (told.headers["connection"], told.headers["retry-after"]) == ("close", "1")
        await late.closed()
        await idle.send("GET", "/readyz", key=None)
        ready = await idle.reply()
        assert (ready.status, ready.json) == (503, {"ready": False, "reason": "draining"})
        with pytest.raises(ConnectionRefusedError):
            await gw.connect()
        assert not stopping.done()
        for gate in gates:
            gate.set()
        whole = await stream.reply(head, seen)
        assert (whole.text, whole.stream_error) == ("Hello", None)
        assert (await buffered.reply()).status == 200
        await stopping
        assert len(up.requests) == 3
        assert [(await gw.settled()).outcome for _ in range(3)] == ["ok"] * 3
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        assert gw.funds().balance_nano == OPENING - 3 * UP_COST
        await gw.assert_books_are_clean()


async def test_drain_deadline_cuts_what_still_runs_in_its_own_shape_and_free(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(Stream(["Hel", "lo"], gates={2: asyncio.Event()}), Ok(gate=asyncio.Event()), Ok(gate=asyncio.Event()))
        told = await gw.begin(stream=True)
        head = await told.head()
        seen = await told.until(b'"Hel"')
        silent = await gw.begin(stream=True)
        await up.arrived(2)
        buffered = await gw.begin()
        await up.arrived(3)

        stopping = asyncio.ensure_future(gw.runtime.stop(0.05))

        error = (await told.reply(head, seen)).stream_error
        assert error is not None
        assert (error["code"], error["retryable"]) == ("shutting_down", True)
        for caller in (silent, buffered):
            reply = await caller.reply()
            assert (reply.status, reply.error["code"]) == (503, "shutting_down")
            assert reply.headers["connection"] == "close"
        await stopping
        rows = [await gw.settled() for _ in range(3)]
        assert {row.outcome for row in rows} == {"shutting_down"}
        assert {(row.billing, row.cost_nano) for row in rows} == {("void", 0)}
        for request in up.requests:
            await request.gone()
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        assert gw.funds().balance_nano == OPENING
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_that_waits_for_its_charge_at_the_deadline_still_ends_well(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        async with gw.commits_blocked():
            caller = await gw.begin(stream=stream)
            await gw.settling()
            stopping = asyncio.ensure_future(gw.runtime.stop(0.02))
            await asyncio.sleep(0.1)
        reply = await caller.reply()
        assert (reply.status, reply.text) == (200, "Hello from upstream")
        if stream:
            assert reply.stream_error is None
        await stopping
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        assert gw.funds().balance_nano == OPENING - UP_COST
        await gw.assert_books_are_clean()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the drain nothing is waited for."""
    monkeypatch.setattr("routerx.runtime.FORCED_DRAIN_S", 0.01)


def large() -> Json:
    """More than sockets can hold."""
    body = completion(usage_of(7, 3))
    body["choices"][0]["message"]["content"] = "x" * 30_000_000
    return Json(body)


@pytest.mark.usefixtures("_impatient")
async def test_slow_reader_gets_its_whole_answer_within_the_drain(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = large()
        caller = await gw.begin()
        await gw.settled()
        stopping = asyncio.ensure_future(gw.runtime.stop(5))
        await asyncio.sleep(0.1)
        assert len((await caller.reply()).text) == 30_000_000
        await stopping


@pytest.mark.usefixtures("_impatient")
async def test_slow_reader_does_not_hold_up_a_stop_that_was_asked_for_twice(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = large()
        await gw.begin()
        await gw.settled()
        stopping = asyncio.ensure_future(gw.runtime.stop(60))
        await asyncio.sleep(0.05)
        gw.runtime.gateway.cut_off()
        async with asyncio.timeout(4):
            await stopping


@pytest.mark.usefixtures("_impatient")
async def test_upload_under_way_is_taken_and_answered_within_the_drain(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.runtime.port)
        body = json.dumps(CHAT[2]).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nx-api-key: %b\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (KEY.encode(), len(body)) + body[:10])
        await wait_for(lambda: gw.runtime.edge.in_flight)
        stopping = asyncio.ensure_future(gw.runtime.stop(5))
        await asyncio.sleep(0.1)
        writer.write(body[10:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await stopping


# --- the process itself


async def test_sigterm_finishes_what_runs_and_exits_with_0(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, serving(tmp_path, config(up.url)) as served:
        gate = asyncio.Event()
        up.default = Ok(gate=gate)
        caller = await served.begin()
        await up.arrived()
        served.process.send_signal(signal.SIGTERM)
        await served.said(b"draining: 1 requests in flight")
        gate.set()
        assert (await caller.reply()).status == 200
        assert await served.ended() == 0
        assert json.loads(served.log.splitlines()[-1])["message"] == "stopped"
        assert not (tmp_path / "data" / "admin.sock").exists()


async def test_second_sigterm_ends_what_runs(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, serving(tmp_path, config(up.url)) as served:
        up.default = Ok(gate=asyncio.Event())
        caller = await served.begin()
        await up.arrived()
        served.process.send_signal(signal.SIGTERM)
        await served.said(b"draining")
        served.process.send_signal(signal.SIGTERM)
        reply = await caller.reply()
        assert (reply.status, reply.error["code"]) == (503, "shutting_down")
        assert await served.ended() == 0


async def test_sighup_reads_the_configuration_again(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, serving(tmp_path, config(up.url)) as served:
        save(tmp_path, "models: [")
        served.process.send_signal(signal.SIGHUP)
        await served.said(b"the configuration is refused")
        assert (await served.chat()).status == 200
