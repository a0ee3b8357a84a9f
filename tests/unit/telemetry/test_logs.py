"""Logs: one line per event, masked and bounded; a reader that stops costs lines, never requests."""

import functools
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.usage import Usage, UsageSource
from routerx.secrets import Secret
from routerx.telemetry.logs import LinePipe, Logs, configure_logging

log = logging.getLogger("routerx.test")


class Stream(io.TextIOWrapper):
    """A text stream whose bytes can be read after it is closed."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8")

    def lines(self) -> list[str]:
        return self.bytes.getvalue().decode().splitlines()


@pytest.fixture
def logs() -> Iterator[Callable[..., tuple[Logs, Stream]]]:
    opened: list[Logs] = []
    root = logging.getLogger()
    level = root.level

    def start(level: str = "info", *, json: bool = True) -> tuple[Logs, Stream]:
        stream = Stream()
        opened.append(configure_logging(level, stream, json=json))
        return opened[-1], stream

    yield start
    for one in opened:
        one.close()
    root.setLevel(level)


def record(**changes: object) -> RequestRecord:
    attempt = AttemptRecord(
        n=1,
        endpoint="openai/gpt-4o",
        provider="openai",
        credential_id="openai-1a2b3c4d",
        outcome="ok",
        upstream_status=200,
        dispatched=True,
        started_ms=0,
        first_byte_ms=5,
        duration_ms=6,
        won=True,
    )
    fields = {
        "id": "req_1",
        "tenant": "acme",
        "key_id": "key_0123456789ab",
        "operation": "chat",
        "model": "gpt-4o",
        "endpoint": "openai/gpt-4o",
        "provider": "openai",
        "stream": False,
        "outcome": "ok",
        "http_status": 200,
        "billing": BillingMode.PAID,
        "usage": Usage(in_fresh=100, in_cache_read=20, out_text=7),
        "usage_source": UsageSource.PROVIDER,
        "price": None,
        "cost_nano": 370_000,
        "held_nano": 9,
        "provider_cost_nano": 0,
        "started_ns": 0,
        "duration_ms": 1_200,
        "ttft_ms": 300,
        "overhead_us": 800,
        "attempts": (attempt,),
    }
    return RequestRecord(**(fields | changes))


def test_a_line_is_one_json_object_with_its_extras(logs: Callable[..., tuple[Logs, Stream]]) -> None:
    handle, stream = logs()

    log.warning("circuit of %r opened", "openai/gpt-4o", extra={"request_id": "req_1", "failures": 5})
    handle.close()
    (line,) = map(json.loads, stream.lines())

    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "routerx.test",
        "message": "circuit of 'openai/gpt-4o' opened",
        "request_id": "req_1",
        "failures": 5,
    }


def test_a_request_is_one_line_of_metadata(logs: Callable[..., tuple[Logs, Stream]]) -> None:
    handle, stream = logs()

    handle.request(record(flags=("coerced",), user="u-1"))
    handle.close()
    (line,) = map(json.loads, stream.lines())

    assert line["message"] == "request"
    assert (line["request_id"], line["tenant"], line["key_id"]) == ("req_1", "acme", "key_0123456789ab")
    assert (line["status"], line["outcome"], line["billing"]) == (200, "ok", "paid")
    assert (line["input_tokens"], line["output_tokens"], line["usage_source"]) == (120, 7, "provider")
    assert (line["cost_usd"], line["duration_ms"], line["ttft_ms"]) == ("0.00037", 1_200, 300)
    assert (line["attempts"], line["flags"], line["user"]) == (["openai/gpt-4o ok"], ["coerced"], "u-1")


def test_a_request_is_not_logged_above_info(logs: Callable[..., tuple[Logs, Stream]]) -> None:
    handle, stream = logs("warning")

    handle.request(record())
    handle.close()

    assert stream.lines() == []


def test_a_request_in_text_reads_as_a_sentence(logs: Callable[..., tuple[Logs, Stream]]) -> None:
    handle, stream = logs(json=False)

    handle.request(record())
    handle.close()
    (line,) = stream.lines()

    assert line.endswith("200 ok acme gpt-4o -> openai/gpt-4o 120+7 tokens $0.00037 1200 ms req_1")


def test_what_a_caller_sent_cannot_forge_a_line_or_drive_a_terminal(logs: Callable[..., tuple[Logs, Stream]]) -> None:
    handle, stream = logs(json=False)

    log.info("model %s", "x\n2026-01-01 INFO forged\x1b[2J")
    handle.request(record(model="y\r\nforged"))
    handle.close()

    assert len(stream.lines()) == 2
    assert "\x1b" not in stream.lines()[0]
    assert "x\\n2026-01-01 INFO forged\\x1b[2J" in stream.lines()[0]


@pytest.mark.parametrize("json_lines", [True, False])
def test_keys_are_masked_in_messages_extras_requests_and_tracebacks(
    logs: Callable[..., tuple[Logs, Stream]], json_lines: bool
) -> None:
    handle, stream = logs(json=json_lines)
    handle.protect([Secret("canary-of-no-known-shape")])

    log.info("key sk-aaaaaaaaaaaaaaaa and %s", Secret("sk-bbbbbbbbbbbbbbbb"))
    log.info(
        "x", extra={"key": "canary-of-no-known-shape", "secret": Secret("sk-cccccccccccccccc"), "l": ["hf_" + "d" * 20]}
    )
    handle.request(record(user="rx_" + "e" * 40, model="sk-ffffffffffffffff"))
    try:
        raise RuntimeError("refused: Bearer gggggggggggg")
    except RuntimeError:
        log.exception("call failed")
    handle.close()
    text = "\n".join(stream.lines())

    for letter in "abcdefg":
        assert letter * 12 not in text
    assert "canary" not in text
    assert "RuntimeError" in text


def test_text_that_is_no_unicode_does_not_lose_the_line(
    logs: Callable[..., tuple[Logs, Stream]], request: pytest.FixtureRequest
) -> None:
    handle, stream = logs()
    for other in logging.getLogger().handlers[:-1]:  # The test run's own report could not be sent with such text.
        logging.getLogger().removeHandler(other)
        request.addfinalizer(functools.partial(logging.getLogger().addHandler, other))

    log.info("lone %s", "\ud800", extra={"path": "\udcff"})
    handle.request(record(user="\ud800"))
    handle.close()
    first, second = map(json.loads, stream.lines())

    assert (first["message"], first["path"]) == ("lone \\ud800", "\\udcff")
    assert second["user"] == "\\ud800"


def test_a_log_call_that_cannot_be_formatted_is_told_without_its_arguments(
    logs: Callable[..., tuple[Logs, Stream]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, stream = logs()
    ours = logging.getLogger().handlers[-1]
    monkeypatch.setattr(log, "propagate", False)  # The test runner's own handler would raise.
    monkeypatch.setattr(log, "handlers", [ours])

    log.info("only %d", "one-argument")
    handle.close()
    (line,) = map(json.loads, stream.lines())

    assert line["level"] == "error"
    assert "only %d" in line["message"]
    assert "one-argument" not in line["message"] + capsys.readouterr().err


def test_an_unknown_level_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ValueError, match="'loud' is unknown; use one of debug, info, warning, error"):
        configure_logging("loud", io.StringIO(), json=True)


def test_after_closing_nothing_is_written(logs: Callable[..., tuple[Logs, Stream]]) -> None:
    handle, stream = logs()
    handle.close()

    log.error("too late")

    assert stream.lines() == []
    assert not [handler for handler in logging.getLogger().handlers if type(handler).__name__ == "_PipeHandler"]


class BlockedStream(io.StringIO):
    """A reader that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Event()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        self.go_on.wait(10)
        return super().write(text)


