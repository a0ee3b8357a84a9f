"""May a request start now? The border of the limits: memory answers today, a shared store when one machine is outgrown.

Not money: what a request may cost is the ledger's question.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from routerx.domain.tenant import Principal

DAY_NS = 86_400 * 10**9


class Lease(Protocol):
    """Leave to run one request. Synchronous and idempotent: release it in `finally`."""

    def release(self, tokens_used: int | None) -> None:
        """The request is over. `tokens_used`: input and output together; what was reserved beyond it is given back and
        what was used beyond the reservation is taken. 0: nothing was used; None: unknown, the reservation stands."""
        ...


class Standing(msgspec.Struct, frozen=True):
    """One limit of a caller now."""

    limit: str
    """Its key in YAML."""
    value: int
    left: int
    """What could be taken at once."""
    reset_s: float | None
    """Seconds until all of it is left again; None where that hangs on running requests."""
    of: str = "tenant"
    """tenant | key"""


class Limiter(Protocol):
    """Ceilings of tenants and of their keys (domain.tenant.Limits), and of the whole process."""

    def configure(self, tenants: Iterable[str], concurrency_max: int) -> None:
        """At start and after each reload: who exists, and how many requests may run at once. Counts survive, those of
        who is gone as long as its requests run."""
        ...

    def admit(self, caller: Principal, tokens: int, now_s: float, now_ns: int) -> Lease:
        """Count one request and reserve `tokens` (input estimate and output ceiling), all limits or none.

        `now_s` is monotonic, `now_ns` the wall clock (for the UTC day). Raises RateLimited or Overloaded, both with
        retry_after_s: who waits so long is admitted, unless others have been admitted meanwhile, or what it waits for
        is a running request (`concurrency`). Details of RateLimited are `limit` (the key in YAML), `limit_value` and
        `limit_of` (tenant or key).
        """
        ...

    def standings(self, caller: Principal, now_s: float, now_ns: int) -> tuple[Standing, ...]:
        """Every limit the caller has, the tenant's before the key's. Nothing is counted."""
        ...

    def headers(self, caller: Principal, now_s: float, now_ns: int) -> tuple[tuple[str, str], ...]:
        """The x-ratelimit-* headers of a response, of the limit that is nearest; none for what has no limit."""
        ...
