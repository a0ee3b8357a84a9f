"""The built-in faulty provider: Transports that fail in one way each, for `routerx drill`.

One Stage is one scene: the provider that is asked first in it has the fault, all others answer well, and nothing leaves
the process. Faults keep the deadlines of the call they are played to, and raise what a real transport raises, so that
everything above (plan, retries, circuits, rescue, charge) is the gateway's own. All providers speak the OpenAI wire.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from routerx import jsonx
from routerx.clock import Clock
from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.providers.spec import Provider
from routerx.upstream import mock_chat
from routerx.upstream.base import Transport, UpstreamReply
from routerx.upstream.faults import failure
from routerx.upstream.pool import TransportPool

TEXT = "".join(f" word{number}" for number in range(1, 61)).strip()
"""What every provider says, in 60 tokens, unless the fault is that they differ."""
OTHER_TEXT = "".join(f" other{number}" for number in range(1, 61)).strip()
CONTINUATION = "".join(f" further{number}" for number in range(1, 41))
"""What a provider says that is given the beginning of another's answer, to go on with."""
DELIVERED_TOKENS = 20
"""Of a stream that breaks or falls silent."""
SLOW_S = 20.0
"""Until a slow first token; longer than the default deadline while another candidate is left."""
RETRY_AFTER_S = 2

_SSE = "text/event-stream; charset=utf-8"
_JSON = "application/json"


class Pause(msgspec.Struct, frozen=True):
    """Silence on an open connection."""

    seconds: float


class Break(msgspec.Struct, frozen=True):
    """The connection ends, as the kind says."""

    kind: FailureKind


Step = bytes | Pause | Break


class Scene(msgspec.Struct, frozen=True):
    """One call to one provider."""

    call: UpstreamCall
    clock: Clock
    nth: int
    """1 for the first call to it."""
    since_s: float
    """Seconds since that one."""
    text: str = TEXT
    """What it says when it is well."""

    def answer(self) -> "Played":
        """A good answer."""
        return Played(self, self.frames() if self.call.stream else [self.body()])

    def frames(self) -> list[bytes]:
        """Of a good stream."""
        request = mock_chat.parse(self.call.body)
        options = request.stream_options
        usage = options is not None and options.include_usage is True
        return mock_chat.as_frames(_said(request, self.text), include_usage=usage)

    def body(self) -> bytes:
        """Of a good buffered answer."""
        return mock_chat.as_completion(_said(mock_chat.parse(self.call.body), self.text))

    def error(self, status: int, code: str | None = None, retry_after_s: int | None = None) -> "Played":
        body = {"error": {"message": "The drill's provider refuses.", "type": "drill", "param": None, "code": code}}
        more = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
        return Played(self, (jsonx.encode(body),), status=status, content_type=_JSON, headers=more)

    def fault(self, kind: FailureKind) -> UpstreamFault:
        return UpstreamFault(failure(kind, self.call))


Play = Callable[[Scene], Awaitable[UpstreamReply]]


class Fault(msgspec.Struct, frozen=True):
    """One way to fail."""

    name: str
    says: str
    """For people."""
    play: Play
    survivable: bool = True
    """Another provider, or the same one later, can give the caller a whole answer."""
    everywhere: bool = False
    """All providers have it."""
    differing: bool = False
    """Providers say different things, so that no stream goes on with another's text."""
    modes: frozenset[bool] = frozenset({True, False})
    """Whether it exists for streams (True), for buffered answers (False)."""


class Stage(TransportPool):
    """The transports of one scene, in the place of the network's."""

    def __init__(self, fault: Fault, clock: Clock) -> None:
        super().__init__(clock)
        self.fault = fault
        self.first: str | None = None
        """The provider that was asked first."""
        self.first_s = 0.0
        self.calls = 0
        """To providers with the fault."""
        self.whole = {TEXT, OTHER_TEXT}
        """The texts that are whole answers. Of two glued together neither is."""

    def get(self, provider: Provider) -> Transport:
        return _Actor(self, provider, self._clock)