def encode(request: RequestRecord) -> bytes:
    return request.id.encode() + b"\n"


def test_a_blocked_reader_costs_lines_and_the_loss_is_told() -> None:
    stream = BlockedStream()
    pipe = LinePipe(stream, encode, lambda count: b"lost %d\n" % count, lines_max=3)
    pipe.put(b"first\n")
    assert stream.writing.wait(10)

    for number in range(5):
        pipe.put(b"%d\n" % number)
    dropped_while_blocked = pipe.dropped
    stream.go_on.set()
    pipe.close()

    assert dropped_while_blocked == 2
    assert stream.getvalue() == "first\n0\n1\n2\nlost 2\n"


class BrokenStream(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    pipe = LinePipe(BrokenStream(), encode, lambda count: b"")
    pipe.put(b"a\n")
    pipe.put(b"b\n")
    pipe.close()

    assert pipe.dropped == 2


def test_lines_keep_their_order() -> None:
    stream = io.StringIO()
    pipe = LinePipe(stream, encode, lambda count: b"")
    for number in range(2_000):
        pipe.put(b"%d\n" % number)
    pipe.close()

    assert stream.getvalue().split() == [str(number) for number in range(2_000)]
    assert pipe.dropped == 0


def test_requests_and_lines_share_the_queue_in_order() -> None:
    stream = io.StringIO()
    pipe = LinePipe(stream, encode, lambda count: b"")
    pipe.put(b"before\n")
    pipe.put(record())
    pipe.put(b"after\n")
    pipe.close()

    assert stream.getvalue() == "before\nreq_1\nafter\n"
