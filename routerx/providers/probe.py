"""The cheapest call that shows whether a provider can be reached and takes a key: it lists models and costs nothing."""

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import quote

from routerx.domain.call import UpstreamCall
from routerx.domain.policy import Timeouts
from routerx.providers.prepare import JSON, header_block
from routerx.providers.quirks import base_url
from routerx.providers.spec import Credential, Provider

PROBE_CONNECT_S = 5.0
PROBE_TOTAL_S = 10.0

_PATHS: Mapping[str, str] = MappingProxyType(
    {"anthropic": "/models?limit=1", "gemini": "/models?pageSize=1", "ollama": "/api/version"}
)
"""By dialect; all others have `/models`."""


def probe_call(provider: Provider, credential: Credential) -> UpstreamCall:
    """A GET of the provider's models. Raises ConfigError where its headers cannot be sent."""
    limits = provider.timeouts
    return UpstreamCall(
        endpoint=f"{provider.name}/",
        provider=provider.name,
        method="GET",
        url=_url(provider),
        headers=header_block(provider, credential, accept=JSON),
        body=b"",
        stream=False,
        timeouts=Timeouts(
            connect_s=min(limits.connect_s, PROBE_CONNECT_S), idle_s=PROBE_CONNECT_S, total_s=PROBE_TOTAL_S
        ),
        first_byte_s=PROBE_TOTAL_S,
        proxy=provider.proxy,
    )


def _url(provider: Provider) -> str:
    if provider.api_version is not None:  # As prepare.py has it for deployments.
        root = provider.base_url.removesuffix("/openai/v1").removesuffix("/openai")
        return f"{root}/openai/models?api-version={quote(provider.api_version, safe='')}"
    return base_url(provider.base_url, provider.quirks) + _PATHS.get(provider.dialect, "/models")
