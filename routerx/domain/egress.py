"""What may be fetched on a caller's behalf, as values."""

import msgspec


class EgressPolicy(msgspec.Struct, frozen=True):
    """Rules for URLs that callers name."""

    enabled: bool = True
    allow_http: bool = False
    ports: frozenset[int] = frozenset({443})
    """Besides 80 where `allow_http` is on."""
    allow_hosts: frozenset[str] = frozenset()
    """`host` or `host:port` that the operator vouches for: its address, port and scheme are not checked."""
    bytes_max: int = 20 * 1024 * 1024
    timeout_s: float = 10.0
    redirects_max: int = 3


class Fetched(msgspec.Struct, frozen=True):
    """What a URL held. `mime` is what the bytes themselves show."""

    mime: str
    data: bytes
