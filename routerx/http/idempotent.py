"""Requests that carry an Idempotency-Key: served once, and told again as often as they come."""

import asyncio

from routerx.dialects.multipart import boundary_of
from routerx.errors import RouterXError
from routerx.gateway.context import Answer, ClientStream, Inbound
from routerx.gateway.idempotency import (
    HEADER,
    Idempotency,
    Kept,
    Recorder,
    Room,
    Use,
    checked_key,
    digest_of,
    keep_whole,
)
from routerx.gateway.pipeline import Gateway
from routerx.http.inbound import Arrival
from routerx.tasks import TaskSet

Failed = RouterXError | ConnectionError


class OnceOnly:
    """Stands between the tenant API and the gateway, for these requests alone."""

    def __init__(self, gateway: Gateway, uses: Idempotency) -> None:
        self._gateway = gateway
        self._uses = uses
        self._room = Room()
        self._tasks = TaskSet()

    async def serve(self, arrival: Arrival, inbound: Inbound, client: ClientStream) -> Answer | None:
        """As Gateway.serve(). Raises InvalidParameter for a malformed key, and what Idempotency.begin() raises."""
        request = arrival.request
        key = checked_key(request.headers.getall(HEADER))
        tenant = inbound.principal.tenant
        # A key that is kept to some models must not get what another one was told.
        scope = digest_of(tenant.name.encode(), *(pattern.encode() for pattern in tenant.key_allow), key.encode())
        body = _unbounded(inbound.body, inbound.content_type)
        fingerprint = digest_of(request.method.encode(), request.path.encode("utf-8", "replace"), body)
        use = await self._uses.begin(scope, fingerprint, inbound.request_id)
        if isinstance(use, Kept):
            answer = use.answer()
            if answer is None:
                await use.stream_to(client)
            return answer
        task = self._tasks.spawn("keyed request", self._served(inbound, client, use))
        try:
            told = await asyncio.shield(task)
        except asyncio.CancelledError:
            # What is charged already is whole: it goes on to be kept for the caller's next try.
            if not use.charged:
                task.cancel()
                await asyncio.wait((task,))
            raise
        if isinstance(told, Exception):
            raise told
        return told

    async def _served(self, inbound: Inbound, client: ClientStream, use: Use) -> Answer | Failed | None:
        """Errors are returned: whoever waits raises them, and where nobody does any more, nobody is to be told."""
        recorder = Recorder(client, use, self._room)
        try:
            answer = await self._gateway.serve(inbound, recorder)
        except RouterXError as error:
            self._uses.leave(use, settles=False)
            return error
        except ConnectionError as error:
            self._uses.leave(use, settles=True)
            return error
        except asyncio.CancelledError:
            self._uses.leave(use, settles=True)
            raise
        except Exception:
            self._uses.abandon(use)
            raise
        finally:
            recorder.close()
        if answer is not None:
            keep_whole(use, answer)
        self._uses.leave(use, settles=True)
        return answer


def _unbounded(body: bytes, content_type: str) -> bytes:
    """A form without its boundary, which clients make up anew for every try."""
    boundary = boundary_of(content_type)
    return body if boundary is None else (b"\r\n" + body).replace(b"\r\n--" + boundary.encode(), b"\r\n--")
