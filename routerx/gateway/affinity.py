"""Cache affinity, opt-in (policy `affinity`): a conversation goes back to the endpoint that answered it last, because
the provider has read its beginning already and reads it cheaper a second time.

A preference, never a bar: an endpoint that is not in the plan, or stands behind others by priority, is not preferred.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from routerx.domain.call import Candidate, Plan
from routerx.gateway.context import RequestContext
from routerx.jsonx import Raw

SEATS_MAX = 50_000
"""Conversations kept; the one that was quiet longest goes first."""

_STANDING = ("system", "instructions", "systemInstruction", "system_instruction")
"""Where the wires have what stands before all messages …"""
_MESSAGES = ("messages", "contents", "input")
"""… and the messages."""
_SYSTEM = frozenset({"system", "developer"})
OPENING_MAX = 8
"""Messages looked through for the first one that is not the system's."""


class _Turn(msgspec.Struct):
    role: str = ""


_turns = msgspec.json.Decoder(list[Raw])
_turn = msgspec.json.Decoder(_Turn)


class Affinity:
    """Seats of conversations. In memory: after a restart every conversation is new."""

    __slots__ = ("_seats",)

    def __init__(self) -> None:
        self._seats: dict[bytes, tuple[str, float]] = {}
        """Endpoint key, and the monotonic time at which the seat is given up."""

    def seated(self, conversation: bytes, plan: Plan, now_s: float) -> Plan:
        """The plan, with the conversation's endpoint first where that changes nothing but the order of equals."""
        seat = self._seats.get(conversation)
        if seat is None or seat[1] <= now_s:
            return plan
        first, *rest = plan.candidates
        for candidate in rest:
            if candidate.endpoint.key == seat[0] and _are_equals(first, candidate):
                others = tuple(other for other in plan.candidates if other is not candidate)
                return msgspec.structs.replace(plan, candidates=(candidate, *others))
        return plan

    def sit(self, conversation: bytes, candidate: Candidate, until_s: float) -> None:
        """Keep the seat at the endpoint that answered."""
        self._seats.pop(conversation, None)
        if not _caches(candidate):
            return
        if len(self._seats) >= SEATS_MAX:
            del self._seats[next(iter(self._seats))]
        self._seats[conversation] = (candidate.endpoint.key, until_s)


def conversation_of(ctx: RequestContext) -> bytes | None:
    """What tells a conversation from others of its tenant: the caller's session, else how it opens."""
    assert ctx.peek is not None
    opening = ctx.inbound.steering.session
    told = opening.encode("utf-8", "replace") if opening is not None else _named(ctx.fields) or _opening(ctx.fields)
    if not told:
        return None
    whose = f"{ctx.principal.tenant.name}\0{ctx.peek.model}\0".encode("utf-8", "replace")
    return hashlib.blake2b(whose + told, digest_size=16).digest()


def _named(fields: Mapping[str, Raw]) -> bytes:
    for name in ("session_id", "prompt_cache_key"):
        if name in fields:
            return bytes(fields[name])
    return b""


def _opening(fields: Mapping[str, Raw]) -> bytes:
    """The first system message and the first other one, as the caller wrote them."""
    parts = [bytes(fields[name]) for name in _STANDING if name in fields]
    for name in _MESSAGES:
        if name not in fields:
            continue
        try:
            for turn in _turns.decode(fields[name])[:OPENING_MAX]:
                parts.append(bytes(turn))
                if _turn.decode(turn).role not in _SYSTEM:
                    break
        except msgspec.DecodeError:  # No list of messages: one text.
            parts.append(bytes(fields[name]))
    return b"\0".join(parts)


def _are_equals(first: Candidate, other: Candidate) -> bool:
    return (
        not other.is_fallback_model
        and not first.is_fallback_model
        and other.own_key == first.own_key
        and first.endpoint.priority == other.endpoint.priority
    )


def _caches(candidate: Candidate) -> bool:
    """Whether coming back can pay: reading what it has cached is cheaper, or nobody knows what it costs."""
    price = candidate.endpoint.price
    if candidate.is_fallback_model:
        return False
    return price is None or (price.cache_read_pico is not None and price.cache_read_pico < price.input_pico)
