"""What single vendors want otherwise: named pure functions on request fields, and switches. No vendor is named in code.

Each quirk states the fact it rests on. A quirk renames or leaves out only what the vendor takes under another name or
does of its own accord; a wish that a vendor cannot fulfil is sent on, so that the vendor says so.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from routerx import jsonx
from routerx.dialects.openai_chat import OPENAI
from routerx.domain.call import Operation
from routerx.jsonx import Raw

Fields = dict[str, Any]
"""Top-level keys; values are plain JSON values or Raw."""
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
    SHORT_TOOL_IDS = "short_tool_ids"
    """The ids of tool calls are nine letters or digits; others are refused (PROVIDERS.md 6a)."""
    OPENAI_V1_PATH = "openai_v1_path"
    """A base URL without a path means `/openai/v1`."""
    ROOT_PATH = "root_path"
    """A base URL that ends in `/v1` means the server's root: people copy it from clients of another wire."""


def transforms(names: frozenset[str], operation: Operation, dialect: str) -> tuple[Transform, ...]:
    """What `names` come to for `operation` on the wire `dialect`; they are all of OpenAI's. Raises ValueError on a name
    that is no quirk."""
    quirks = sorted(Quirk(name) for name in names)
    if dialect != OPENAI.name:
        return ()
    table = _TRANSFORMS.get(operation, {})
    return tuple(table[quirk] for quirk in quirks if quirk in table)


def asks_usage(names: frozenset[str]) -> bool:
    """Whether usage in a stream of chat has to be asked for."""
    return Quirk.NO_STREAM_OPTIONS not in names


def base_url(url: str, names: frozenset[str]) -> str:
    """`url` without a trailing slash, completed by a path quirk where it names only a host."""
    url = url.rstrip("/")
    if Quirk.ROOT_PATH in names:
        return url.removesuffix("/v1")
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
    options = jsonx.decode(bytes(raw)) if isinstance(raw, Raw) else raw
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
    if isinstance(raw, Raw) and bytes(raw) == b"null":
        del fields["encoding_format"]


_TOOL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _short_tool_ids(fields: Fields) -> None:
    """Give the tool calls of the history ids that the vendor takes; a call and its result keep belonging together."""
    raw = fields.get("messages")
    if isinstance(raw, Raw):
        if b'"tool_call' not in bytes(raw):
            return
        messages = jsonx.decode(bytes(raw))
    else:
        messages = raw
    changed = False
    for message in messages if isinstance(messages, list) else ():
        calls = message.get("tool_calls")
        for owner, key in [
            (message, "tool_call_id"),
            *((call, "id") for call in (calls if isinstance(calls, list) else ()) if isinstance(call, dict)),
        ]:
            value = owner.get(key)
            if isinstance(value, str) and not _TOOL_ID.fullmatch(value):
                owner[key] = _short(value)
                changed = True
    if changed:
        fields["messages"] = messages


def _short(value: str) -> str:
    number = int.from_bytes(hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest())
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


_TRANSFORMS: Mapping[Operation, Mapping[Quirk, Transform]] = MappingProxyType(
    {
        Operation.CHAT: MappingProxyType(
            {
                Quirk.NO_STREAM_OPTIONS: _drop_usage_wish,
                Quirk.MAX_TOKENS: _rename("max_completion_tokens", "max_tokens"),
                Quirk.MAX_COMPLETION_TOKENS: _rename("max_tokens", "max_completion_tokens"),
                Quirk.RANDOM_SEED: _rename("seed", "random_seed"),
                Quirk.SHORT_TOOL_IDS: _short_tool_ids,
            }
        ),
        Operation.EMBEDDINGS: MappingProxyType({Quirk.OMIT_NULL_ENCODING_FORMAT: _drop_null_encoding}),
    }
)
_PATHS: Mapping[Quirk, str] = MappingProxyType({Quirk.OPENAI_V1_PATH: "/openai/v1"})
