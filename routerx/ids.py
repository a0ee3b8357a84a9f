"""Identifiers that sort by time: a prefix, 48 bits of milliseconds, 64 random bits, in lower-case hex."""

import random
from typing import NewType

RequestId = NewType("RequestId", str)

# Request ids are names, not secrets: the fast generator seeded by the OS at import is enough. Keys come from `secrets`.
_random = random.Random()  # noqa: S311


def new_id(prefix: str, now_ns: int) -> str:
    """`req_0192f3a4b5c6…`: sortable by creation to the millisecond, unique by 64 random bits."""
    return f"{prefix}_{now_ns // 1_000_000:012x}{_random.getrandbits(64):016x}"


def new_request_id(now_ns: int) -> RequestId:
    return RequestId(new_id("req", now_ns))
