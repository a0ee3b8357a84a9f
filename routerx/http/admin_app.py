"""The admin API's door: matches its routes and says who is asking, on the public port and on the Unix socket alike."""

import re
import socket
from collections.abc import Sequence
from types import MappingProxyType
from typing import cast

from aiohttp import web

from routerx.errors import InvalidApiKey, MethodNotAllowed, NotFound
from routerx.http.edge import EdgeRequest
from routerx.http.inbound import presented_key
from routerx.secrets import key_digest, key_id

_PLACE = re.compile(r"\{(\w+)(?::([^}]+))?\}")


class AdminApp:
    """Dispatches admin requests. Few routes and few calls: patterns are tried in order."""

    def __init__(self, routes: Sequence[web.RouteDef]) -> None:
        self._routes = tuple((route.method, _compiled(route.path), route.handler) for route in routes)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer, or raise NotFound or MethodNotAllowed."""
        assert isinstance(request, EdgeRequest)
        allowed: list[str] = []
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(request.path)
            if match is None:
                continue
            if method == request.method:
                request.match_info = MappingProxyType(match.groupdict())
                return await handler(cast(web.Request, request))
            allowed.append(method)
        if allowed:
            raise MethodNotAllowed(f"{request.method} is not possible here; use {', '.join(sorted(allowed))}.")
        raise NotFound(f"There is no admin route {request.path[:128]!r}.")


def _compiled(path: str) -> re.Pattern[str]:
    """aiohttp's route syntax, `{name}` and `{name:regex}`, as a pattern of the whole path."""
    parts: list[str] = []
    end = 0
    for place in _PLACE.finditer(path):
        parts += [
            re.escape(path[end : place.start()]),
            f"(?P<{place[1]}>{place[2] if place[2] is not None else '[^/]+'})",
        ]
        end = place.end()
    return re.compile("".join(parts) + re.escape(path[end:]))


SOCKET_ACTOR = "socket"


def admin_actor(request: web.BaseRequest, digests: frozenset[str]) -> str:
    """Who an admin request is from: `socket` on the Unix socket, which only this user can open (0600), else the public
    name of its admin key. Raises InvalidApiKey.

    The key's hash is looked up, so the time it takes says nothing about the keys there are.
    """
    transport = request.transport
    if transport is not None and transport.get_extra_info("socket").family == socket.AF_UNIX:
        return SOCKET_ACTOR
    key = presented_key(request, None)
    if key is not None and (digest := key_digest(key)) in digests:
        return key_id(digest)
    raise InvalidApiKey("The admin API needs an admin key of this gateway (server.admin_keys).")
