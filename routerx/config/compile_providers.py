"""`providers:` and their presets → Provider values, and the decision who is answered by the mock."""

import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec

from routerx.config.compilation import Compilation
from routerx.config.problems import Path
from routerx.config.schema import ProviderEntry
from routerx.config.snapshot import IdleProvider
from routerx.dialects.base import OPTIONAL
from routerx.dialects.registry import NAMES as DIALECTS
from routerx.domain.call import Operation
from routerx.domain.policy import Timeouts
from routerx.providers.spec import Auth, Credential, MockSettings, Preset, Provider, RequestLimit, Wire
from routerx.secrets import Secret, fingerprint

_HEADER_NAME = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")  # RFC 9110, token.
_HEADER_VALUE = re.compile(r"^[\t\x20-\x7e]*$")
_KEY = re.compile(r"^[\x21-\x7e]{1,4096}$")
_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}
)
_FRAMING_HEADERS = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "accept-encoding"}
    | {"accept", "expect", "te", "trailer", "upgrade"}
)


class Source(msgspec.Struct, frozen=True):
    """A provider and what its models are made with."""

    provider: Provider
    preset: str | None
    """The catalogue knows its offers under this name."""
    priority: int
    usable: bool
    """It has the credential it needs."""


class Sources(msgspec.Struct, frozen=True):
    """Who can be called."""

    live: dict[str, Source]
    idle: Mapping[str, IdleProvider] = MappingProxyType({})
    """Configured, but switched off or without the key they need: left out."""
    mock_serves_all: bool = False
    """The mock provider stands in for every catalogue model that nobody else serves."""


def compile_providers(run: Compilation) -> Sources:
    """Every provider that can be called, with the mock under those that cannot or shall not be."""
    entries = run.config.providers if run.config.providers is not None else {}
    found = {name: source for name, entry in entries.items() if (source := _source(run, name, entry)) is not None}
    off = {
        name: found.pop(name)
        for name, entry in sorted(entries.items())
        if name in found and (not entry.enabled or _all_keys_are_off(entry))
    }
    idle = _idle(off, "off")
    if off:
        run.notice(f"providers that are off: {', '.join(off)}")
        if not found:  # Nobody asked for the mock.
            return Sources(live={}, idle=idle)
    mode = run.settings.effective_mode if run.settings.effective_mode is not None else run.config.server.mode
    if mode == "mock":
        run.notice("mode is mock: the built-in mock answers for every provider")
        return _mocked(run, found, idle, serves_all=not found)
    # Where a provider has a key, switching it off is not asking for the mock.
    if any(source.usable and source.provider.mock is None for source in (*found.values(), *off.values())):
        for name, source in found.items():
            if not source.usable:
                run.notice(f"provider {name!r} has no key and is left out")
        live = {name: source for name, source in found.items() if source.usable}
        keyless = {name: source for name, source in found.items() if not source.usable}
        return Sources(live=live, idle={**idle, **_idle(keyless, "no_key")})
    unusable = not found or any(not source.usable for source in found.values())
    if mode == "real" and unusable:
        reason = "the mode is real, but no provider has a key; set one, or leave the mode out"
        run.problems.add(("server", "mode"), reason, value=False)
    if unusable:
        run.notice("no provider has a key: the built-in mock answers")
    return _mocked(run, found, idle, serves_all=True)


def _all_keys_are_off(entry: ProviderEntry) -> bool:
    return bool(entry.keys) and not any(key.enabled for key in entry.keys)


def _idle(sources: dict[str, Source], reason: str) -> dict[str, IdleProvider]:
    return {name: IdleProvider(source.provider, reason) for name, source in sources.items()}


def _mocked(
    run: Compilation, found: dict[str, Source], idle: Mapping[str, IdleProvider], *, serves_all: bool
) -> Sources:
    live = {
        name: source
        if source.provider.mock is not None
        else msgspec.structs.replace(source, provider=msgspec.structs.replace(source.provider, mock=MockSettings()))
        for name, source in found.items()
    }
    if serves_all and run.facts.mock not in live:
        built_in = _source(run, run.facts.mock, ProviderEntry())
        assert built_in is not None, "the mock preset needs nothing"
        live[run.facts.mock] = built_in
    return Sources(live=live, idle=idle, mock_serves_all=serves_all)