class _Actor:
    """One provider on the stage."""

    def __init__(self, stage: Stage, provider: Provider, clock: Clock) -> None:
        self._stage = stage
        self._provider = provider
        self._clock = clock

    async def open(self, call: UpstreamCall) -> UpstreamReply:
        stage, now_s = self._stage, self._clock.monotonic_s()
        if begun := _begun(mock_chat.parse(call.body)):
            stage.whole.add(begun + CONTINUATION)
        if stage.first is None:
            stage.first, stage.first_s = self._provider.name, now_s
        if not stage.fault.everywhere and self._provider.name != stage.first:
            return Scene(call, self._clock, 1, 0.0, OTHER_TEXT if stage.fault.differing else TEXT).answer()
        stage.calls += 1
        return await stage.fault.play(Scene(call, self._clock, stage.calls, now_s - stage.first_s))

    async def close(self) -> None:
        """Nothing is held."""


class Played:
    """A reply in steps; see UpstreamReply."""

    def __init__(
        self,
        scene: Scene,
        steps: Sequence[Step],
        *,
        status: int = 200,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        scene.call.progress.sent = True
        kind = content_type if content_type is not None else _SSE if scene.call.stream else _JSON
        self.status = status
        self.headers: Mapping[str, str] = CIMultiDictProxy(CIMultiDict({"content-type": kind, **(headers or {})}))
        self._scene = scene
        self._steps = list(steps)

    async def read(self, bytes_max: int) -> bytes:
        body = bytearray()
        while piece := await self.chunk():
            body += piece
            if len(body) > bytes_max:
                raise self._scene.fault(FailureKind.TOO_LARGE)
        return bytes(body)

    async def chunk(self) -> bytes:
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, Pause):
                idle_s = self._scene.call.timeouts.idle_s
                await self._scene.clock.sleep(min(step.seconds, idle_s))
                if step.seconds >= idle_s:
                    raise self._scene.fault(FailureKind.STALLED)
            elif isinstance(step, Break):
                raise self._scene.fault(step.kind)
            else:
                return step
        return b""

    def release(self) -> None:
        self._steps.clear()

    def abort(self) -> None:
        self._steps.clear()


def _said(request: mock_chat.ChatRequest, text: str) -> mock_chat.Answer:
    """`text`; where the request ends with the beginning of an answer, what comes after that."""
    begun = _begun(request)
    if begun:
        text = text[len(begun) :] if text.startswith(begun) else CONTINUATION
    tokens = sum(mock_chat.count_tokens(message.text) + mock_chat.MESSAGE_TOKENS for message in request.messages)
    choice = mock_chat.Choice(mock_chat.pieces(text), "stop")
    return mock_chat.Answer("chatcmpl-drill", request.model, [choice], tokens)


def _begun(request: mock_chat.ChatRequest) -> str:
    """The beginning of an answer that it is to go on with."""
    last = request.messages[-1]
    return last.text if last.role == "assistant" else ""


# --- the faults


async def _none(scene: Scene) -> UpstreamReply:
    return scene.answer()


async def _refused(scene: Scene) -> UpstreamReply:
    raise scene.fault(FailureKind.CONNECT_ERROR)


async def _no_connection(scene: Scene) -> UpstreamReply:
    await scene.clock.sleep(scene.call.timeouts.connect_s)
    raise scene.fault(FailureKind.CONNECT_TIMEOUT)


async def _no_address(scene: Scene) -> UpstreamReply:
    raise scene.fault(FailureKind.DNS_ERROR)


async def _silent(scene: Scene) -> UpstreamReply:
    scene.call.progress.sent = True
    await scene.clock.sleep(scene.call.first_byte_s)
    raise scene.fault(FailureKind.FIRST_BYTE_TIMEOUT)


async def _slow(scene: Scene) -> UpstreamReply:
    scene.call.progress.sent = True
    if scene.call.stream:
        return Played(scene, (Pause(SLOW_S), *scene.frames()))
    await scene.clock.sleep(min(SLOW_S, scene.call.first_byte_s))
    if scene.call.first_byte_s <= SLOW_S:
        raise scene.fault(FailureKind.FIRST_BYTE_TIMEOUT)
    return scene.answer()


async def _error_once(scene: Scene) -> UpstreamReply:
    return scene.error(500) if scene.nth == 1 else scene.answer()


async def _error(scene: Scene) -> UpstreamReply:
    return scene.error(503)


