"""Idempotency keys over files of their own, with a ledger that knows what it is told."""

from pathlib import Path

from routerx.domain.record import BillingMode, RequestRecord
from routerx.domain.usage import UsageSource
from routerx.gateway.context import Answer
from routerx.gateway.idempotency import Idempotency, Kept, Use, keep_whole
from routerx.ledger.beside.answers import AnswerStore
from routerx.ledger.beside.uses import UseIndex
from routerx.vault import Vault
from tests.support.clock import ManualClock

VAULT = Vault([b"k" * 32])


def record(request_id: str, outcome: str = "ok", cost_nano: int = 1) -> RequestRecord:
    return RequestRecord(
        id=request_id,
        tenant="acme",
        key_id="key",
        operation="chat",
        model="solo",
        endpoint=None,
        provider=None,
        stream=False,
        outcome=outcome,
        http_status=200,
        billing=BillingMode.PAID,
        usage=None,
        usage_source=UsageSource.NONE,
        price=None,
        cost_nano=cost_nano,
        held_nano=0,
        provider_cost_nano=0,
        started_ns=0,
        duration_ms=0,
        ttft_ms=None,
        overhead_us=0,
    )


class Desk:
    """Idempotency over files of its own, and a ledger that knows what it is told."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.books: dict[str, RequestRecord] = {}
        store = AnswerStore(str(folder / "answers.db"), lambda: VAULT, 10**7)
        self.uses = Idempotency(UseIndex(str(folder / "uses.db")), store, self.look_up, clock)

    async def look_up(self, request_id: str) -> RequestRecord | None:
        return self.books.get(request_id)

    async def begin(self, scope: bytes, request_id: str, fingerprint: bytes = b"f") -> Use:
        use = await self.uses.begin(scope, fingerprint, request_id)
        assert isinstance(use, Use)
        return use

    async def serve(self, scope: bytes, request_id: str, size: int = 1) -> Use:
        use = await self.begin(scope, request_id)
        self.books[request_id] = record(request_id)
        self.uses.settled(self.books[request_id])
        keep_whole(use, Answer(b"x" * size, "text/plain", (("X-Own", "1"), ("X-RouterX-Cost-USD", "1"))))
        self.uses.leave(use, settles=True)
        return use

    async def told(self, scope: bytes, fingerprint: bytes = b"f") -> Kept:
        kept = await self.uses.begin(scope, fingerprint, "req_again")
        assert isinstance(kept, Kept)
        return kept
