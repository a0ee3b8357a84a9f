"""What commands can ask about keys of tenants, of a running RouterX."""

from typing import Protocol

from routerx.cli.remote_kit import Page, query_of, segment
from routerx.cli.remote_providers import Call
from routerx.control.key_values import KeyDetail, KeyTermsChange, NewKeyOrder
from routerx.control.values import KeyView, NewKey

KEYS = "/admin/v1/keys"


class KeyAccess(Protocol):
    """See control/keys.py. Every method raises RouterXError."""

    def every(self, tenant: str | None) -> tuple[KeyView, ...]: ...
    def one(self, key_id: str) -> KeyDetail: ...
    def create(self, order: NewKeyOrder) -> NewKey: ...
    def limit(self, key_id: str, change: KeyTermsChange) -> KeyDetail: ...
    def revoke(self, key_id: str) -> KeyView: ...


class RemoteKeys:
    """A KeyAccess over the admin API."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def every(self, tenant: str | None) -> tuple[KeyView, ...]:
        return self._call("GET", KEYS + query_of(tenant=tenant), None, Page[KeyView]).data

    def one(self, key_id: str) -> KeyDetail:
        return self._call("GET", f"{KEYS}/{segment(key_id)}", None, KeyDetail)

    def create(self, order: NewKeyOrder) -> NewKey:
        return self._call("POST", KEYS, order, NewKey)

    def limit(self, key_id: str, change: KeyTermsChange) -> KeyDetail:
        return self._call("PATCH", f"{KEYS}/{segment(key_id)}", change, KeyDetail)

    def revoke(self, key_id: str) -> KeyView:
        return self._call("POST", f"{KEYS}/{segment(key_id)}/revoke", {}, KeyView)
