"""One target and one draft of a request → the HTTP call to send. Pure.

What does not change from request to request (base URL, header block, quirks) is built once per credential, operation
and wire and kept by the Preparer. Upstream headers are an allowlist made here: of the headers of callers only those are
sent that a provider is known to want (SECURITY.md 22).
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from routerx import __version__, jsonx
from routerx.domain.call import Operation, UpstreamCall
from routerx.domain.model import Endpoint
from routerx.domain.policy import Timeouts
from routerx.errors import ConfigError
from routerx.providers import quirks
from routerx.providers.quirks import Transform
from routerx.providers.spec import Auth, Credential, Provider, Wire

BASES_MAX = 4_096
"""Kept header blocks: credentials × operations × wires of one configuration, with room for a reload."""

URLS_MAX = 64
"""Kept whole URLs of one base: some wires have the model in the path."""

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
ANYTHING = "*/*"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110: token
_FORBIDDEN_IN_VALUE = re.compile(r"[\r\n\0]")
_CREDENTIAL_HEADERS: Mapping[Auth, str] = MappingProxyType(
    {
        Auth.X_API_KEY: "x-api-key",
        Auth.X_GOOG_API_KEY: "x-goog-api-key",
        Auth.API_KEY: "api-key",
    }
)
_ACCEPTS: Mapping[Operation, str] = MappingProxyType({Operation.SPEECH: ANYTHING, Operation.TRANSCRIPTIONS: ANYTHING})
"""What is asked for where the answer may be something else than JSON."""
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
    timeouts: Timeouts


class Draft(msgspec.Struct, frozen=True):
    """A request in a provider's wire format, quirks aside: what is sent whatever the credential."""

    operation: Operation
    wire: Wire
    path: str
    """Below the wire's."""
    stream: bool
    fields: dict[str, Any]
    """Top-level keys; values are plain JSON values or Raw."""
    headers: tuple[tuple[str, str], ...] = ()
    """Of the caller, to be passed on."""
    strip_usage: bool = False
    """The stream's usage frame was asked for by us, not by the caller."""
    body: bytes | None = None
    """Sent in place of `fields`, where it is no JSON."""
    content_type: str | None = None
    """Of `body`."""


class _Base(msgspec.Struct, frozen=True):
    """What one provider, credential, operation and wire have in common over all requests."""

    provider: Provider
    credential: Credential
    url: str
    """Up to where a dialect's path begins."""
    urls: dict[str, str]
    """Whole ones by path: the transport knows a URL again that is the same object."""
    headers: CIMultiDictProxy[str]
    stream_headers: CIMultiDictProxy[str]
    transforms: tuple[Transform, ...]


class Preparer:
    """Makes calls. One for the life of the process will do: a base is rebuilt when its provider or credential is
    another object than before, as after a reload."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, str, Operation, str], _Base] = {}

    def call(self, target: Target, draft: Draft, first_byte_s: float) -> UpstreamCall:
        """The call of one attempt. Raises ConfigError where the provider's configuration cannot be sent."""
        base = self._base(target, draft)
        fields = draft.fields
        if base.transforms and draft.body is None:
            fields = dict(fields)
            for transform in base.transforms:
                transform(fields)
        provider = target.provider
        headers = base.stream_headers if draft.stream else base.headers
        if draft.content_type is not None:
            headers = _as_content(headers, draft.content_type)
        if draft.headers:
            headers = _with(headers, draft.headers)
        return UpstreamCall(
            endpoint=target.endpoint.key,
            provider=provider.name,
            method="POST",
            url=base.urls.get(draft.path) or _url(base, target, draft),
            # What may change is encoded for each call, and so not kept.
            headers=headers.copy() if target.credential.transient else headers,
            body=draft.body if draft.body is not None else jsonx.encode(fields),
            stream=draft.stream,
            timeouts=target.timeouts,
            first_byte_s=first_byte_s,
            proxy=provider.proxy,
        )

    def _base(self, target: Target, draft: Draft) -> _Base:
        provider, credential = target.provider, target.credential
        key = (provider.name, credential.id, draft.operation, draft.wire.dialect)
        base = self._bases.get(key)
        if base is None or base.provider is not provider or base.credential is not credential:
            base = _Base(
                provider=provider,
                credential=credential,
                url=quirks.base_url(provider.base_url, provider.quirks) + draft.wire.path,
                urls={},
                headers=header_block(provider, credential, accept=_ACCEPTS.get(draft.operation, JSON)),
                stream_headers=header_block(provider, credential, accept=EVENT_STREAM),
                transforms=quirks.transforms(provider.quirks, draft.operation, draft.wire.dialect),
            )
            if credential.transient:
                return base
            if len(self._bases) >= BASES_MAX:
                self._bases.clear()
            self._bases[key] = base
        return base


def _url(base: _Base, target: Target, draft: Draft) -> str:
    if target.provider.api_version is not None:
        return _deployment_url(target, draft)
    if len(base.urls) >= URLS_MAX:
        base.urls.clear()
    url = base.urls[draft.path] = base.url + draft.path
    return url


def _deployment_url(target: Target, draft: Draft) -> str:
    """Of an Azure resource that is asked by `api-version` (the vendor's reference of its data plane API)."""
    provider = target.provider
    assert provider.api_version is not None
    root = provider.base_url.removesuffix("/openai/v1").removesuffix("/openai")
    deployment = quote(target.endpoint.upstream_model, safe="")
    return f"{root}/openai/deployments/{deployment}{draft.path}?api-version={quote(provider.api_version, safe='')}"


def _as_content(block: CIMultiDictProxy[str], content_type: str) -> CIMultiDictProxy[str]:
    headers = block.copy()
    headers["content-type"] = content_type
    return CIMultiDictProxy(headers)


def _with(block: CIMultiDictProxy[str], more: tuple[tuple[str, str], ...]) -> CIMultiDictProxy[str]:
    headers = block.copy()
    for name, value in more:
        if header_problem(name, value) is None:
            headers[name] = value
    return CIMultiDictProxy(headers)


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
