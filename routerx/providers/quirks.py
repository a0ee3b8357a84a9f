"""What single vendors want otherwise: named pure functions on request fields, and switches. No vendor is named in code.

Each quirk states the fact it rests on. A quirk renames or leaves out only what the vendor takes under another name or
does of its own accord; a wish that a vendor cannot fulfil is sent on, so that the vendor says so.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec

from routerx import jsonx
from routerx.domain.call import Operation
from routerx.jsonx import Raw

Fields = dict[str, Raw]
Transform = Callable[[Fields], None]


class Quirk(StrEnum):
    """Names for `quirks:` of a provider."""

    NO_STREAM_OPTIONS = "no_stream_options"
    """`stream_options.include_usage` is refused (422 extra_forbidden); usage is streamed unasked."""
    MAX_TOKENS = "max_tokens"
    """Only `max_tokens` bounds the output; `max_completion_tokens` is refused (422) or ignored, which would lift the
    caller's cost ceiling."""
    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    """Reasoning models refuse `max_tokens`; every chat model takes `max_completion_tokens`."""
    RANDOM_SEED = "random_seed"
    """`seed` is called `random_seed`."""
    OMIT_NULL_ENCODING_FORMAT = "omit_null_encoding_format"
    """Embedding servers refuse `encoding_format: null`, which means the same as leaving it out."""
    V1_PATH = "v1_path"
    """A base URL without a path means `/v1`."""
    OPENAI_V1_PATH = "openai_v1_path"
    """A base URL without a path means `/openai/v1`."""


class Quirks(msgspec.Struct, frozen=True):
    """The quirks of one provider, resolved for one operation."""

    transforms: tuple[Transform, ...]
    ask_usage: bool
    """Usage in a stream has to be asked for."""


def resolve(names: frozenset[str], operation: Operation) -> Quirks:
    """What `names` come to for `operation`. Raises ValueError on a name that is no quirk."""
    quirks = sorted(Quirk(name) for name in names)
    table = _CHAT if operation is Operation.CHAT else _EMBEDDINGS
    return Quirks(
        transforms=tuple(table[quirk] for quirk in quirks if quirk in table),
        ask_usage=operation is Operation.CHAT and Quirk.NO_STREAM_OPTIONS not in quirks,
    )


def base_url(url: str, names: frozenset[str]) -> str:
    """`url` without a trailing slash, completed by a path quirk where it names only a host."""
    url = url.rstrip("/")
    if urlsplit(url).path == "":
        for quirk, path in _PATHS.items():
            if quirk in names:
                return url + path
    return url


def _drop_usage_wish(fields: Fields) -> None:
    """Leave `stream_options` out where all it asks for is the usage that comes anyway."""
    raw = fields.get("stream_options")
    if raw is None:
        return
    options = jsonx.decode(bytes(raw))
    if options is None or (isinstance(options, dict) and options.keys() <= {"include_usage"}):
        del fields["stream_options"]


def _rename(old: str, new: str) -> Transform:
    """Send `old` as `new`. Both present: both go out, and the vendor decides."""

    def transform(fields: Fields) -> None:
        if old in fields and new not in fields:
            fields[new] = fields.pop(old)

    return transform


def _drop_null_encoding(fields: Fields) -> None:
    raw = fields.get("encoding_format")
    if raw is not None and bytes(raw) == b"null":
        del fields["encoding_format"]


_CHAT: Mapping[Quirk, Transform] = MappingProxyType(
    {
        Quirk.NO_STREAM_OPTIONS: _drop_usage_wish,
        Quirk.MAX_TOKENS: _rename("max_completion_tokens", "max_tokens"),
        Quirk.MAX_COMPLETION_TOKENS: _rename("max_tokens", "max_completion_tokens"),
        Quirk.RANDOM_SEED: _rename("seed", "random_seed"),
    }
)
_EMBEDDINGS: Mapping[Quirk, Transform] = MappingProxyType({Quirk.OMIT_NULL_ENCODING_FORMAT: _drop_null_encoding})
_PATHS: Mapping[Quirk, str] = MappingProxyType({Quirk.V1_PATH: "/v1", Quirk.OPENAI_V1_PATH: "/openai/v1"})
