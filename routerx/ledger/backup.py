"""Copies of the books: made while they are in use, proven before they are called copies, and put back when needed.

A copy is made of one moment: its reader keeps that moment open while commits go on beside it, and takes a bounded
number of pages at a time. The copy is a plain SQLite file without a WAL. Blocking: run it off the event loop.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from routerx.errors import Conflict, LedgerUnusable
from routerx.ledger.base import BackupReport
from routerx.ledger.database import connect_read_only, create_private
from routerx.ledger.lock import DataDirLock
from routerx.ledger.proof.verify import Pause, check_file, no_pause

PAGES_PER_STEP = 256
"""A mebibyte of 4 KiB pages; between steps others get the processor and the disk."""
PARTIAL = ".partial"
_SUFFIXES = ("-wal", "-shm")


def back_up(ledger: str, path: str, pause: Pause = no_pause) -> BackupReport:
    """Copy the ledger to `path` and check the copy as `ledger verify` does.

    Raises Conflict where there is a file already or its folder takes none. A copy whose check finds something is kept:
    it shows what the ledger was.
    """
    if os.path.exists(path):
        raise Conflict(f"There is a file {path!r} already; a backup replaces none.", param="path")
    partial = path + PARTIAL
    _reserve(partial, path)
    try:
        _copy(ledger, partial, pause)
        report = check_file(partial, pause)[0]
        size = os.stat(partial).st_size
        _put(partial, path)
    except OSError as error:
        _remove(partial)
        raise Conflict(f"No backup can be written to {path!r}: {error.strerror}.", param="path") from error
    except BaseException:
        _remove(partial)
        raise
    return BackupReport(path, size, report)


def restore(backup: str, ledger: str, *, replace: bool, now: str) -> BackupReport:
    """Make the backup the ledger, once it is proven. The ledger that was there, if any, is kept beside it under a name
    with `now` in it. Whoever stops this at any point has one of the two in place.

    Raises LedgerLocked while a server runs, LedgerUnusable where the backup fails its check, Conflict where there is a
    ledger and `replace` is not set.
    """
    lock = DataDirLock(Path(ledger).absolute().parent)
    lock.acquire()
    try:
        if os.path.exists(ledger) and not replace:
            raise Conflict(f"There is a ledger at {ledger!r} already; --force puts it aside and takes the backup.")
        report = check_file(backup)[0]
        if report.violations:
            raise LedgerUnusable(
                f"the backup {backup!r} fails its check and is not taken: {report.violations[0]}"
                f" ({len(report.violations)} in all; 'routerx ledger verify --file' tells them)"
            )
        partial = ledger + PARTIAL
        _remove(partial)
        _copy(backup, partial, no_pause)
        size = os.stat(partial).st_size
        if os.path.exists(ledger):
            _put_aside(ledger, now)
        _put(partial, ledger)
        return BackupReport(ledger, size, report)
    except OSError as error:
        raise LedgerUnusable(f"the backup cannot be put at {ledger!r}: {error.strerror}") from error
    finally:
        lock.release()


def _reserve(partial: str, path: str) -> None:
    """Make the file that is written to, so that no two backups write one. Raises Conflict."""
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise Conflict(
            f"There is a file {partial!r} already, of a backup under way or broken off; remove it.", param="path"
        ) from None
    except OSError as error:
        raise Conflict(f"No backup can be written to {path!r}: {error.strerror}.", param="path") from error


def _copy(source: str, target: str, pause: Callable[[], None]) -> None:
    """One moment of `source`, in a private file that is empty or not there yet, flushed to the disk."""
    reader = connect_read_only(source)
    try:
        create_private(target)
        writer = sqlite3.connect(target, isolation_level=None)
        try:
            # Without a read transaction of its own the copy would begin anew after every commit of somebody else.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            reader.backup(writer, pages=PAGES_PER_STEP, progress=lambda status, left, total: pause())
            writer.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            writer.close()
    except sqlite3.DatabaseError as error:
        raise LedgerUnusable(f"{source!r} cannot be copied: {error}") from error
    finally:
        reader.close()
    _flush(target)


def _put(partial: str, path: str) -> None:
    os.replace(partial, path)
    _flush(os.path.dirname(os.path.abspath(path)))


def _put_aside(ledger: str, now: str) -> None:
    """Keep the present ledger under another name; its own name leads to it until the new one takes it."""
    stem = ledger.removesuffix(".db")
    aside = f"{stem}-replaced-{now}.db"
    try:
        old = sqlite3.connect(ledger, isolation_level=None)
        try:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            old.close()
    except sqlite3.DatabaseError:
        pass  # A damaged ledger is kept as it is, with the WAL beside it.
    os.link(ledger, aside)
    for suffix in _SUFFIXES:
        if os.path.exists(ledger + suffix):
            os.replace(ledger + suffix, aside + suffix)


def _flush(path: str) -> None:
    """What the file or the folder says is on the disk afterwards."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    for name in (path, *(path + suffix for suffix in _SUFFIXES), path + "-journal"):
        Path(name).unlink(missing_ok=True)
