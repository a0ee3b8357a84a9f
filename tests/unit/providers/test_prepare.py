"""Preparing a call: exact bytes out, an allowlist of headers, and one build per credential."""

from typing import Any

import msgspec
import pytest

from routerx import __version__
from routerx.domain.call import Operation, UpstreamCall
from routerx.domain.model import Endpoint
from routerx.domain.policy import Timeouts
from routerx.errors import ConfigError
from routerx.jsonx import request_object
from routerx.providers.prepare import BASES_MAX, Draft, Preparer, Target, header_problem
from routerx.providers.quirks import Quirk
from routerx.providers.spec import Auth, Credential, Provider, Wire
from routerx.secrets import Secret

KEY = "sk-test-0123456789"


def credential(secret: str | None = KEY, number: int = 0) -> Credential:
    return Credential(id=f"lab-{number}", secret=None if secret is None else Secret(secret))


def provider(**changes: object) -> Provider:
    base = Provider(
        name="lab", dialect="openai", base_url="https://lab.test/v1", auth=Auth.BEARER, credentials=(credential(),)
    )
    return msgspec.structs.replace(base, **changes)


def endpoint() -> Endpoint:
    return Endpoint(
        key="lab/big-1", provider="lab", model="big", upstream_model="big-1", price=None, capabilities=frozenset()
    )


LAB = provider()
LAB_KEY = credential()


def prepare(
    body: bytes = b'{"model":"big-1","messages":[]}',
    *,
    provider: Provider = LAB,
    credential: Credential = LAB_KEY,
    preparer: Preparer | None = None,
    **drafted: Any,
) -> UpstreamCall:
    as_usual = {"operation": Operation.CHAT, "wire": Wire("openai"), "path": "/chat/completions", "stream": False}
    draft = Draft(fields=request_object(body), **(as_usual | drafted))
    preparer = Preparer() if preparer is None else preparer
    return preparer.call(Target(provider, credential, endpoint(), provider.timeouts), draft, 12.0)


def test_fields_keep_their_exact_bytes() -> None:
    body = b'{"model":"big-1","messages":[{"role":"user","content":"\\u00e9 1.0"}],"temperature":1.00,"x":[1,  2]}'

    assert prepare(body).body == body


def test_quirks_of_the_provider_reach_the_body() -> None:
    prepared = prepare(
        b'{"model":"big-1","max_completion_tokens":9}', provider=provider(quirks=frozenset({Quirk.MAX_TOKENS}))
    )

    assert prepared.body == b'{"model":"big-1","max_tokens":9}'


def test_the_call_carries_target_deadlines_and_proxy() -> None:
    via = provider(proxy="http://proxy.test:3128")

    call = prepare(provider=via)

    assert (call.method, call.url) == ("POST", "https://lab.test/v1/chat/completions")
    assert (call.endpoint, call.provider, call.proxy) == ("lab/big-1", "lab", "http://proxy.test:3128")
    assert call.timeouts is via.timeouts
    assert call.first_byte_s == 12.0


def test_embeddings_go_to_their_own_path() -> None:
    assert prepare(operation=Operation.EMBEDDINGS, path="/embeddings").url == "https://lab.test/v1/embeddings"


def test_nothing_but_the_allowlist_is_sent() -> None:
    call = prepare(provider=provider(headers=(("X-Team", "blue"),)))

    assert dict(call.headers) == {
        "user-agent": f"routerx/{__version__}",
        "X-Team": "blue",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
    }


def test_a_wire_of_its_own_lies_below_the_base_url() -> None:
    call = prepare(wire=Wire("anthropic", "/anthropic/v1"), path="/messages")

    assert call.url == "https://lab.test/v1/anthropic/v1/messages"


def test_quirks_are_of_one_wire_and_leave_the_others_alone() -> None:
    limited = provider(quirks=frozenset({Quirk.MAX_TOKENS}))

    call = prepare(b'{"max_completion_tokens":9}', provider=limited, wire=Wire("responses"))

    assert call.body == b'{"max_completion_tokens":9}'


