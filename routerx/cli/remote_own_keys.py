"""What commands can ask about tenants' own provider keys, of a running RouterX."""

from typing import Protocol

from routerx.cli.remote_kit import Page, query_of, segment
from routerx.cli.remote_providers import Call
from routerx.control.own_key_values import NewOwnKey, OwnKeyView


class OwnKeyAccess(Protocol):
    """See control/own_keys.py. Every method raises RouterXError."""

    def every(self, tenant: str) -> tuple[OwnKeyView, ...]: ...
    def put(self, tenant: str, provider: str, new: NewOwnKey) -> OwnKeyView: ...
    def remove(self, tenant: str, provider: str, reason: str | None) -> OwnKeyView: ...


class RemoteOwnKeys:
    """An OwnKeyAccess over the admin API."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def every(self, tenant: str) -> tuple[OwnKeyView, ...]:
        return self._call("GET", _path(tenant), None, Page[OwnKeyView]).data

    def put(self, tenant: str, provider: str, new: NewOwnKey) -> OwnKeyView:
        return self._call("PUT", f"{_path(tenant)}/{segment(provider)}", new, OwnKeyView)

    def remove(self, tenant: str, provider: str, reason: str | None) -> OwnKeyView:
        return self._call("DELETE", f"{_path(tenant)}/{segment(provider)}" + query_of(reason=reason), None, OwnKeyView)


def _path(tenant: str) -> str:
    return f"/admin/v1/tenants/{segment(tenant)}/byok"
