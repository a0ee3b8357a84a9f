"""What routes of the admin API are made of: one guard, one shape of errors, strict reading of bodies and queries."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from routerx import jsonx
from routerx.clock import Clock
from routerx.errors import InternalError, InvalidJson, InvalidParameter, RequestTimeout, RequestTooLarge, RouterXError
from routerx.ids import new_request_id

log = logging.getLogger("routerx.http.admin")

BODY_BYTES_MAX = 64 * 1024
BODY_TIMEOUT_S = 10.0

T = TypeVar("T")
Authorize = Callable[[web.Request], str]
Answer = Callable[[web.Request, str], Awaitable[object]]
"""A route's own part: the request and the actor in, a value to encode out (or a response already under way)."""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An empty body."""


def guarded(
    clock: Clock, authorize: Authorize, answer: Answer
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A request root: authorise, answer, turn every error into the one shape."""

    async def handle(request: web.Request) -> web.StreamResponse:
        request_id = new_request_id(clock.now_ns())
        try:
            value = await answer(request, authorize(request))
        except RouterXError as error:
            return _error(error, request_id)
        except Exception:
            log.exception("admin request %s failed: %s %s", request_id, request.method, request.path)
            return _error(InternalError("This is a fault of RouterX; its log says more."), request_id)
        if isinstance(value, web.StreamResponse):
            return value
        return _json(jsonx.encode(value), 200, request_id)

    return handle


def _json(body: bytes, status: int, request_id: str) -> web.Response:
    headers = {"X-Request-Id": request_id, "Cache-Control": "no-store"}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def _error(error: RouterXError, request_id: str) -> web.Response:
    body = {
        **error.details,
        "message": error.message,
        "type": error.type,
        "code": error.code,
        "param": error.param,
        "request_id": request_id,
    }
    response = _json(jsonx.encode({"error": body}), error.status, request_id)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, -int(-error.retry_after_s // 1)))
    return response


async def read_body(request: web.Request, shape: type[T]) -> T:
    """The JSON body as `shape`, whatever the content type says; an empty body is an empty object."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = bytearray()
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise RequestTooLarge(f"The body is over the admin API's limit of {BODY_BYTES_MAX} bytes.")
    except TimeoutError:
        raise RequestTimeout(f"The body was not here after {BODY_TIMEOUT_S:g} s.") from None
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=shape)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"{error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not a JSON object: {error}.") from None


def read_query(request: web.BaseRequest, *names: str) -> dict[str, str]:
    """The query's parameters; an unknown, repeated or empty one is refused rather than ignored."""
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in names:
            known = f"; known: {', '.join(names)}" if names else ""
            raise InvalidParameter(f"There is no parameter {name!r} here{known}.", param=name)
        if name in values or not value:
            raise InvalidParameter(f"{name} is to be given once, with a value.", param=name)
        values[name] = value
    return values


def read_flag(values: dict[str, str], name: str) -> bool:
    if values.get(name) not in (None, "true", "false"):
        raise InvalidParameter(f"{name} must be true or false, not {values[name]!r}.", param=name)
    return values.get(name) == "true"


def read_number(values: dict[str, str], name: str, default: int) -> int:
    """A whole number of the query. Raises InvalidParameter."""
    text = values.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidParameter(f"{name} must be a whole number, not {text!r}.", param=name)
    return int(text)
