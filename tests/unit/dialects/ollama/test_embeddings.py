"""Embeddings of /api/embed, after the public documentation of Ollama's API."""

import pytest

from routerx.dialects.base import Aim, Encoded, Reply
from routerx.dialects.ollama import OLLAMA
from routerx.domain.call import Operation
from routerx.domain.embedding import EmbeddingAnswer, EmbeddingRequest
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

BODY = (
    b'{"model":"all-minilm","embeddings":[[0.5,-1],[0.25,2]],"total_duration":14143917,"load_duration":1019500,'
    b'"prompt_eval_count":8}'
)
AIM = Aim(model="all-minilm")


def written(request: EmbeddingRequest) -> Encoded:
    assert OLLAMA.embedding_target is not None
    return OLLAMA.embedding_target.encode_request(request, AIM)


def test_texts_go_out_and_are_not_to_be_cut() -> None:
    assert written(EmbeddingRequest(("a", "b"), dimensions=2)) == Encoded(
        {"model": "all-minilm", "input": ["a", "b"], "dimensions": 2, "truncate": False}
    )


def test_a_caller_may_have_long_texts_cut() -> None:
    assert written(EmbeddingRequest(("a",), extras={"truncate": Raw(b"true")})).fields["truncate"] == Raw(b"true")


def test_native_extras_pass_and_others_are_reported() -> None:
    extras = {"keep_alive": Raw(b'"1h"'), "num_ctx": Raw(b"512"), "input_type": Raw(b'"query"')}
    encoded = written(EmbeddingRequest(("a",), extras=extras))
    assert (encoded.fields["keep_alive"], encoded.fields["options"]) == (Raw(b'"1h"'), {"num_ctx": 512})
    assert encoded.dropped == ("input_type",)


def test_vectors_are_read_in_their_order_with_what_they_used() -> None:
    assert OLLAMA.embedding_target is not None
    assert OLLAMA.embedding_target.decode_answer(BODY) == EmbeddingAnswer(
        ((0.5, -1.0), (0.25, 2.0)), "all-minilm", Usage(in_fresh=8)
    )
    assert OLLAMA.read_reply(Operation.EMBEDDINGS, "application/json", BODY) == Reply(
        Usage(in_fresh=8), False, "all-minilm"
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"embeddings":[]}', FailureKind.EMPTY),
        (b'{"embeddings":[[]]}', FailureKind.EMPTY),
        (b'{"embeddings":[["x"]]}', FailureKind.BAD_CONTENT_TYPE),
        (b'{"model":"m"}', FailureKind.BAD_CONTENT_TYPE),
        (b'{"error":"the input length exceeds the context length"}', FailureKind.ERROR_IN_200),
    ],
)
def test_a_reply_without_vectors_is_a_failure(body: bytes, kind: FailureKind) -> None:
    failure = OLLAMA.read_reply(Operation.EMBEDDINGS, "application/json", body)
    assert isinstance(failure, Failure)
    assert failure.kind is kind
