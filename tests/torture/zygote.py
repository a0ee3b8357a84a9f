"""A process that has imported everything and forks gateways: `python -m tests.torture.zygote`.

A gateway is so on its feet in tens of milliseconds instead of half a second, which is what makes a thousand kills
affordable. Orders come on stdin, a JSON line each, and are answered on stdout; the fork is refused where the zygote has
more than one thread or a database open, which a child must not inherit. What a gateway is, is the same: the program's
own `main` with the arguments of its command line. Beside that, and only here, a fault of tests/torture/faulty.py may be
planted into it.
"""

import gc
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec

import routerx.cli.serve
import routerx.runtime  # noqa: F401 Everything that a gateway loads is to be here before the fork.
from routerx import ids
from routerx.cli import main as program
from tests.torture.faulty import plant
from tests.torture.processes import die_with_parent


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Fork a gateway; answered with its pid."""

    config: str
    log: str
    faults: tuple[str, ...] = ()


class Wait(msgspec.Struct, frozen=True, tag=True):
    """Answered with the exit code of a child, as subprocess has it: below 0 for a signal; None while it runs."""

    pid: int
    block: bool


Order = Spawn | Wait


def serve_orders() -> None:
    """Until stdin ends."""
    gc.collect()
    gc.freeze()
    ended: dict[int, int] = {}
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        if isinstance(order, Spawn):
            pid = _spawn(order)
            ended.pop(pid, None)  # Of an earlier child: numbers come again.
            answer: int | None = pid
        else:
            answer = _wait(order, ended)
        sys.stdout.write(f"{msgspec.json.encode(answer).decode()}\n")
        sys.stdout.flush()


def _spawn(order: Spawn) -> int:
    _assert_clean()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = _be_gateway(order)
        except BaseException:
            traceback.print_exc()  # To its log.
        finally:
            os._exit(code)
    with suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)  # Here and in the child: whoever comes first.
    return pid


def _assert_clean() -> None:
    """Nothing that two processes must not share."""
    assert threading.active_count() == 1
    if sys.platform != "linux":
        return
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [name for name in open_files if ".db" in name or "eventpoll" in name], open_files


def _is_open(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()


def _be_gateway(order: Spawn) -> int:
    """The child: what Popen would have done, and then the program. Returns its exit code."""
    die_with_parent()
    with suppress(PermissionError):
        os.setpgid(0, 0)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(Path(order.config).parent)
    ids._random.seed()  # Seeded at import, which all children share.
    for fault in order.faults:
        plant(fault)
    try:
        program(["serve", "-c", order.config])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _wait(order: Wait, ended: dict[int, int]) -> int | None:
    if order.pid not in ended:
        pid, status = os.waitpid(order.pid, 0 if order.block else os.WNOHANG)
        if pid == 0:
            return None
        ended[order.pid] = os.waitstatus_to_exitcode(status)
    return ended[order.pid]


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve_orders()
