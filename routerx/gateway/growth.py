"""How much to hold for an answer of which nobody knows the length: what such answers took before, and more, in slices,
while a stream grows (MONEY.md section 3). Pure but for the ledger that is asked for the slices.
"""

from collections import deque

from routerx.domain.pricing import BP, PriceSnapshot, cost_nano
from routerx.domain.tenant import Tenant
from routerx.domain.usage import Usage
from routerx.errors import RouterXError
from routerx.ledger.base import Hold, Ledger
from routerx.money import PICO_PER_NANO

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

    __slots__ = ("_hold", "_ledger", "_per_token_pico", "_slice_nano", "_tenant", "covered_bytes", "is_tight")

    def __init__(self, ledger: Ledger, tenant: Tenant, hold: Hold, terms: PriceSnapshot, prompt_tokens: int) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._hold = hold
        self._per_token_pico = terms.card.at(prompt_tokens).output_pico * (BP + terms.markup_bp)
        """Times BP."""
        left_nano = hold.amount_nano - cost_nano(Usage(in_fresh=prompt_tokens), terms)
        tokens = max(left_nano, 0) * PICO_PER_NANO * BP // self._per_token_pico
        self.covered_bytes = tokens * BYTES_PER_TOKEN
        """UTF-8 bytes of output that the hold is good for."""
        self._slice_nano = max(1, SLICE_TOKENS * self._per_token_pico // (PICO_PER_NANO * BP))
        self.is_tight = ledger.room_nano(tenant.name) < TIGHT * max(self._slice_nano, hold.amount_nano)

    def extend(self) -> bool:
        """Hold a slice more; False when there is no money for it."""
        try:
            self._ledger.extend(self._tenant, self._hold, self._slice_nano)
        except RouterXError:
            return False
        self.covered_bytes += SLICE_TOKENS * BYTES_PER_TOKEN
        return True
