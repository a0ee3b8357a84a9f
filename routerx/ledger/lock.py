"""One owner per data directory: an flock that dies with its process, beside the pid that messages name."""

import fcntl
import logging
import os
import stat
from pathlib import Path

from routerx.errors import LedgerLocked, LedgerUnusable

log = logging.getLogger("routerx.ledger")

LOCK_NAME = ".lock"
_OWN_NAMES = frozenset({LOCK_NAME, ".ballast", "admin.sock", "default.key", "lost+found"})
_OWN_SUFFIXES = (".db", ".db-wal", ".db-shm", ".db.partial", ".unreadable", ".unreadable-wal", ".unreadable-shm")
"""What a directory that is for our data alone may hold; the last name belongs to the file system."""


class DataDirLock:
    """Holds `data_dir/.lock` from acquire() to release(); the kernel frees it however the process ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises LedgerLocked naming the holder's pid, or LedgerUnusable where no lock file can be made.

        A directory that is for our data alone is closed to other users (SECURITY.md 20).
        """
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
        _close_to_others(self._path.parent)

    def release(self) -> None:
        """The file stays: removing it would let two owners lock two files of one name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _close_to_others(folder: Path) -> None:
    """Mode 0700 for a data directory that somebody made with more; one that serves other purposes too is left alone."""
    mode, why = 0, "it belongs to another user, or holds more than RouterX's data"
    try:
        status = os.stat(folder)
        mode = stat.S_IMODE(status.st_mode)
        if not mode & 0o077:
            return
        if status.st_uid == os.geteuid() and not mode & stat.S_ISVTX and _is_for_data_alone(folder):
            folder.chmod(0o700)
            log.info("the data directory %r had mode %04o and has 0700 now: it is for RouterX alone", str(folder), mode)
            return
    except OSError as error:
        why = error.strerror or type(error).__name__
    log.warning(
        "other users of this machine can enter the data directory %r (mode %04o), which is left as it is (%s); "
        "set server.data_dir to a directory of its own, or run chmod 700 %s",
        str(folder),
        mode,
        why,
        folder,
    )


def _is_for_data_alone(folder: Path) -> bool:
    """Whether nothing else lives there, nor is at home there: a wrong `data_dir` must not lock anybody out."""
    shared = (Path("/"), Path.cwd(), Path(os.path.expanduser("~")))
    if any(other.exists() and folder.samefile(other) for other in shared):
        return False
    return all(entry.name in _OWN_NAMES or entry.name.endswith(_OWN_SUFFIXES) for entry in folder.iterdir())
