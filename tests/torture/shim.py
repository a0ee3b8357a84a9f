"""A VFS of SQLite that tells what is written, cut and flushed, by ctypes alone: no compiler, no FUSE.

It wraps the default VFS. A file is opened by that one; then three of the file's methods are replaced by ones that call
the old and tell what they did. Works where Python's sqlite3 is linked to a shared libsqlite3, as on most systems.
"""

import ctypes
import os
import sqlite3
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

SQLITE_OK = 0
X_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
X_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
X_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
X_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)

Tell = Callable[[str, str, int, bytes], None]
"""(`write`, `truncate` or `sync`; path; offset or new size; data)."""


class Methods(ctypes.Structure):
    """sqlite3_io_methods up to version 3."""

    _fields_ = [
        ("iVersion", c_int),
        ("xClose", c_void_p),
        ("xRead", c_void_p),
        ("xWrite", X_WRITE),
        ("xTruncate", X_TRUNCATE),
        ("xSync", X_SYNC),
        *((f"rest_{n}", c_void_p) for n in range(13)),
    ]


class File(ctypes.Structure):
    """sqlite3_file, whose own part follows."""

    _fields_ = [("pMethods", POINTER(Methods))]


class Vfs(ctypes.Structure):
    """sqlite3_vfs up to version 3."""

    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", X_OPEN),
        *((f"rest_{n}", c_void_p) for n in range(14)),
    ]


class NoSharedLibrary(Exception):
    """sqlite3 is built into this Python: its VFS cannot be reached."""


def library() -> ctypes.CDLL:
    """The very libsqlite3 that Python's sqlite3 uses. Raises NoSharedLibrary."""
    sqlite3.connect(":memory:").close()
    maps = Path("/proc/self/maps")
    if maps.exists():
        for line in maps.read_text().splitlines():
            path = line.split(maxsplit=5)[-1]
            if os.path.basename(path).startswith("libsqlite3."):
                return ctypes.CDLL(path)
    raise NoSharedLibrary("sqlite3 is not a shared library here")


class Shim:
    """Registered as the default VFS of this process from its making on. What is opened before is not told of."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._kept: list[Any] = []
        """ctypes keeps no reference to what C still uses."""
        self.files_told = 0
        """Files that were opened through it."""
        sqlite = library()
        sqlite.sqlite3_vfs_find.restype = POINTER(Vfs)
        base = sqlite.sqlite3_vfs_find(None).contents
        self._open = base.xOpen
        wrapped = Vfs()
        ctypes.memmove(ctypes.addressof(wrapped), ctypes.addressof(base), ctypes.sizeof(Vfs))
        wrapped.pNext = None
        wrapped.zName = b"telling"
        wrapped.xOpen = X_OPEN(self._on_open)
        self._kept += [base, wrapped, wrapped.xOpen]
        sqlite.sqlite3_vfs_register.argtypes = [POINTER(Vfs), c_int]
        if sqlite.sqlite3_vfs_register(ctypes.byref(wrapped), 1) != SQLITE_OK:
            raise NoSharedLibrary("the VFS was not taken")

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int | None) -> int:
        """`name` is an address and is passed on as such: SQLite keeps more behind the name."""
        code = int(self._open(vfs, name, file, flags, out_flags))
        opened = File.from_address(file)
        if code == SQLITE_OK and name is not None and opened.pMethods:
            self.files_told += 1
            opened.pMethods = ctypes.pointer(
                self._telling(opened.pMethods.contents, os.fsdecode(ctypes.string_at(name)))
            )
        return code

    def _telling(self, own: Methods, path: str) -> Methods:
        """The methods of one file; made anew for each, and kept as long as the process."""
        write, truncate, sync = own.xWrite, own.xTruncate, own.xSync
        tell = self._tell

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            code = int(write(file, data, size, offset))
            if code == SQLITE_OK:
                tell("write", path, offset, ctypes.string_at(data, size))
            return code

        def on_truncate(file: int, size: int) -> int:
            code = int(truncate(file, size))
            if code == SQLITE_OK:
                tell("truncate", path, size, b"")
            return code

        def on_sync(file: int, flags: int) -> int:
            code = int(sync(file, flags))
            if code == SQLITE_OK:
                tell("sync", path, 0, b"")
            return code

        made = Methods()
        ctypes.memmove(ctypes.addressof(made), ctypes.addressof(own), ctypes.sizeof(Methods))
        made.xWrite, made.xTruncate, made.xSync = X_WRITE(on_write), X_TRUNCATE(on_truncate), X_SYNC(on_sync)
        self._kept += [made, made.xWrite, made.xTruncate, made.xSync, own]
        return made
