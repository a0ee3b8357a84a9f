"""What commands can ask about providers, of a running RouterX."""

from typing import Protocol, TypeVar

from routerx.cli.remote_kit import Page, query_of, segment
from routerx.control.provider_values import (
    KeyChange,
    NewProviderKey,
    ProviderDetail,
    ProviderKeyView,
    ProviderTest,
    ProviderView,
    RemovedKey,
)

PROVIDERS = "/admin/v1/providers"
KEYS = "/v1/admin/keys"

T = TypeVar("T")


class ProviderAccess(Protocol):
    """See control/providers.py. Every method raises RouterXError."""

    def every(self) -> tuple[ProviderView, ...]: ...
    def one(self, name: str) -> ProviderDetail: ...
    def test(self, name: str) -> ProviderTest: ...
    def switch(self, name: str, *, enabled: bool) -> ProviderDetail: ...
    def keys(self, provider: str | None) -> tuple[ProviderKeyView, ...]: ...
    def add_key(self, new: NewProviderKey) -> ProviderKeyView: ...
    def change_key(self, key_id: str, change: KeyChange) -> ProviderKeyView: ...
    def clear_key(self, key_id: str) -> ProviderKeyView: ...
    def remove_key(self, key_id: str) -> RemovedKey: ...


class Call(Protocol):
    """RemoteAccess.call."""

    def __call__(self, method: str, path: str, value: object, shape: type[T]) -> T: ...


class RemoteProviders:
    """A ProviderAccess over the admin API."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def every(self) -> tuple[ProviderView, ...]:
        return self._call("GET", PROVIDERS, None, Page[ProviderView]).data

    def one(self, name: str) -> ProviderDetail:
        return self._call("GET", f"{PROVIDERS}/{segment(name)}", None, ProviderDetail)

    def test(self, name: str) -> ProviderTest:
        return self._call("POST", f"{PROVIDERS}/{segment(name)}/test", {}, ProviderTest)

    def switch(self, name: str, *, enabled: bool) -> ProviderDetail:
        verb = "enable" if enabled else "disable"
        return self._call("POST", f"{PROVIDERS}/{segment(name)}/{verb}", {}, ProviderDetail)

    def keys(self, provider: str | None) -> tuple[ProviderKeyView, ...]:
        return self._call("GET", KEYS + query_of(provider=provider), None, Page[ProviderKeyView]).data

    def add_key(self, new: NewProviderKey) -> ProviderKeyView:
        return self._call("POST", KEYS, new, ProviderKeyView)

    def change_key(self, key_id: str, change: KeyChange) -> ProviderKeyView:
        return self._call("PATCH", f"{KEYS}/{segment(key_id)}", change, ProviderKeyView)

    def clear_key(self, key_id: str) -> ProviderKeyView:
        return self._call("POST", f"{KEYS}/{segment(key_id)}/clear", {}, ProviderKeyView)

    def remove_key(self, key_id: str) -> RemovedKey:
        return self._call("DELETE", f"{KEYS}/{segment(key_id)}", None, RemovedKey)
