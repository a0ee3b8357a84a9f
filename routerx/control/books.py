"""What operators do to books that are written already: refunds, re-rating, backups and pruning.

As Operations: one object for the admin API and the offline command line; callers are authorised before they come here.
"""

import os
from datetime import UTC, datetime

from routerx.clock import Clock
from routerx.config.snapshot import SnapshotHolder
from routerx.control import views
from routerx.control.book_values import (
    BackupView,
    NewBackup,
    NewPruning,
    NewRefund,
    NewRerating,
    PruneView,
    RerateView,
)
from routerx.control.keys import reference_text, short_text
from routerx.control.lookup import require
from routerx.control.values import TransferView
from routerx.domain.model import DatedPrice
from routerx.errors import InvalidParameter
from routerx.ledger.base import BackupReport, Ledger, Rerating
from routerx.money import NANO_PER_USD, format_usd, parse_usd

DAY_NS = 86_400 * NANO_PER_USD


class BookOperations:
    """Over one ledger and the configuration in `holder`."""

    def __init__(self, ledger: Ledger, holder: SnapshotHolder, clock: Clock) -> None:
        self._ledger = ledger
        self._holder = holder
        self.clock = clock

    async def refund(self, tenant: str, new: NewRefund, *, actor: str) -> TransferView:
        """Give a charge back, whole or in part. Raises NotFound, Conflict and InvalidParameter."""
        row = await self._ledger.bookkeeper.refund(
            (tenant, new.request_id),
            None if new.amount is None else _amount(new.amount),
            actor=actor,
            reference=reference_text(new.reference),
            note=short_text(new.note, "note"),
        )
        return views.transfer_view(row)

    async def rerate(self, new: NewRerating, *, actor: str) -> RerateView:
        """Correct finished requests to what they cost by the prices of the configuration as it is now; of prices that
        change with time, by those in force when each of them started."""
        prices = self._prices(new)
        since_ns = parse_time(new.since, "since")
        until_ns = self.clock.now_ns() if new.until is None else parse_time(new.until, "until")
        if until_ns <= since_ns:
            raise InvalidParameter("until must be later than since.", param="until")
        done = await self._ledger.bookkeeper.rerate(Rerating(prices, since_ns, until_ns, actor, new.dry_run))
        return RerateView(
            requests=done.requests,
            corrected=done.corrected,
            given_back_usd=format_usd(done.given_back_nano),
            given_back_nano=done.given_back_nano,
            taken_usd=format_usd(done.taken_nano),
            taken_nano=done.taken_nano,
            short_usd=format_usd(done.short_nano),
            short_nano=done.short_nano,
            endpoints=tuple(sorted(prices)),
            dry_run=done.dry_run,
        )

    async def back_up(self, new: NewBackup) -> BackupView:
        """A checked copy of the ledger in a new file."""
        if not os.path.isabs(new.path):
            raise InvalidParameter(
                f"path must be absolute, as the server does not run where you are; {new.path!r} is not.", param="path"
            )
        return backup_view(await self._ledger.bookkeeper.back_up(new.path))

    async def prune(self, new: NewPruning, *, actor: str) -> PruneView:
        """Delete old request rows, once the books up to there are proven. Whole days (UTC) only."""
        before_ns = parse_time(new.before, "before")
        if before_ns % DAY_NS:
            raise InvalidParameter("before must be a day, like 2026-01-31: rows go by whole days.", param="before")
        if before_ns > self.clock.now_ns():
            raise InvalidParameter("before must not lie in the future.", param="before")
        done = await self._ledger.bookkeeper.prune(before_ns, actor=actor, dry_run=new.dry_run)
        return PruneView(requests=done.requests, kept=done.kept, dry_run=done.dry_run)

    def _prices(self, new: NewRerating) -> dict[str, tuple[DatedPrice, ...]]:
        """Endpoint key → its prices as the configuration has them now."""
        snapshot = self._holder.current
        if (new.model is None) == (new.endpoint is None):
            raise InvalidParameter("Name either a model or an endpoint to re-rate.", param="model")
        if new.model is not None:
            require(new.model, snapshot.models, "model")
            endpoints = snapshot.models[new.model].endpoints
        else:
            assert new.endpoint is not None
            require(new.endpoint, snapshot.endpoints, "endpoint")
            endpoints = snapshot.endpoints[new.endpoint].endpoints
        prices = {
            endpoint.key: endpoint.prices if endpoint.prices else (DatedPrice(endpoint.price),)
            for endpoint in endpoints
            if endpoint.price is not None
        }
        if not prices:
            name = new.model if new.model is not None else new.endpoint
            raise InvalidParameter(f"{name!r} has no price now; give it one in the configuration.", param="model")
        return prices


def backup_view(report: BackupReport) -> BackupView:
    return BackupView(path=report.path, size_bytes=report.size_bytes, verified=views.verify_view(report.verified))


def parse_time(text: str, param: str) -> int:
    """A day or an instant in ISO 8601, UTC where it names no offset, in nanoseconds. Raises InvalidParameter."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidParameter(
            f"{param} must be a day or a time like 2026-01-31 or 2026-01-31T12:00:00, not {text!r}.", param=param
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * NANO_PER_USD


def _amount(text: str) -> int:
    try:
        return parse_usd(text)
    except ValueError as error:
        raise InvalidParameter(f"{error}.", param="amount") from None
