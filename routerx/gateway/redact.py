"""What a provider was sent in confidence must not come back through its error messages.

Dialects take out what looks like a key. A key may look like anything, so here it is taken out by its value: the
credential of the call and the headers that the operator configured.
"""

import re

import msgspec

from routerx.domain.failure import Failure
from routerx.providers.spec import Credential, Provider

MASK = "[redacted]"
SECRET_CHARS_MIN = 6
"""A shorter value would take ordinary words out, as in the log's masking."""


def redacted(failure: Failure, provider: Provider, credential: Credential) -> Failure:
    """`failure` without the secrets that its call carried."""
    secrets = [value for _, value in provider.headers]
    if credential.secret is not None:
        secrets.append(credential.secret.reveal())
    message, code, param = failure.message, failure.upstream_code, failure.param
    for secret in sorted(secrets, key=len, reverse=True):  # One may begin another.
        if len(secret) >= SECRET_CHARS_MIN:
            message = _without(message, secret)
            code = None if code is None else _without(code, secret)
            param = None if param is None else _without(param, secret)
    if (message, code, param) == (failure.message, failure.upstream_code, failure.param):
        return failure
    return msgspec.structs.replace(failure, message=message, upstream_code=code, param=param)


def _without(text: str, secret: str) -> str:
    """In any case, as host names lose theirs; also its beginning, where it stands at the end of a text that was cut."""
    text = re.sub(re.escape(secret), MASK, text, flags=re.IGNORECASE)
    body = text.removesuffix("…")
    lower, prefix = body.lower(), secret.lower()
    for size in range(min(len(prefix) - 1, len(body)), SECRET_CHARS_MIN - 1, -1):
        if lower.endswith(prefix[:size]):
            return body[:-size] + MASK
    return text