def _source(run: Compilation, name: str, entry: ProviderEntry) -> Source | None:
    """One provider, or None after a problem that leaves nothing to call."""
    path: Path = ("providers", name)
    preset = run.facts.find_preset(entry.preset if entry.preset is not None else name)
    if entry.preset is not None and preset is None:
        run.problems.add((*path, "preset"), "is no preset", word=entry.preset, valid=run.facts.presets)
        return None
    url = _base_url(run, path, entry, preset)
    dialect = entry.dialect or (preset.dialect if preset is not None else "openai")
    also = _also(run, path, entry, preset)
    _check_dialects(run, path, entry)
    # Another wire has other manners: its own header for the key, its own version header.
    manners = preset if preset is not None and dialect == preset.dialect else run.facts.find_preset(dialect)
    credentials, credentials_off = _credentials(run, path, name, entry)
    key_required = preset.key_required if preset is not None else bool(entry.keys)
    is_mock = preset is not None and preset.name == run.facts.mock
    mock = None
    if is_mock or entry.mock is not None:
        block = entry.mock
        mock = MockSettings() if block is None else MockSettings(block.latency, block.token_delay, block.output_tokens)
    usable = bool(credentials) or entry.byok_only or not key_required or mock is not None
    auth = _auth(entry, manners, takes_key=key_required or bool(credentials) or entry.byok_only)
    if entry.byok_only:
        _check_byok_only(run, path, entry, auth)
    else:
        credentials = credentials if credentials else (Credential(id=f"{name}-none", secret=None),)
    provider = Provider(
        name=name,
        dialect=dialect,
        base_url=url,
        auth=auth,
        preset=preset.name if preset is not None else None,
        credentials=credentials,
        credentials_off=credentials_off,
        timeouts=_timeouts(run, entry),
        quirks=(preset.quirks if preset is not None else frozenset()) | frozenset(map(str, entry.quirks)),
        headers=_headers(run, path, entry, manners),
        also=also,
        relays=_relays(dialect, preset),
        relay_path=preset.relay_path if preset is not None else "",
        forward_headers=manners.forward_headers if manners is not None else frozenset(),
        takes=preset.takes if preset is not None else OPTIONAL,
        reasoning_field=preset.reasoning_field if preset is not None else None,
        api_version=entry.api_version,
        abort_stops_billing=_abort_stops_billing(entry, preset),
        limits_tokens=any(one.tpm is not None for one in credentials),
        limit=None if entry.limit is None else RequestLimit(entry.limit.requests, entry.limit.window),
        keeps_data=entry.keeps_data,
        zdr=entry.zdr,
        byok_only=entry.byok_only,
        # A preset of plain HTTP is a server of the user's own.
        public=preset is not None and entry.base_url is None and url.startswith("https:"),
        mock=mock,
        proxy=_proxy(run, path, entry),
        ca_file=_ca_file(run, path, entry),
    )
    return Source(provider, preset.name if preset is not None else None, entry.priority, usable)


def _abort_stops_billing(entry: ProviderEntry, preset: Preset | None) -> bool:
    if entry.abort_stops_billing is not None:
        return entry.abort_stops_billing
    return preset is None or preset.abort_stops_billing


def _auth(entry: ProviderEntry, manners: Preset | None, *, takes_key: bool) -> Auth:
    if entry.auth is not None:
        return entry.auth
    if manners is not None and (takes_key or manners.auth is not Auth.BEARER):
        return manners.auth
    return Auth.BEARER if takes_key else Auth.NONE


def _check_byok_only(run: Compilation, path: Path, entry: ProviderEntry, auth: Auth) -> None:
    where: Path = (*path, "byok_only")
    if entry.keys:
        run.problems.add(where, "is for a provider that the house has no key for; leave out this or `keys`")
    elif auth is Auth.NONE:
        run.problems.add(where, "needs a provider that takes a key; set its `auth`")


def _also(run: Compilation, path: Path, entry: ProviderEntry, preset: Preset | None) -> tuple[Wire, ...]:
    """Further wires: the preset's own as long as it is spoken to as the preset has it, and those of the file."""
    known = preset.also if preset is not None and entry.dialect in (None, preset.dialect) else ()
    if entry.api_version is not None:
        known = ()
    return known + tuple(Wire(name) for name in entry.also if name not in {wire.dialect for wire in known})


def _relays(dialect: str, preset: Preset | None) -> frozenset[Operation] | None:
    if preset is not None and preset.dialect == dialect and (preset.base_url is not None or preset.relays):
        return preset.relays
    return None if dialect == "openai" else frozenset()


