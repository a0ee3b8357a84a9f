"""How much to hold for an answer of which nobody knows the length: what such answers took before, and more, in slices,
while a stream grows (MONEY.md section 3). Pure but for the ledger that is asked for the slices.
"""

from collections import deque

from routerx.domain.call import Peek
from routerx.domain.pricing import PriceSnapshot, output_nano, output_tokens_within
from routerx.domain.tenant import Tenant
from routerx.errors import RouterXError
from routerx.ledger.base import Hold, Ledger

SAMPLES_MAX = 100
SAMPLES_MIN = 20
"""Fewer answers say nothing of the next one."""
SHARE = 0.95
"""Of answers that were not longer than what is held for the next one."""
FLOOR_TOKENS = 256
RENEWED = 10
"""After so many answers the percentile is looked at again."""
PAIRS_MAX = 10_000

BYTES_PER_TOKEN = 3
"""Cautious: ordinary text has about four. More is held for than has flowed."""
SLICE_TOKENS = 1_024
TIGHT = 64
"""A tenant with less room than so many slices may run dry within one answer, or a few at once: what was delivered is
then remembered, so that the stream can be ended well."""


class _Outputs:
    __slots__ = ("at_most", "lengths", "since")

    def __init__(self) -> None:
        self.lengths: deque[int] = deque(maxlen=SAMPLES_MAX)
        self.at_most: int | None = None
        self.since = 0


class OutputHistory:
    """Output tokens of recent answers by tenant and model. Bounded; in memory: after a restart it learns anew."""

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], _Outputs] = {}

    def add(self, tenant: str, model: str, tokens: int) -> None:
        key = (tenant, model)
        outputs = self._pairs.get(key)
        if outputs is None:
            if len(self._pairs) >= PAIRS_MAX:
                del self._pairs[next(iter(self._pairs))]
            outputs = self._pairs[key] = _Outputs()
        outputs.lengths.append(tokens)
        outputs.since += 1

    def expected(self, tenant: str, model: str) -> int | None:
        """Output tokens that hardly any answer passes; None where too few are known."""
        outputs = self._pairs.get((tenant, model))
        if outputs is None or len(outputs.lengths) < SAMPLES_MIN:
            return None
        if outputs.at_most is None or outputs.since >= RENEWED:
            ordered = sorted(outputs.lengths)
            outputs.at_most = max(FLOOR_TOKENS, ordered[int(len(ordered) * SHARE) - 1])
            outputs.since = 0
        return outputs.at_most


class Growth:
    """Keeps the hold of one stream ahead of what flows."""

    __slots__ = ("_hold", "_ledger", "_slice_nano", "_tenant", "covered_bytes", "is_tight")

    def __init__(self, ledger: Ledger, tenant: Tenant, hold: Hold, terms: PriceSnapshot, peek: Peek) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._hold = hold
        prompt, tier = peek.input_tokens_estimate, peek.service_tier
        tokens = output_tokens_within(terms, hold.amount_nano, prompt, tier)
        assert tokens is not None, "output costs something"
        self.covered_bytes = max(tokens, 0) * BYTES_PER_TOKEN
        """UTF-8 bytes of output that the hold is good for."""
        self._slice_nano = max(1, output_nano(terms, prompt, SLICE_TOKENS, tier))
        self.is_tight = ledger.room_nano(tenant.name) < TIGHT * max(self._slice_nano, hold.amount_nano)

    def extend(self) -> bool:
        """Hold a slice more; False when there is no money for it."""
        try:
            self._ledger.extend(self._tenant, self._hold, self._slice_nano)
        except RouterXError:
            return False
        self.covered_bytes += SLICE_TOKENS * BYTES_PER_TOKEN
        return True