def test_a_quirk_changes_the_call_and_not_the_draft() -> None:
    fields = {"max_completion_tokens": 9}
    draft = Draft(Operation.CHAT, Wire("openai"), "/chat/completions", stream=False, fields=fields)

    Preparer().call(
        Target(provider(quirks=frozenset({Quirk.MAX_TOKENS})), LAB_KEY, endpoint(), Timeouts()), draft, 12.0
    )

    assert fields == {"max_completion_tokens": 9}


def test_a_callers_header_goes_on_beside_ours_unless_it_would_break_the_message() -> None:
    sent = prepare(headers=(("anthropic-beta", "a,b"), ("x-evil", "a\r\nb: c")))

    assert sent.headers["anthropic-beta"] == "a,b"
    assert "x-evil" not in sent.headers
    assert "anthropic-beta" not in prepare().headers


@pytest.mark.parametrize("base", ["https://acme.test", "https://acme.test/openai", "https://acme.test/openai/v1"])
def test_an_older_azure_resource_is_asked_by_deployment_and_version(base: str) -> None:
    older = provider(base_url=base, api_version="2024-10-21", quirks=frozenset({Quirk.OPENAI_V1_PATH}))

    assert prepare(provider=older).url == (
        "https://acme.test/openai/deployments/big-1/chat/completions?api-version=2024-10-21"
    )


def test_a_stream_is_asked_for_as_one() -> None:
    assert prepare(stream=True).headers["Accept"] == "text/event-stream"


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        (Auth.BEARER, "Authorization", f"Bearer {KEY}"),
        (Auth.X_API_KEY, "x-api-key", KEY),
        (Auth.X_GOOG_API_KEY, "x-goog-api-key", KEY),
        (Auth.API_KEY, "api-key", KEY),
    ],
)
def test_each_auth_style_uses_its_own_header_and_no_other(auth: Auth, name: str, value: str) -> None:
    headers = prepare(provider=provider(auth=auth)).headers

    assert headers.getall(name) == [value]
    assert sum(KEY in text for text in headers.values()) == 1


@pytest.mark.parametrize(("auth", "secret"), [(Auth.NONE, KEY), (Auth.BEARER, None)])
def test_no_credential_is_sent_where_there_is_none_to_send(auth: Auth, secret: str | None) -> None:
    headers = prepare(provider=provider(auth=auth), credential=credential(secret)).headers

    assert "authorization" not in headers
    assert KEY not in "".join(headers.values())


def test_calls_share_one_header_block_that_nobody_can_change() -> None:
    preparer = Preparer()
    first, second = prepare(preparer=preparer), prepare(preparer=preparer)

    assert first.headers is second.headers
    with pytest.raises(TypeError):
        first.headers["x-changed"] = "yes"


def test_a_reload_with_another_key_under_the_same_names_is_seen_at_once() -> None:
    preparer = Preparer()
    prepare(preparer=preparer)

    call = prepare(preparer=preparer, credential=credential("sk-rotated-1"))
    moved = prepare(preparer=preparer, provider=provider(base_url="https://new.test/v1"))

    assert call.headers["authorization"] == "Bearer sk-rotated-1"
    assert moved.url == "https://new.test/v1/chat/completions"


def test_kept_header_blocks_are_bounded() -> None:
    preparer = Preparer()
    for number in range(BASES_MAX + 10):
        prepare(preparer=preparer, credential=credential(number=number))

    assert len(preparer._bases) <= BASES_MAX


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\0b"])
def test_a_line_break_or_nul_in_a_configured_header_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(provider=provider(headers=(("x-team", value),)))

    assert "'x-team'" in str(caught.value)
    assert "evil" not in str(caught.value)


def test_a_line_break_in_a_credential_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(credential=credential("sk-abc\r\nx-evil: 1"))

    assert "sk-abc" not in str(caught.value)


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "accept-encoding", "bad name", ""])
def test_a_configured_header_may_not_frame_the_message(name: str) -> None:
    assert header_problem(name, "x") is not None
    assert header_problem("x-ok", "x") is None