def _check_dialects(run: Compilation, path: Path, entry: ProviderEntry) -> None:
    spoken = [((*path, "dialect"), entry.dialect)] if entry.dialect is not None else []
    spoken += [((*path, "also", index), name) for index, name in enumerate(entry.also)]
    for where, name in spoken:
        if name not in DIALECTS:
            run.problems.add(where, f"must be one of {', '.join(DIALECTS)}", word=name, valid=DIALECTS)


def _base_url(run: Compilation, path: Path, entry: ProviderEntry, preset: Preset | None) -> str:
    url = entry.base_url
    if url is None:
        url = preset.base_url if preset is not None else None
        if url is None and preset is not None:
            run.problems.add(
                path, "needs a base_url: every customer of this vendor has an address of its own", value=False
            )
        elif url is None:
            run.problems.add(
                path,
                "needs a base_url, because no preset has this name",
                value=False,
                word=str(path[-1]),
                valid=run.facts.presets,
            )
        return url if url is not None else ""
    if problem := _url_problem(url):
        run.problems.add((*path, "base_url"), problem, value="@" not in url)
    return url.rstrip("/")


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        return "is not a URL"
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_ok
        or not url.isprintable()
        or " " in url
    ):
        return "is not an HTTP URL; write it like https://host/v1"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or a password; put the credential under keys"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment"
    return None


def _credentials(
    run: Compilation, path: Path, name: str, entry: ProviderEntry
) -> tuple[tuple[Credential, ...], tuple[Credential, ...]]:
    """Those that are on, and those that are off."""
    found: dict[Secret, Credential] = {}
    off: set[str] = set()
    for index, item in enumerate(entry.keys):
        where: Path = (*path, "keys", index, "key")
        text = item.key.reveal()
        if not text:
            run.notice(f"providers.{name}.keys[{index}] is empty and left out")
        elif _KEY.match(text) is None:
            run.problems.add(where, "is not a key: a key is one line of ASCII without spaces", value=False)
        elif item.key in found:
            run.notice(f"providers.{name}.keys[{index}] is the same key as one before it and left out")
        else:
            run.refuse_open_secret(where)
            found[item.key] = Credential(
                id=f"{name}-{fingerprint(item.key)}", secret=item.key, rpm=item.rpm, tpm=item.tpm
            )
            if not item.enabled:
                off.add(found[item.key].id)
    every = found.values()
    return tuple(one for one in every if one.id not in off), tuple(one for one in every if one.id in off)


def _timeouts(run: Compilation, entry: ProviderEntry) -> Timeouts:
    block = entry.timeouts
    requested_s = run.settings.request_timeout_s
    total_s = requested_s if requested_s is not None else block.total
    return Timeouts(
        connect_s=min(block.connect, total_s),
        first_token_s=block.first_token,
        idle_s=min(block.idle, total_s),
        total_s=total_s,
    )


def _headers(run: Compilation, path: Path, entry: ProviderEntry, manners: Preset | None) -> tuple[tuple[str, str], ...]:
    own = {name.lower() for name in entry.headers}
    headers = [header for header in (manners.headers if manners is not None else ()) if header[0] not in own]
    for name, secret in entry.headers.items():
        where: Path = (*path, "headers", name)
        if _HEADER_NAME.match(name) is None:
            run.problems.add(where, "is not the name of a header", value=False)
        elif name.lower() in _FRAMING_HEADERS:
            run.problems.add(where, "cannot be set: this header belongs to the connection", value=False)
        elif _HEADER_VALUE.match(secret.reveal()) is None:
            run.problems.add(where, "is not the value of a header: one line of ASCII", value=False)
        else:
            if name.lower() in _SECRET_HEADERS:
                run.refuse_open_secret(where)
            headers.append((name, secret.reveal()))
    return tuple(headers)


def _proxy(run: Compilation, path: Path, entry: ProviderEntry) -> str | None:
    if entry.proxy is None:
        return None
    where: Path = (*path, "proxy")
    try:
        parts = urlsplit(entry.proxy)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        run.problems.add(where, "is not an HTTP proxy; write it like http://host:3128", value=False)
        return None
    if parts.password is not None:
        run.refuse_open_secret(where)
    return entry.proxy


def _ca_file(run: Compilation, path: Path, entry: ProviderEntry) -> str | None:
    if entry.ca_file is None:
        return None
    file = run.beside(entry.ca_file)
    if not os.access(file, os.R_OK) or not os.path.isfile(file):
        run.problems.add((*path, "ca_file"), "is not a file that can be read")
    return file
