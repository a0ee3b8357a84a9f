"""One target and one request → the HTTP call to send. Pure.

What does not change from request to request (URL, header block, quirks) is built once per credential and operation
and kept by the Preparer. Upstream headers are an allowlist made here: nothing of the caller's headers is ever sent
(SECURITY.md 22).
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from routerx import __version__, jsonx
from routerx.dialects.base import Dialect
from routerx.domain.call import Operation, Peek, UpstreamCall
from routerx.domain.model import Endpoint
from routerx.errors import ConfigError
from routerx.jsonx import Raw
from routerx.providers import quirks
from routerx.providers.quirks import Quirks
from routerx.providers.spec import Auth, Credential, Provider

BASES_MAX = 4_096
"""Kept header blocks: credentials × operations of one configuration, with room for a reload."""

EVENT_STREAM = "text/event-stream"
JSON = "application/json"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110: token
_FORBIDDEN_IN_VALUE = re.compile(r"[\r\n\0]")
_CREDENTIAL_HEADERS: Mapping[Auth, str] = MappingProxyType(
    {
        Auth.X_API_KEY: "x-api-key",
        Auth.X_GOOG_API_KEY: "x-goog-api-key",
        Auth.API_KEY: "api-key",
    }
)
_OURS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that a configuration may not set: they frame the message or decide how the answer is read."""


class Target(msgspec.Struct, frozen=True):
    """Where one attempt goes."""

    provider: Provider
    credential: Credential
    endpoint: Endpoint


class Prepared(msgspec.Struct, frozen=True):
    """A call ready to send. `strip_usage`: the stream's usage frame was asked for by us, not by the caller."""

    call: UpstreamCall
    strip_usage: bool


class _Base(msgspec.Struct, frozen=True):
    """What one provider, credential and operation have in common over all requests."""

    provider: Provider
    credential: Credential
    url: str
    headers: CIMultiDictProxy[str]
    stream_headers: CIMultiDictProxy[str]
    quirks: Quirks


class Preparer:
    """Makes calls. One for the life of the process will do: a base is rebuilt when its provider or credential is
    another object than before, as after a reload."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, str, Operation], _Base] = {}

    def prepare(
        self, target: Target, peek: Peek, fields: Mapping[str, Raw], dialect: Dialect, first_byte_s: float
    ) -> Prepared:
        """The call of one attempt. Raises ConfigError where the provider's configuration cannot be sent."""
        base = self._base(target, peek.operation, dialect)
        ask_usage = peek.stream and not peek.wants_usage and base.quirks.ask_usage
        body = dialect.request_fields(fields, model=target.endpoint.upstream_model, ask_usage=ask_usage)
        for transform in base.quirks.transforms:
            transform(body)
        provider = target.provider
        call = UpstreamCall(
            endpoint=target.endpoint.key,
            provider=provider.name,
            method="POST",
            url=base.url,
            headers=base.stream_headers if peek.stream else base.headers,
            body=jsonx.encode(body),
            stream=peek.stream,
            timeouts=provider.timeouts,
            first_byte_s=first_byte_s,
            proxy=provider.proxy,
        )
        return Prepared(call, strip_usage=ask_usage)

    def _base(self, target: Target, operation: Operation, dialect: Dialect) -> _Base:
        provider, credential = target.provider, target.credential
        key = (provider.name, credential.id, operation)
        base = self._bases.get(key)
        if base is None or base.provider is not provider or base.credential is not credential:
            base = _Base(
                provider=provider,
                credential=credential,
                url=quirks.base_url(provider.base_url, provider.quirks) + dialect.path(operation, "", stream=False),
                headers=header_block(provider, credential, accept=JSON),
                stream_headers=header_block(provider, credential, accept=EVENT_STREAM),
                quirks=quirks.resolve(provider.quirks, operation),
            )
            if len(self._bases) >= BASES_MAX:
                self._bases.clear()
            self._bases[key] = base
        return base


def header_block(provider: Provider, credential: Credential, *, accept: str) -> CIMultiDictProxy[str]:
    """All headers of a call but Host and Content-Length, read-only because calls share them. Raises ConfigError for one
    that must not be sent."""
    headers: CIMultiDict[str] = CIMultiDict()
    headers["user-agent"] = f"routerx/{__version__}"
    for name, value in provider.headers:
        problem = header_problem(name, value)
        if problem is not None:
            raise ConfigError((f"provider {provider.name!r}: {problem}",))
        headers[name] = value
    headers["content-type"] = JSON
    headers["accept"] = accept
    headers["accept-encoding"] = "identity"  # Bodies are relayed as bytes and capped as bytes (FAULTS.md 21).
    if credential.secret is not None and provider.auth is not Auth.NONE:
        key = credential.secret.reveal()
        if _FORBIDDEN_IN_VALUE.search(key):
            raise ConfigError((f"provider {provider.name!r}: credential {credential.id!r} holds a line break or NUL",))
        if provider.auth is Auth.BEARER:
            headers["authorization"] = f"Bearer {key}"
        else:
            headers[_CREDENTIAL_HEADERS[provider.auth]] = key
    return CIMultiDictProxy(headers)


def header_problem(name: str, value: str) -> str | None:
    """Why a configured header cannot be sent; None when it can. The value is never shown: it may be a secret."""
    if not _HEADER_NAME.fullmatch(name):
        return f"{name!r} is not a header name"
    if name.lower() in _OURS:
        return f"header {name!r} is set by the gateway and cannot be configured"
    if _FORBIDDEN_IN_VALUE.search(value):
        return f"the value of header {name!r} holds a line break or NUL"
    return None
