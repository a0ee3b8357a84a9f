"""What is asked of books that are written already, and what is answered. As values.py."""

import msgspec

from routerx.control.values import VerifyView


class NewRefund(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A charge to give back: `amount` of it in USD, or all that is left. The same `reference` again is the same
    refund."""

    request_id: str
    amount: str | None = None
    reference: str | None = None
    note: str | None = None


class NewRerating(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests to correct to the prices of the present configuration: of a model, or of one endpoint, settled from
    `since` to before `until`."""

    since: str
    until: str | None = None
    """None: now."""
    model: str | None = None
    endpoint: str | None = None
    dry_run: bool = False


class RerateView(msgspec.Struct, frozen=True):
    """What a re-rating did, or would do."""

    requests: int
    corrected: int
    given_back_usd: str
    given_back_nano: int
    taken_usd: str
    taken_nano: int
    short_usd: str
    short_nano: int
    """Owed on top, but not taken: below the tenants' floors, or held by running requests."""
    endpoints: tuple[str, ...]
    dry_run: bool


class NewBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that does not exist yet, by its absolute path on the server's machine."""

    path: str


class BackupView(msgspec.Struct, frozen=True):
    """A copy of the ledger, and what its check said."""

    path: str
    size_bytes: int
    verified: VerifyView


class NewPruning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delete the rows of requests that settled before this day."""

    before: str
    dry_run: bool = False


class PruneView(msgspec.Struct, frozen=True):
    """Request rows that went, or would go, and those that are left."""

    requests: int
    kept: int
    dry_run: bool
