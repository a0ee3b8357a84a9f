"""Usage: disjoint token buckets, all ≥ 0. Dialects subtract what their wire counts twice (PROVIDERS.md 6c)."""

from enum import StrEnum

import msgspec


class UsageSource(StrEnum):
    """Where a request's usage came from."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"
    NONE = "none"


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Tokens by bucket; no token is in two buckets. `requests` is 1 for a call priced per request."""

    in_fresh: int = 0
    in_cache_read: int = 0
    in_cache_write_5m: int = 0
    in_cache_write_1h: int = 0
    in_audio: int = 0
    in_image: int = 0
    out_text: int = 0
    out_reasoning: int = 0
    out_audio: int = 0
    out_image: int = 0
    requests: int = 1
    searches: int = 0
    """Web searches that the provider made for the answer."""

    @property
    def input_tokens(self) -> int:
        return (
            self.in_fresh
            + self.in_cache_read
            + self.in_cache_write_5m
            + self.in_cache_write_1h
            + self.in_audio
            + self.in_image
        )

    @property
    def output_tokens(self) -> int:
        return self.out_text + self.out_reasoning + self.out_audio + self.out_image

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens
