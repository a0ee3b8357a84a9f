"""Embeddings as callers ask for them, where the provider has a wire of its own."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.openai_chat import OPENAI
from routerx.domain.embedding import EmbeddingAnswer, EmbeddingRequest
from routerx.domain.usage import Usage
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw, encode, request_object

ANSWER = EmbeddingAnswer(((0.5, -1.0), (0.25, 2.0)), "served", Usage(in_fresh=8))


def decoded(**fields: Any) -> EmbeddingRequest:
    assert OPENAI.embedding_source is not None
    return OPENAI.embedding_source.decode_request(request_object(encode({"model": "m", **fields})))


def told(answer: EmbeddingAnswer, request: EmbeddingRequest) -> dict[str, Any]:
    assert OPENAI.embedding_source is not None
    found: dict[str, Any] = json.loads(OPENAI.embedding_source.encode_answer(answer, request))
    return found


def test_one_text_and_several_are_asked_for_alike() -> None:
    assert decoded(input="a") == EmbeddingRequest(("a",))
    assert decoded(input=["a", "b"], dimensions=2, encoding_format="base64", user="u", input_type="query") == (
        EmbeddingRequest(("a", "b"), 2, base64=True, extras={"input_type": Raw(b'"query"')})
    )


@pytest.mark.parametrize("shape", [None, "float"])
def test_numbers_are_the_default(shape: str | None) -> None:
    assert decoded(input="a", encoding_format=shape).base64 is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2]}, "input"),
        ({"input": [[1], [2]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        decoded(**fields)
    assert refusal.value.param == param


def test_arrays_of_tokens_are_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidParameter, match="Send text"):
        decoded(input=[1, 2])


def test_vectors_are_told_in_their_order() -> None:
    assert told(ANSWER, EmbeddingRequest(("a", "b"))) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 2.0]},
        ],
        "model": "served",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8))
def test_base64_holds_little_endian_floats(vector: list[float]) -> None:
    text = told(EmbeddingAnswer((tuple(vector),)), EmbeddingRequest(("a",), base64=True))["data"][0]["embedding"]
    assert list(struct.unpack(f"<{len(vector)}f", base64.b64decode(text))) == vector


def test_a_number_too_large_for_a_float_does_not_break_the_answer() -> None:
    data = told(EmbeddingAnswer(((1e300,),)), EmbeddingRequest(("a",), base64=True))["data"]
    assert struct.unpack("<f", base64.b64decode(data[0]["embedding"])) == (float("inf"),)
