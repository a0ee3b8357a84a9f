"""The processes of the torture: each in a group of its own, none outlives the driver, only our own are ended."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from tests.torture.client import FAILURES, fetch

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("routerx"))
"""The installed entry point."""

START_S_MAX = 30.0
POLL_S = 0.004
PR_SET_PDEATHSIG = 1


LIBC = ctypes.CDLL(None)  # Loaded before any fork: between fork and exec nothing may wait for a lock.


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends. Elsewhere than on Linux: nothing."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def clean_environment() -> dict[str, str]:
    """What a child needs, and no setting of the developer's shell."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


@contextlib.contextmanager
def provider(seed: int, journal: Path) -> Iterator[int]:
    """The scripted provider; gives its port."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.provider", str(seed), str(journal)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        yield int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate()


class Child(Protocol):
    """What a Popen can do, of a process that the zygote forked as well."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int | None: ...

    def terminate(self) -> None: ...


class Zygote:
    """Forks gateways (tests/torture/zygote.py). Answers come at once, so that asking may block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.zygote"],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def spawn(self, config: Path, log: Path, faults: tuple[str, ...]) -> "Forked":
        pid = self.ask({"type": "Spawn", "config": str(config.absolute()), "log": str(log), "faults": faults})
        assert pid is not None
        return Forked(self, pid)

    def ask(self, order: dict[str, object]) -> int | None:
        """One order (Spawn or Wait, see there) and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=int | None)

    def close(self) -> None:
        """Its children end with it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    try:
        yield made
    finally:
        made.close()


class Forked:
    """A gateway that the zygote forked."""

    def __init__(self, parent: Zygote, pid: int) -> None:
        self._parent = parent
        self.pid = pid

    def poll(self) -> int | None:
        return self._parent.ask({"type": "Wait", "pid": self.pid, "block": False})

    def wait(self) -> int | None:
        return self._parent.ask({"type": "Wait", "pid": self.pid, "block": True})

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


class LogLine(msgspec.Struct):
    level: str
    message: str


class GatewayFailed(Exception):
    """The gateway did not start, or not cleanly."""


class Gateway:
    """RouterX, started, killed and started again on one configuration file: as installed, or forked by a zygote."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.port = 0
        self.pid = 0
        self.starts = 0
        self.faults: tuple[str, ...] = ()
        """To plant into it; only the zygote can."""
        self.zygote: Zygote | None = None
        """None: start the installed program."""
        self._child: Child | None = None
        self._log = config.with_name("gateway.log")

    def spawn(self) -> None:
        """Start it and do not wait."""
        assert self._child is None
        self.starts += 1
        self._log = self.config.with_name(f"gateway-{self.starts}.log").absolute()
        if self.zygote is not None:
            self._child = self.zygote.spawn(self.config, self._log, self.faults)
        else:
            assert not self.faults
            self._child = self._popen()
        self.pid = self._child.pid

    def _popen(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [COMMAND, "serve", "-c", str(self.config)],
                cwd=self.config.parent,
                env=clean_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 One system call, which takes no lock.
            )

    async def start(self) -> float:
        """Start it and wait until it is ready; returns the seconds that took. Raises GatewayFailed."""
        began_s = time.monotonic()
        self.spawn()
        while not (self._find_port() and await self._ready()):
            self._assert_running()
            if time.monotonic() - began_s > START_S_MAX:
                raise GatewayFailed(f"not ready within {START_S_MAX} s: {self.log_text()}")
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began_s

    def kill(self) -> None:
        """kill -9 of its whole group, now."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None

    def has_ended(self) -> bool:
        """By itself, or killed by somebody else."""
        return self._child is None or self._child.poll() is not None

    async def terminate(self, limit_s: float) -> tuple[int | None, float]:
        """SIGTERM: (exit code, seconds until the end). A gateway that is not gone within `limit_s` is killed: None."""
        assert self._child is not None
        began_s = time.monotonic()
        self._child.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._child.poll() is None:  # noqa: ASYNC110 A process has no event to wait for.
                    await asyncio.sleep(POLL_S)
        took_s = time.monotonic() - began_s
        code = self._child.poll()
        self.kill()
        return code, took_s

    def log_text(self) -> str:
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def complaints(self) -> list[str]:
        """Lines of this start's log that are no information: errors, and what is no log line at all."""
        found = []
        for line in self.log_text().splitlines():
            try:
                entry = msgspec.json.decode(line, type=LogLine)
            except msgspec.DecodeError:
                found.append(line)
                continue
            if entry.level not in ("debug", "info"):
                found.append(f"{entry.level}: {entry.message}")
        return found

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def open_fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _assert_running(self) -> None:
        assert self._child is not None
        code = self._child.poll()
        if code is not None:
            raise GatewayFailed(f"it ended with exit code {code}: {self.log_text()}")

    def _find_port(self) -> bool:
        _, found, rest = self.log_text().partition("serves http://127.0.0.1:")
        self.port = int(rest.partition(",")[0]) if found and "," in rest else 0
        return self.port > 0

    async def _ready(self) -> bool:
        try:
            status, _ = await fetch(self.port, "GET", "/readyz")
        except FAILURES:
            return False
        return status == 200


def routerx(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one command of the installed program."""
    return subprocess.run(
        [COMMAND, *arguments], cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=60
    )
