"""Models that refuse sampling parameters, and such that always think, are not sent what they refuse."""

from typing import Any

import pytest

from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Aim
from routerx.dialects.gemini import GEMINI
from routerx.domain.chat import ChatRequest, Message, ReasoningWish, Role, Sampling, Text
from routerx.domain.model import EVERYTHING, Capability
from routerx.providers.catalogue import load_catalogue

ASK = (Message(Role.USER, (Text("Hi."),)),)
FIXED = EVERYTHING | {Capability.FIXED_SAMPLING}
OURS = {"temperature", "top_p", "top_k", "topP", "topK"}


@pytest.mark.parametrize("dialect", [ANTHROPIC, GEMINI])
def test_a_model_of_fixed_sampling_is_sent_none_and_what_is_lost_is_said(dialect: Any) -> None:
    request = ChatRequest(messages=ASK, sampling=Sampling(temperature=0.3, top_p=1.0, top_k=40))

    got = dialect.target.encode_request(request, Aim(model="m", capabilities=FIXED))

    assert not OURS & {*got.fields, *got.fields.get("generationConfig", {})}
    assert got.dropped == ("temperature", "top_k")


def test_an_endpoint_of_which_nothing_is_said_has_no_restrictions() -> None:
    assert not EVERYTHING & {Capability.FIXED_SAMPLING, Capability.ALWAYS_REASONS}
    assert Capability.TOOLS in EVERYTHING


def test_a_model_that_always_thinks_is_not_told_to_stop() -> None:
    request = ChatRequest(messages=ASK, reasoning=ReasoningWish(effort="none"))

    always = ANTHROPIC.target.encode_request(
        request, Aim(model="m", capabilities=EVERYTHING | {Capability.ALWAYS_REASONS})
    )
    other = ANTHROPIC.target.encode_request(request, Aim(model="m", capabilities=EVERYTHING))

    assert ("thinking" in always.fields, always.dropped) == (False, ("reasoning_effort",))
    assert (other.fields["thinking"], other.dropped) == ({"type": "disabled"}, ())


def test_the_catalogue_knows_whom_this_is_about() -> None:
    models = load_catalogue()

    fixed = {name for name, model in models.items() if Capability.FIXED_SAMPLING in model.capabilities}
    assert {"claude-opus-4-7", "gemini-3.6-flash"} <= fixed
    assert "claude-sonnet-4-5" not in fixed
