"""One owner per data directory: an flock that dies with its process, beside the pid that messages name."""

import fcntl
import os
from pathlib import Path

from routerx.errors import LedgerLocked, LedgerUnusable

LOCK_NAME = ".lock"


class DataDirLock:
    """Holds `data_dir/.lock` from acquire() to release(); the kernel frees it however the process ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises LedgerLocked naming the holder's pid, or LedgerUnusable where no lock file can be made."""
        assert self._fd is None
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerUnusable(
                f"cannot use the data directory {str(self._path.parent)!r}: {error.strerror}; "
                "make it writable for this user or set server.data_dir"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise LedgerLocked(
                f"the ledger in {str(self._path.parent)!r} is in use by process {pid or 'unknown'}; "
                "stop that process, or give this one another server.data_dir"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """The file stays: removing it would let two owners lock two files of one name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
