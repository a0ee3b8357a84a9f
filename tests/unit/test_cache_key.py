"""Which requests the response cache takes for equal."""

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.responses import RESPONSES
from routerx.domain.call import Operation
from routerx.domain.wishes import NO_STEERING, Steering, Wishes
from routerx.gateway.cache import cache_key

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(["model", "messages", "seed", "tools", "stop", "temperature"]), VALUES)
NOTHING = {"stream": True, "stream_options": {"include_usage": True}, "user": "u", "metadata": {"a": "b"}}


def key(body: bytes, dialect: Any = OPENAI, **other: Any) -> bytes:
    """Of a request with this body, and otherwise like all here but for `other`."""
    tenant = SimpleNamespace(name=other.get("tenant", "acme"), key_allow=other.get("key_allow", ()))
    inbound: Any = SimpleNamespace(
        principal=SimpleNamespace(tenant=tenant),
        dialect=dialect,
        operation=other.get("operation", Operation.CHAT),
        steering=other.get("steering", NO_STEERING),
        headers=other.get("headers", {}),
        body=body,
    )
    ctx: Any = SimpleNamespace(
        inbound=inbound,
        peek=SimpleNamespace(model=other.get("model", "solo")),
        snapshot=SimpleNamespace(generation=other.get("generation", 1)),
    )
    return cache_key(ctx)


def digest(body: Any, dialect: Any = OPENAI, **how: Any) -> bytes:
    return key(json.dumps(body, **how).encode(), dialect)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(BODIES)
@settings(max_examples=60)
def test_order_and_white_space_do_not_count(body: dict[str, Any]) -> None:
    assert digest(body) == digest(shuffled(body), indent=3) == digest(body, separators=(",", ":"))


@given(BODIES)
@settings(max_examples=60)
def test_what_makes_no_other_answer_does_not_count(body: dict[str, Any]) -> None:
    assert digest(body) == digest({**body, **NOTHING, "n": 1})


@given(BODIES, BODIES)
@settings(max_examples=60)
def test_what_differs_counts(one: dict[str, Any], other: dict[str, Any]) -> None:
    told = [json.dumps(body, sort_keys=True) for body in (one, other)]
    assert (digest(one) == digest(other)) is (told[0] == told[1])


def test_true_is_no_one() -> None:
    assert digest({"n": True}) != digest({}) == digest({"n": 1})


def test_what_an_answer_tells_back_counts() -> None:
    assert digest({"metadata": {"a": "b"}}, RESPONSES) != digest({}, RESPONSES)


def test_whose_it_is_and_of_whom_count() -> None:
    others: list[dict[str, Any]] = [
        {},
        {"tenant": "rival"},
        {"key_allow": ("solo",)},
        {"key_allow": ("solo", "flat")},
        {"key_allow": ("solo\0flat",)},
        {"generation": 2},
        {"dialect": RESPONSES},
        {"operation": Operation.COMPLETIONS},
        {"model": "duo"},
        {"headers": {"anthropic-beta": "a"}},
        {"headers": {"anthropic-beta": "b"}},
        *({"steering": Steering(wishes=wishes)} for wishes in (Wishes(only=("a",)), Wishes(order=("a",)))),
    ]
    assert len({key(b"{}", **other) for other in others}) == len(others)


def test_what_changes_no_answer_does_not_count() -> None:
    steering = Steering(metadata=True, deadline_s=1.0, session="s", cache=True)
    assert key(b"{}", steering=steering) == key(b"{}")
    ways = [frozenset(names) for names in (("seed", "stop", "tools", "top_k"), ("top_k", "tools", "stop", "seed"))]
    assert len({key(b"{}", steering=Steering(wishes=Wishes(parameters=way))) for way in ways}) == 1
