"""Which requests the response cache takes for equal."""

import json
from typing import Any
from unittest.mock import Mock

from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.responses import RESPONSES
from routerx.gateway.cache import body_digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(["model", "messages", "seed", "tools", "stop", "temperature"]), VALUES)
NOTHING = {"stream": True, "stream_options": {"include_usage": True}, "user": "u", "metadata": {"a": "b"}}


def digest(body: Any, dialect: Any = OPENAI, **how: Any) -> bytes:
    return body_digest(Mock(body=json.dumps(body, **how).encode(), dialect=dialect))


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
    plain = {name: value for name, value in body.items() if name != "temperature"}
    assert digest(plain) == digest({**plain, **NOTHING, "n": 1, "temperature": 1.0, "top_p": 1})


@given(BODIES, BODIES)
@settings(max_examples=60)
def test_what_differs_counts(one: dict[str, Any], other: dict[str, Any]) -> None:
    told = [
        json.dumps({k: v for k, v in body.items() if (k, v) != ("temperature", 1) or v is True}, sort_keys=True)
        for body in (one, other)
    ]
    assert (digest(one) == digest(other)) is (told[0] == told[1])


def test_true_is_no_one() -> None:
    assert digest({"n": True}) != digest({}) == digest({"n": 1})


def test_what_an_answer_tells_back_counts() -> None:
    assert digest({"metadata": {"a": "b"}}, RESPONSES) != digest({}, RESPONSES)
