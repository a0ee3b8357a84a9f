"""Requests: the few keys the gateway reads, checked, and what they are going to use.

Everything else passes unread; what it means is between the caller and the provider.
"""

import math
import struct
from collections.abc import Callable, Mapping

import msgspec

from routerx.dialects.estimate import TOKENS_PER_REQUEST, raw_tokens
from routerx.dialects.fields import read_field, read_model, read_number, read_user, wrong_value
from routerx.dialects.multipart import FilePlace
from routerx.dialects.openai_chat.peek import CHOICES_MAX, OUTPUT_TOKENS_MAX
from routerx.domain.call import Metered, Operation, Peek
from routerx.domain.usage import Usage
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

Fields = Mapping[str, Raw]

PROMPTS_MAX = 2_048
IMAGES_MAX = 128
DOCUMENTS_MAX = 100_000

# An image in tokens of output, by `quality`: a square one, and the largest there is. A working estimate for holds and
# for answers that report nothing; of models that are priced by the image these tokens cost nothing.
_IMAGE_TOKENS: Mapping[str, tuple[int, int]] = {"low": (272, 408), "medium": (1_056, 1_584), "high": (4_160, 6_240)}
_IMAGE_TOKENS_ELSE = (1_056, 6_240)

# Speech in tokens of audio per 10 characters, estimated at 15 characters and 21 tokens a second; three times that when
# it is spoken slowly. Of models priced by the character these tokens cost nothing.
_SPEECH_TOKENS_PER_10_CHARS = 14
_SPEECH_SLOWEST = 3

# A recording whose length is not written in its header: speech is coded at 64 kbit/s or so, hardly ever below 16.
_AUDIO_BYTES_PER_S = 8_000
_AUDIO_BYTES_PER_S_MIN = 2_000
_WAV_BYTES_PER_S_MAX = 768_000
"""192 kHz in two channels of 16 bits; what claims more claims to be shorter than it is."""
_TEXT_TOKENS_PER_AUDIO_S = 4
_TEXT_TOKENS_PER_AUDIO_S_MAX = 8

# What a search unit is taken to be: a query against up to 100 documents of up to 500 tokens.
_DOCUMENTS_PER_UNIT = 100
_TOKENS_PER_CHUNK = 500

_NULL = Raw(b"null")
_string = msgspec.json.Decoder(str).decode
_boolean = msgspec.json.Decoder(bool | None).decode
_integer = msgspec.json.Decoder(int | None).decode
_array = msgspec.json.Decoder(list[Raw]).decode
_file = msgspec.json.Decoder(FilePlace).decode


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


_stream_options = msgspec.json.Decoder(_StreamOptions | None).decode


def peek_relayed(operation: Operation, body: bytes, fields: Fields) -> Peek:
    """Raises InvalidParameter."""
    if operation is Operation.TRANSCRIPTIONS:
        return _peek_transcription(body, fields)
    return _PEEKS[operation](fields)


def _peek_completion(fields: Fields) -> Peek:
    """Text in and text out, metered as a chat is."""
    model = read_model(fields)
    tokens, prompts = _prompts(fields)
    choices = _count(fields, "n", CHOICES_MAX)
    best_of = _count(fields, "best_of", CHOICES_MAX)  # All of them are made, and billed.
    ceiling = None
    if "max_tokens" in fields:
        ceiling = read_number("max_tokens", fields["max_tokens"], _integer, "a whole number", (0, OUTPUT_TOKENS_MAX))
    options = read_field("stream_options", fields, _stream_options, "an object whose 'include_usage' is true or false")
    return Peek(
        operation=Operation.COMPLETIONS,
        model=model,
        stream=_flag(fields, "stream"),
        wants_usage=options is not None and options.include_usage is True,
        choices=max(choices, best_of) * prompts,
        output_tokens_max=ceiling,
        input_tokens_estimate=TOKENS_PER_REQUEST + tokens,
        user=read_user(fields),
    )


