"""Forms: read strictly, changed in one place, and never an exception that is not a refusal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.multipart import PARTS_MAX, TEXT_BYTES_MAX, Form, read_form
from routerx.errors import InvalidParameter, UnsupportedMediaType

BOUNDARY = "xYz"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
MODEL = b'--xYz\r\nContent-Disposition: form-data; name="model"\r\n\r\near\r\n'
FILE = (
    b'--xYz\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n'
)
END = b"--xYz--"


def head(disposition: str, more: str = "") -> bytes:
    return f"--xYz\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode()


def text(form: Form, name: str) -> str:
    found = json.loads(bytes(form.fields[name]))
    assert isinstance(found, str)
    return found


def test_texts_and_files_are_found() -> None:
    form = read_form(TYPE, MODEL + FILE + END)
    assert text(form, "model") == "ear"
    place = json.loads(bytes(form.fields["file"]))
    assert form.body[place["start"] : place["end"]] == b"RIFF"


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="xYz"',
        "Multipart/Form-Data;boundary=xYz",
        "multipart/form-data ; boundary=xYz ",
        "multipart/form-data; charset=utf-8; boundary=xYz",
        "multipart/form-data; boundary=xYz; charset=UTF-8",
    ],
)
def test_content_type_is_read_in_its_notations(content_type: str) -> None:
    assert "model" in read_form(content_type, MODEL + FILE + END + b"\r\n").fields


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=xYz",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=xYz; boundary=abc",
        'multipart/form-data; boundary="x\r\nYz"',
        f"multipart/form-data; boundary={'x' * 71}",
    ],
)
def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        read_form(content_type, MODEL + FILE + END)


NAMED = 'form-data; name="model"'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        END,
        b"preamble\r\n" + MODEL + END,
        MODEL,
        MODEL + END + b"more",
        MODEL + END + b"\r\n\r\n",
        MODEL.replace(b"\r\n", b"\n") + END,
        MODEL[:-2] + b"\n" + END,
        MODEL[:-2] + END,
        head(NAMED) + b"a --xYz b\r\n" + END,
        head(NAMED) + b"a\n--xYz\nb\r\n" + END,
        MODEL.replace(b"--xYz\r", b"--xYz \r") + END,
        MODEL + MODEL + END,
        head(NAMED + '; name="file"') + b"a\r\n" + END,
        head(NAMED + "; name*=utf-8''file") + b"a\r\n" + END,
        head("form-data; name*=utf-8''model") + b"a\r\n" + END,
        head('form-data; name="mo\\"del"') + b"a\r\n" + END,
        head('form-data; name="mo\0del"') + b"a\r\n" + END,
        head('form-data; name=""') + b"a\r\n" + END,
        head("form-data") + b"a\r\n" + END,
        head('attachment; name="model"') + b"a\r\n" + END,
        head('form-data; name="model" junk') + b"a\r\n" + END,
        head(NAMED, f"Content-Disposition: {NAMED}\r\n") + b"a\r\n" + END,
        head(NAMED, "Content-Transfer-Encoding: base64\r\n") + b"a\r\n" + END,
        head(NAMED, " folded: yes\r\n") + b"a\r\n" + END,
        head(NAMED, "X: a\rb\r\n") + b"a\r\n" + END,
        head(NAMED, "".join(f"X{n}: 1\r\n" for n in range(9))) + b"a\r\n" + END,
        head(NAMED, f"X: {'a' * 5_000}\r\n") + b"a\r\n" + END,
        head(NAMED) + b"a" * (TEXT_BYTES_MAX + 1) + b"\r\n" + END,
        head(NAMED) + b"\xff\r\n" + END,
        b"".join(head(f'form-data; name="f{n}"') + b"a\r\n" for n in range(PARTS_MAX + 1)) + END,
    ],
)
def test_what_two_parsers_could_read_apart_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidParameter):
        read_form(TYPE, body)


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name="file"; filename="\\"quoted\\".wav"',
        'form-data; name="file"; filename="a.wav"; filename*=utf-8\'\'%C3%A5.wav',
        'form-data; name="file"; filename="å.wav"',
        "form-data; name=file; filename=a.wav",
        'FORM-DATA;name="file";filename=""',
    ],
)
def test_files_are_named_as_clients_name_them(disposition: str) -> None:
    form = read_form(TYPE, MODEL + head(disposition) + b"RIFF\r\n" + END)
    assert form.body[form.places["file"].start : form.places["file"].end] == b"RIFF"


def test_lists_may_repeat_their_name() -> None:
    words = head('form-data; name="include[]"') + b"logprobs\r\n"
    assert "include[]" in read_form(TYPE, MODEL + words + words + END).fields


SAFE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20).filter(
    lambda t: "--xYz" not in t
)
CONTENT = st.binary(max_size=60).filter(lambda data: b"--xYz" not in data)


@given(model=SAFE, other=SAFE, content=CONTENT)
def test_all_but_the_model_stays_as_it_was(model: str, other: str, content: bytes) -> None:
    def body(name: str) -> bytes:
        file = head('form-data; name="file"; filename="a"') + content + b"\r\n"
        return file + head(NAMED) + name.encode() + b"\r\n" + file.replace(b'"file"', b'"more"') + END

    form = read_form(TYPE, body(model))
    assert text(form, "model") == model
    assert form.with_text("model", other) == body(other)
    assert text(read_form(form.content_type, form.with_text("model", other)), "model") == other


@pytest.mark.parametrize("name", ["a\r\nb", "a\nb", "a\0b", "a--xYz"])
def test_a_name_that_would_end_the_part_is_refused(name: str) -> None:
    form = read_form(TYPE, MODEL + FILE + END)
    with pytest.raises(InvalidParameter):
        form.with_text("model", name)


PIECES = st.sampled_from(
    [
        *(b"--xYz", b"--", b"\r\n", b"\n", b"\r", b": ", b'"', b";", b"\0", b"\xff", b"a"),
        *(b"Content-Disposition", b"form-data", b'name="model"', MODEL, FILE, END),
    ]
)


@given(st.lists(PIECES, max_size=24).map(b"".join))
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    for given_body in (body, b"--xYz\r\n" + body, MODEL + body, MODEL + body + END):
        try:
            form = read_form(TYPE, given_body)
        except InvalidParameter:
            continue
        assert all(given_body[place.end : place.end + 7] == b"\r\n--xYz" for place in form.places.values())
