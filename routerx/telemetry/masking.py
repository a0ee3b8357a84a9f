"""Masking of keys in log lines: by shape (whatever they came in), and by value (the secrets that are configured).

The last gate before a line leaves the process. It does not replace care above it: nothing may log a key on purpose.
"""

import re
from collections.abc import Iterable

from routerx import jsonx
from routerx.secrets import Secret

STARS = b"***"
KNOWN_MAX = 10_000
"""Configured secrets remembered over reloads, the newest ones; in-flight requests still use old ones."""
KNOWN_CHARS_MIN = 6
"""A shorter secret would mask ordinary words; the configuration should refuse it."""
SEEN_MAX = 4_096
SEEN_CHARS_MAX = 128

# Cheap substring tests that spare the regular expressions on nearly every line; all lower case.
_MARKERS = (
    *(b"rx_", b"sk-", b"sk_", b"hf_", b"xai-", b"tgp_", b"fw_", b"aiza", b"bearer", b"authorization", b"://"),
    *(b"api-key", b"api_key", b"apikey", b"key=", b"token=", b"access_token", b"access-token", b"secret", b"password"),
)
_TOKEN = re.compile(
    rb"(?<![A-Za-z0-9])"
    rb"(?:rx_[A-Za-z0-9_-]{12,}|sk-[A-Za-z0-9_-]{6,}|[gc]sk[_-][A-Za-z0-9_-]{12,}|hf_[A-Za-z0-9]{12,}"
    rb"|xai-[A-Za-z0-9_-]{12,}|tgp_[A-Za-z0-9_-]{12,}|fw_[A-Za-z0-9]{12,}|AIza[A-Za-z0-9_-]{12,})"
)
_BEARER = re.compile(rb"(?i)\b(bearer\s+)[^\s\"',;\\]+")
_FIELD = re.compile(
    rb"(?i)(\b(?:x-api-key|x-goog-api-key|api[-_]?key|access[-_]token|client[-_]secret|secret|password"
    rb"|authorization)\b\\?[\"']?\s*[:=]\s*\\?[\"']?(?:basic\s+|bearer\s+)?)[^\s\"',;&\\}\])]+"
)
_QUERY = re.compile(rb"(?i)([?&](?:api_?)?(?:key|token)=)[^&\s\"'\\]+")
_USERINFO = re.compile(rb"(://[^/\s:@\"]*:)[^/\s@\"]+(?=@)")


class Masker:
    """Masks lines. `protect` adds the values that must never appear."""

    def __init__(self) -> None:
        self._known: dict[bytes, None] = {}
        self._values: re.Pattern[bytes] | None = None
        self._seen: dict[str, str] = {}

    def protect(self, secrets: Iterable[Secret]) -> None:
        """Mask these values from now on, wherever they stand."""
        for secret in secrets:
            text = secret.reveal()
            if len(text) >= KNOWN_CHARS_MIN:
                for form in (text.encode("utf-8", "replace"), jsonx.encode(text)[1:-1]):
                    self._known.pop(form, None)
                    self._known[form] = None
        while len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]
        if self._known:
            # Longest first: a secret that begins another one must not leave the rest of it standing.
            forms = sorted(self._known, key=len, reverse=True)
            self._values = re.compile(b"|".join(re.escape(form) for form in forms))
        self._seen.clear()

    def mask_text(self, text: str) -> str:
        """`text` without keys. For short texts that come again and again: answers are remembered."""
        masked = self._seen.get(text)
        if masked is None:
            masked = self.mask(text.encode("utf-8", "backslashreplace")).decode("utf-8", "replace")
            if len(self._seen) >= SEEN_MAX:
                self._seen.clear()
            if len(text) <= SEEN_CHARS_MAX:
                self._seen[text] = masked
        return masked

    def mask(self, line: bytes) -> bytes:
        """`line` without keys."""
        if self._values is not None:
            line = self._values.sub(STARS, line)
        lower = line.lower()
        for marker in _MARKERS:
            if marker in lower:
                return _mask_shapes(line)
        return line


def _mask_shapes(line: bytes) -> bytes:
    line = _BEARER.sub(rb"\1***", line)
    line = _FIELD.sub(rb"\1***", line)
    line = _QUERY.sub(rb"\1***", line)
    line = _USERINFO.sub(rb"\1***", line)
    return _TOKEN.sub(STARS, line)
