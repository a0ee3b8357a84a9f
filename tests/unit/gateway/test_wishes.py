"""What callers want of routing: read from headers and bodies, never a surprise."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import CallerDialect
from routerx.dialects.gemini import GEMINI
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.responses import RESPONSES
from routerx.domain.call import Operation
from routerx.domain.policy import Sort
from routerx.domain.wishes import NO_STEERING, NO_WISHES, MaxPrice, Steering, Wishes
from routerx.errors import InvalidParameter
from routerx.gateway import wishes as reading
from routerx.gateway.wishes import steering_of, take_wishes
from routerx.jsonx import Raw, encode, request_object
from routerx.secrets import Secret

STREAMED = {"temperature": 0, "model": "m"}


def headers(**values: str) -> Steering:
    """`provider_only="a"` is X-RouterX-Provider-Only: a."""
    sent = {f"X-RouterX-{name.replace('_', '-')}": value for name, value in values.items()}
    return steering_of(CIMultiDict(sent))


def take(
    body: dict[str, Any], steering: Steering = NO_STEERING, dialect: CallerDialect = OPENAI
) -> tuple[dict[str, Any], Wishes]:
    fields, wishes = take_wishes(request_object(encode(body)), steering, Operation.CHAT, dialect)
    return {name: json.loads(bytes(value)) for name, value in fields.items()}, wishes


def wanted(provider: Any, steering: Steering = NO_STEERING, **more: Any) -> Wishes:
    return take({"model": "m", "provider": provider, **more}, steering)[1]


def refused(body: dict[str, Any], dialect: CallerDialect = OPENAI) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        take(body, dialect=dialect)
    return caught.value


# --- headers


def test_a_request_without_our_headers_has_the_one_empty_steering() -> None:
    assert steering_of(CIMultiDict({"Authorization": "Bearer x", "X-RouterX-User": "u"})) is NO_STEERING


def test_headers_that_ask_nothing_of_the_order_keep_the_one_empty_wish() -> None:
    assert headers(metadata="true").wishes is NO_WISHES
    assert headers(allow_fallbacks="true").wishes is NO_WISHES


def test_every_header_is_read() -> None:
    steering = steering_of(
        CIMultiDict(
            [
                ("x-routerx-sort", "Price"),
                ("X-RouterX-Provider-Only", "OpenAI, azure"),
                ("X-RouterX-Provider-Only", "lab/qwen"),
                ("X-RouterX-Provider-Ignore", "groq,,groq"),
                ("X-RouterX-Provider-Order", "azure"),
                ("X-RouterX-Allow-Fallbacks", "False"),
                ("X-RouterX-API-Key", "Bearer sk-own-1"),
                ("X-RouterX-Metadata", "true"),
                ("X-RouterX-Timeout", "1500ms"),
                ("X-Session-Id", "talk-1"),
            ]
        )
    )
    assert steering == Steering(
        wishes=Wishes(
            order=("azure",),
            only=("openai", "azure", "lab/qwen"),
            ignore=("groq",),
            allow_fallbacks=False,
            sort=Sort.PRICE,
        ),
        own_key=Secret("sk-own-1"),
        metadata=True,
        deadline_s=1.5,
        session="talk-1",
    )


@pytest.mark.parametrize("sort", list(Sort))
def test_every_sort_may_be_asked_for(sort: Sort) -> None:
    assert headers(sort=sort.value).wishes.sort is sort
    assert wanted({"sort": sort.value}).sort is sort


@pytest.mark.parametrize(("value", "seconds"), [("20", 20.0), ("20s", 20.0), ("0.25", 0.25), ("2m", 120.0)])
def test_a_timeout_is_seconds_or_says_its_unit(value: str, seconds: float) -> None:
    assert headers(timeout=value).deadline_s == seconds


def test_our_own_name_of_the_session_goes_before_the_others() -> None:
    assert steering_of(CIMultiDict({"X-Session-Id": "a", "X-RouterX-Session": "b"})).session == "b"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("Sort", "fastest", "latency, price"),
        ("Allow-Fallbacks", "maybe", "true or false"),
        ("Metadata", "2", "true or false"),
        ("Timeout", "0", "above zero"),
        ("Timeout", "-5", "above zero"),
        ("Timeout", "nan", "above zero"),
        ("Timeout", "9" * 400, "above zero"),
        ("Provider-Only", " , ", "leave it out"),
        ("Provider-Only", "x" * 300, "at most"),
        ("Provider-Order", ",".join(f"p{n}" for n in range(65)), "at most 64"),
        ("Sort", "", "leave it out"),
        ("Session", "s" * 257, "256 characters"),
    ],
)
def test_a_wrong_header_is_named_with_its_value_and_the_remedy(name: str, value: str, remedy: str) -> None:
    header = f"X-RouterX-{name}"
    with pytest.raises(InvalidParameter, match=remedy) as caught:
        steering_of(CIMultiDict({header: value}))
    error = caught.value
    assert (error.status, error.param) == (400, header)
    assert header in error.message
    assert len(error.message) < 300
    if value.strip(" ,") and len(value) < 10:
        assert repr(value) in error.message


def test_a_header_that_may_stand_once_stands_once() -> None:
    with pytest.raises(InvalidParameter, match="send it once"):
        steering_of(CIMultiDict([("X-RouterX-Sort", "price"), ("X-RouterX-Sort", "latency")]))


@pytest.mark.parametrize("key", ["two words", "sch\u00f6n", "\udcff", "k" * 513, "tab\there"])
def test_what_is_no_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        headers(API_Key=key)
    assert caught.value.param == "X-RouterX-API-Key"
    assert key not in caught.value.message


# --- the body


@pytest.mark.parametrize("dialect", [OPENAI, RESPONSES, ANTHROPIC, GEMINI])
def test_a_body_without_wishes_is_passed_as_it_is(dialect: CallerDialect) -> None:
    fields = request_object(b'{"model":"m","messages":[]}')
    steering = Steering(wishes=Wishes(sort=Sort.PRICE))
    assert take_wishes(fields, steering, Operation.CHAT, dialect) == (fields, steering.wishes)
    assert take_wishes(fields, steering, Operation.CHAT, dialect)[0] is fields


@pytest.mark.parametrize("dialect", [OPENAI, RESPONSES, ANTHROPIC, GEMINI])
def test_wishes_are_taken_out_of_what_goes_on(dialect: CallerDialect) -> None:
    rest, wishes = take(
        {**STREAMED, "provider": {"sort": "price"}, "models": ["n"], "route": "fallback"}, dialect=dialect
    )
    assert rest == STREAMED
    assert wishes == Wishes(sort=Sort.PRICE, models=("n",))


def test_the_whole_provider_object() -> None:
    assert wanted(
        {
            "order": ["Azure", "openai"],
            "only": ["azure", "openai"],
            "ignore": ["groq"],
            "allow_fallbacks": False,
            "require_parameters": True,
            "data_collection": "deny",
            "zdr": True,
            "enforce_distillable_text": True,
            "quantizations": ["FP8"],
            "sort": {"by": "throughput", "partition": "none"},
            "preferred_min_throughput": 50,
            "preferred_max_latency": {"p50": 1, "p90": 3.5, "p99": None},
            "max_price": {"prompt": 0.1, "completion": "2.50", "request": 0.01, "image": 3},
        },
        top_k=5,
        seed=1,
    ) == Wishes(
        order=("azure", "openai"),
        only=("azure", "openai"),
        ignore=("groq",),
        allow_fallbacks=False,
        sort=Sort.THROUGHPUT,
        across_models=True,
        max_price=MaxPrice(input_pico=100_000, output_pico=2_500_000, request_nano=10_000_000, image_pico=3_000_000),
        parameters=frozenset({"top_k"}),
        max_latency=((50, 1.0), (90, 3.5)),
        min_throughput=((50, 50.0),),
        keeps_no_data=True,
        zdr=True,
        distillable=True,
        quantizations=("fp8",),
    )


@pytest.mark.parametrize(
    "nothing",
    [None, {}, {"order": None, "sort": None, "max_price": None, "zdr": None}, {"only": [], "max_price": {}}],
)
def test_a_provider_object_that_wants_nothing_is_no_wish(nothing: Any) -> None:
    assert wanted(nothing) is NO_WISHES


@pytest.mark.parametrize(
    ("usd", "pico"),
    [("1", 1_000_000), (b"1e-3", 1_000), (b"0.0000019", 1), (0, 0), ("0.30", 300_000), (b"1000000000", 10**15)],
)
def test_a_ceiling_is_exact_to_the_unit_of_prices(usd: Any, pico: int) -> None:
    written = usd if isinstance(usd, bytes) else encode(usd)
    fields = {"model": Raw(b'"m"'), "provider": Raw(b'{"max_price":{"prompt":%b}}' % written)}
    _, wishes = take_wishes(fields, NO_STEERING, Operation.CHAT, OPENAI)
    assert wishes.max_price == MaxPrice(input_pico=pico)


@pytest.mark.parametrize(
    ("provider", "param", "words"),
    [
        ("openai", "provider", "must be an object"),
        ([], "provider", "must be an object"),
        ({"ordr": ["a"]}, "provider.ordr", "did you mean 'order'"),
        ({"zzzzzz": 1}, "provider.zzzzzz", "max_price"),
        ({"order": "a"}, "provider.order", "array"),
        ({"order": [1]}, "provider.order[0]", "str"),
        ({"order": [""]}, "provider.order[0]", "length"),
        ({"ignore": ["p"] * 65}, "provider.ignore", "length"),
        ({"allow_fallbacks": 1}, "provider.allow_fallbacks", "bool"),
        ({"data_collection": "never"}, "provider.data_collection", "never"),
        ({"sort": "fastest"}, "provider.sort", "latency, price"),
        ({"sort": {"by": "fastest"}}, "provider.sort.by", "latency, price"),
        ({"sort": {"partition": "all"}}, "provider.sort.partition", "all"),
        ({"preferred_max_latency": -1}, "provider.preferred_max_latency", ">= 0"),
        ({"preferred_max_latency": {"p95": 1}}, "provider.preferred_max_latency", "p95"),
        ({"max_price": {"prompt": -1}}, "provider.max_price.prompt", "from 0"),
        ({"max_price": {"prompt": "NaN"}}, "provider.max_price.prompt", "from 0"),
        ({"max_price": {"prompt": "1e999999"}}, "provider.max_price.prompt", "from 0"),
        ({"max_price": {"prompt": True}}, "provider.max_price.prompt", "bool"),
        ({"max_price": {"promt": 1}}, "provider.max_price", "promt"),
    ],
)
def test_a_wrong_wish_is_named(provider: Any, param: str, words: str) -> None:
    error = refused({"model": "m", "provider": provider})
    assert error.param == param
    assert words in error.message


@pytest.mark.parametrize("models", ["n", [1], [""], ["n"] * 17, {"a": 1}])
def test_a_wrong_list_of_models_is_refused(models: Any) -> None:
    assert str(refused({"model": "m", "models": models}).param).startswith("models")


def test_each_of_several_models_stands_once() -> None:
    assert take({"model": "m", "models": ["n", "o", "n"]})[1].models == ("n", "o")
    assert take({"model": "m", "models": None})[1] is NO_WISHES


def test_fallbacks_are_anthropics_word_for_models() -> None:
    body = {"model": "m", "fallbacks": [{"model": "n"}, {"model": "o"}]}
    rest, wishes = take(body, dialect=ANTHROPIC)
    assert (rest, wishes.models) == ({"model": "m"}, ("n", "o"))
    assert take(body)[0] == body
    assert refused({"model": "m", "fallbacks": [{"model": "n"}] * 4}, ANTHROPIC).param == "fallbacks"
    assert refused({"model": "m", "fallbacks": ["n"]}, ANTHROPIC).param == "fallbacks[0]"
    assert "max_tokens" in refused({"model": "m", "fallbacks": [{"model": "n", "max_tokens": 1}]}, ANTHROPIC).message


def test_a_form_cannot_hold_wishes() -> None:
    fields = {"model": Raw(b'"m"'), "provider": Raw(b"{}")}
    with pytest.raises(InvalidParameter, match="headers"):
        take_wishes(fields, NO_STEERING, Operation.TRANSCRIPTIONS, OPENAI)


# --- both


def test_the_body_goes_before_the_headers_key_by_key() -> None:
    steering = headers(sort="price", provider_order="a", allow_fallbacks="false")
    assert wanted({"sort": "latency"}, steering) == Wishes(order=("a",), sort=Sort.LATENCY, allow_fallbacks=False)
    assert wanted({"order": ["b"], "allow_fallbacks": True}, steering) == Wishes(order=("b",), sort=Sort.PRICE)


def test_what_either_ignores_is_ignored_and_what_both_allow_is_allowed() -> None:
    steering = headers(provider_only="openai, lab/qwen, groq", provider_ignore="x")
    wishes = wanted({"only": ["openai/gpt-4o", "lab", "azure", "groq"], "ignore": ["y", "x"]}, steering)
    assert wishes.ignore == ("x", "y")
    assert set(wishes.only) == {"openai/gpt-4o", "lab/qwen", "groq"}


def test_lists_without_anything_in_common_are_told() -> None:
    with pytest.raises(InvalidParameter, match="in common"):
        wanted({"only": ["groq"]}, headers(provider_only="openai"))


# --- whatever comes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from([*reading._Provider.__struct_fields__, "by", "partition", "prompt", "p90", "x"])
PROVIDER = JSON | st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=3), max_size=5)


@given(provider=PROVIDER, models=JSON, fallbacks=JSON)
def test_no_value_is_more_than_an_error_of_its_caller(provider: Any, models: Any, fallbacks: Any) -> None:
    body = encode({"model": "m", "provider": provider, "models": models, "fallbacks": fallbacks})
    try:
        rest, wishes = take_wishes(request_object(body), NO_STEERING, Operation.CHAT, ANTHROPIC)
    except InvalidParameter:
        return
    assert set(rest) == {"model"}
    assert hash(wishes) == hash(wishes)


@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=0xDCFF), max_size=80))
def test_no_header_is_more_than_an_error_of_its_caller(value: str) -> None:
    for name in reading._HEADERS:
        with contextlib.suppress(InvalidParameter):
            assert isinstance(hash(steering_of(CIMultiDict({name: value}))), int)