async def _limited_for_a_while(scene: Scene) -> UpstreamReply:
    if scene.since_s < RETRY_AFTER_S:
        return scene.error(429, "rate_limit_exceeded", RETRY_AFTER_S)
    return scene.answer()


async def _limited(scene: Scene) -> UpstreamReply:
    return scene.error(429, "rate_limit_exceeded")


async def _key_refused(scene: Scene) -> UpstreamReply:
    return scene.error(401, "invalid_api_key")


async def _out_of_money(scene: Scene) -> UpstreamReply:
    return scene.error(429, "insufficient_quota")


async def _context_exceeded(scene: Scene) -> UpstreamReply:
    return scene.error(400, "context_length_exceeded")


async def _content_rejected(scene: Scene) -> UpstreamReply:
    return scene.error(400, "content_policy_violation")


async def _overloaded(scene: Scene) -> UpstreamReply:
    return scene.error(529, "overloaded_error")


async def _cut_before_headers(scene: Scene) -> UpstreamReply:
    scene.call.progress.sent = True
    raise scene.fault(FailureKind.RESET_BEFORE_OUTPUT)


async def _cut(scene: Scene) -> UpstreamReply:
    kind = FailureKind.RESET_MIDSTREAM if scene.call.stream else FailureKind.TRUNCATED
    return Played(scene, (*_beginning(scene), Break(kind)))


async def _stalled(scene: Scene) -> UpstreamReply:
    return Played(scene, (*_beginning(scene), Pause(math.inf)))


async def _malformed(scene: Scene) -> UpstreamReply:
    if scene.call.stream:
        return Played(scene, (*_beginning(scene), b'data: {"choices":[{"del\n\n'))
    return Played(scene, (b'{"choices":[{"mess',))


async def _no_end_mark(scene: Scene) -> UpstreamReply:
    return Played(scene, (*scene.frames()[:-1], Pause(math.inf)))


async def _page(scene: Scene) -> UpstreamReply:
    return Played(scene, (b"<!DOCTYPE html><title>Log in</title>",), content_type="text/html")


async def _empty(scene: Scene) -> UpstreamReply:
    return Played(scene, ())


def _beginning(scene: Scene) -> list[bytes]:
    """The first frames of a stream, half of a buffered answer."""
    if scene.call.stream:
        return scene.frames()[: 1 + DELIVERED_TOKENS]
    body = scene.body()
    return [body[: len(body) // 2]]


_STREAMED = frozenset({True})

WELL = Fault("none", "every provider is well", _none)
"""Not a fault: what is compared with."""

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("refused", "connection refused", _refused),
        Fault("connect-timeout", "no connection within its deadline", _no_connection),
        Fault("dns", "its host name is not found", _no_address),
        Fault("silent", "accepts the call and never answers", _silent),
        Fault("slow-first-token", f"first token after {SLOW_S:g} s", _slow),
        Fault("500-once", "500 once, then well", _error_once),
        Fault("503", "503 for ever", _error),
        Fault("429-retry-after", f"429, Retry-After: {RETRY_AFTER_S}, then well", _limited_for_a_while),
        Fault("429", "429 for ever", _limited),
        Fault("401", "its key is refused", _key_refused),
        Fault("out-of-money", "its account is exhausted", _out_of_money),
        Fault("overloaded", "529 overloaded", _overloaded),
        Fault("context-exceeded", "the prompt is too long for it", _context_exceeded, survivable=False),
        Fault("content-rejected", "it rejects the content", _content_rejected, survivable=False),
        Fault("cut-before-headers", "reset before any answer", _cut_before_headers),
        Fault("cut", "cut in the middle of its answer", _cut),
        Fault("cut-differing", "cut, and the others say something else", _cut, False, False, True, _STREAMED),
        Fault("stalled", "falls silent in the middle of its answer", _stalled),
        Fault("malformed", "invalid JSON in its answer", _malformed),
        Fault("no-done", "a whole answer without its end mark", _no_end_mark, modes=_STREAMED),
        Fault("html", "an HTML page in place of an answer", _page),
        Fault("empty", "an empty answer", _empty),
        Fault("all-down", "503 from every provider", _error, survivable=False, everywhere=True),
    )
}
"""By name, in the order in which they are played."""