def _peek_images(fields: Fields) -> Peek:
    model = read_model(fields)
    count = _count(fields, "n", IMAGES_MAX)
    prompt = _text(fields, "prompt")
    quality = fields.get("quality", _NULL)
    likely, most = _IMAGE_TOKENS_ELSE
    if memoryview(quality)[0] == 0x22:
        likely, most = _IMAGE_TOKENS.get(_string(quality), _IMAGE_TOKENS_ELSE)
    tokens = TOKENS_PER_REQUEST + raw_tokens(prompt)
    return Peek(
        operation=Operation.IMAGES,
        model=model,
        stream=_flag(fields, "stream"),
        choices=count,
        user=read_user(fields),
        metered=Metered(
            most=Usage(in_fresh=tokens, out_image=most * count, requests=count),
            likely=Usage(in_fresh=tokens // 2, out_image=likely * count, requests=count),
        ),
    )


def _peek_speech(fields: Fields) -> Peek:
    model = read_model(fields)
    chars = len(_string(_text(fields, "input")))
    if fields.get("instructions", _NULL) != _NULL:
        chars += len(_string(_text(fields, "instructions")))
    audio = math.ceil(chars * _SPEECH_TOKENS_PER_10_CHARS / 10)
    return Peek(
        operation=Operation.SPEECH,
        model=model,
        stream=fields.get("stream_format") == Raw(b'"sse"'),
        user=read_user(fields),
        metered=Metered(
            most=Usage(in_fresh=chars, out_audio=audio * _SPEECH_SLOWEST),
            likely=Usage(in_fresh=chars, out_audio=audio),
        ),
    )


def _peek_transcription(body: bytes, fields: Fields) -> Peek:
    model = read_model(fields)
    try:
        place = _file(fields.get("file", _NULL))
    except msgspec.DecodeError:
        message = "'file' is missing: send the recording as a part with a file name."
        raise InvalidParameter(message, param="file") from None
    stream = fields.get("stream", Raw(b'"false"'))
    words = (b'"true"', b'"false"', b'"True"', b'"False"', b'""')
    if bytes(stream) not in words:
        raise wrong_value("stream", stream, "true or false")
    likely_s, most_s = _seconds(memoryview(body)[place.start : place.end])
    return Peek(
        operation=Operation.TRANSCRIPTIONS,
        model=model,
        stream=bytes(stream).lower() == b'"true"',
        metered=Metered(
            most=Usage(in_audio=most_s, out_text=most_s * _TEXT_TOKENS_PER_AUDIO_S_MAX),
            likely=Usage(in_audio=likely_s, out_text=likely_s * _TEXT_TOKENS_PER_AUDIO_S),
        ),
    )


def _peek_moderation(fields: Fields) -> Peek:
    """Usually free: held for as text, and charged by what is reported alone."""
    model = read_model(fields)
    raw = _present(fields, "input", "a string or an array of strings or of parts")
    if memoryview(raw)[0] not in b'"[' or raw == Raw(b"[]"):
        raise wrong_value("input", raw, "a string or an array of strings or of parts, not empty")
    most = Usage(in_fresh=TOKENS_PER_REQUEST + raw_tokens(raw))
    return Peek(operation=Operation.MODERATIONS, model=model, metered=Metered(most=most, likely=Usage()))


def _peek_rerank(fields: Fields) -> Peek:
    model = read_model(fields)
    query = raw_tokens(_present(fields, "query", "the text to compare with"))
    raw = _present(fields, "documents", "an array of documents")
    documents = read_field("documents", fields, _array, "an array of documents")
    if not documents or len(documents) > DOCUMENTS_MAX:
        raise InvalidParameter(f"'documents' must have 1 to {DOCUMENTS_MAX} entries.", param="documents")
    count, tokens = len(documents), raw_tokens(raw)
    chunks = count + (tokens + query * count) // _TOKENS_PER_CHUNK
    most = Usage(in_fresh=TOKENS_PER_REQUEST + query * count + tokens, requests=math.ceil(chunks / _DOCUMENTS_PER_UNIT))
    likely = Usage(in_fresh=most.in_fresh // 2, requests=math.ceil(count / _DOCUMENTS_PER_UNIT))
    return Peek(operation=Operation.RERANK, model=model, user=read_user(fields), metered=Metered(most, likely))


_PEEKS: Mapping[Operation, Callable[[Fields], Peek]] = {
    Operation.COMPLETIONS: _peek_completion,
    Operation.IMAGES: _peek_images,
    Operation.SPEECH: _peek_speech,
    Operation.MODERATIONS: _peek_moderation,
    Operation.RERANK: _peek_rerank,
}


# --- parts -------------------------------------------------------------------------------------------------------


def _flag(fields: Fields, key: str) -> bool:
    return read_field(key, fields, _boolean, "true or false") is True


def _count(fields: Fields, key: str, count_max: int) -> int:
    value = read_number(key, fields.get(key, _NULL), _integer, "a whole number", (1, count_max))
    return 1 if value is None else int(value)


def _present(fields: Fields, key: str, what: str) -> Raw:
    raw = fields.get(key, _NULL)
    if raw == _NULL:
        raise InvalidParameter(f"{key!r} is missing: send {what}.", param=key)
    return raw


def _text(fields: Fields, key: str) -> Raw:
    """A string, still as JSON."""
    raw = _present(fields, key, "a string")
    if memoryview(raw)[0] != 0x22:
        raise wrong_value(key, raw, "a string")
    return raw


def _prompts(fields: Fields) -> tuple[int, int]:
    """Tokens of all prompts together, and how many there are. Without any, the model begins by itself."""
    expected = "a string, an array of strings, an array of tokens or an array of such arrays, none of them empty"
    raw = fields.get("prompt", _NULL)
    tokens = raw_tokens(fields["suffix"]) if "suffix" in fields else 0
    if raw == _NULL or memoryview(raw)[0] == 0x22:
        return tokens + raw_tokens(raw), 1
    if memoryview(raw)[0] != 0x5B:
        raise wrong_value("prompt", raw, expected)
    items = _array(raw)
    kinds = {chr(memoryview(item)[0]) for item in items}
    if kinds == {'"'}:
        tokens += raw_tokens(raw)
    elif kinds == {"["}:
        tokens += sum(bytes(item).count(b",") + 1 for item in items)
    elif kinds and all(kind.isdigit() for kind in kinds):
        return tokens + len(items), 1
    else:
        raise wrong_value("prompt", raw, expected)
    if len(items) > PROMPTS_MAX:
        raise InvalidParameter(f"'prompt' has {len(items)} entries; at most {PROMPTS_MAX} are taken.", param="prompt")
    return tokens, len(items)


def _seconds(audio: memoryview) -> tuple[int, int]:
    """Whole seconds of a recording, rounded up: likely, and at most. Exact where a WAV header says its rate."""
    rate = _wav_bytes_per_s(audio)
    if rate is not None:
        exact = math.ceil(audio.nbytes / rate)
        return exact, exact
    return math.ceil(audio.nbytes / _AUDIO_BYTES_PER_S), math.ceil(audio.nbytes / _AUDIO_BYTES_PER_S_MIN)


def _wav_bytes_per_s(audio: memoryview) -> int | None:
    """The byte rate of the format chunk, where it stands first, as it does in practice (RIFF WAVE)."""
    if audio.nbytes < 36:
        return None
    riff, wave, rate = struct.unpack_from("<4s4x8s12xI", audio)
    if (riff, wave) != (b"RIFF", b"WAVEfmt "):
        return None
    return rate if 0 < rate <= _WAV_BYTES_PER_S_MAX else None
