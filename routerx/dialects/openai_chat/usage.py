"""Usage as the OpenAI wire has it, turned into disjoint buckets.

Everybody speaks this format and nobody agrees on what a total includes. What is inside what is decided from the numbers
themselves, never from who sent them (design: PROVIDERS.md 6c). A number that cannot be one makes usage invalid, which
is not the same as absent, and neither is zero.
"""

from typing import Annotated

import msgspec

from routerx.domain.usage import Usage

TOKENS_MAX = 1 << 40

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None
    audio_tokens: _Tokens | None = None
    image_tokens: _Tokens | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Tokens | None = None
    audio_tokens: _Tokens | None = None
    image_tokens: _Tokens | None = None


class _Wire(msgspec.Struct):
    """Every name under which a token count has been seen."""

    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None
    prompt_tokens_details: _InputDetails | None = None
    prompt_token_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: _Tokens | None = None
    num_cached_tokens: _Tokens | None = None
    cached_tokens: _Tokens | None = None
    reasoning_tokens: _Tokens | None = None


_NO_INPUT_DETAILS = _InputDetails()
_NO_OUTPUT_DETAILS = _OutputDetails()


class _Counts(msgspec.Struct, frozen=True, gc=False):
    """What was reported, one number per meaning; None was not reported."""

    prompt: int | None
    completion: int | None
    total: int | None
    cached: int | None
    written: int | None
    audio_in: int | None
    image_in: int | None
    reasoning: int | None
    audio_out: int | None
    image_out: int | None

    @property
    def is_plain(self) -> bool:
        """Nothing but totals: no part that is to be told apart."""
        return not (
            self.cached
            or self.written
            or self.audio_in
            or self.image_in
            or self.reasoning
            or self.audio_out
            or self.image_out
        )


_decode = msgspec.json.Decoder(_Wire).decode


class UsageReader:
    """Reads the usage objects of one answer, one or many: a stream may repeat them, cumulative, on any of its chunks.

    Per count the largest value stands, so a field that vanishes from a later report keeps its number and nothing is
    added up twice. The last report decides on validity.
    """

    def __init__(self, *, generates: bool) -> None:
        self.usage: Usage | None = None
        """None: nothing usable was reported."""
        self.anomaly = False
        """A report was present and unusable, in whole or in part."""
        self._generates = generates
        self._counts: _Counts | None = None

    def read(self, raw: msgspec.Raw) -> None:
        """Take one usage object, still as JSON. An object without any count is no report."""
        try:
            wire = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.usage = self._counts = None
            self.anomaly = True
            return
        counts = _flatten(wire)
        if counts.prompt is None and counts.completion is None and counts.total is None:
            return
        self._counts = counts if self._counts is None else _larger(self._counts, counts)
        self.usage, sound = _buckets(self._counts, generates=self._generates)
        if not sound:
            self.anomaly = True


def _flatten(wire: _Wire) -> _Counts:
    into = wire.prompt_tokens_details or wire.prompt_token_details or _NO_INPUT_DETAILS
    out = wire.completion_tokens_details or _NO_OUTPUT_DETAILS
    cached = into.cached_tokens
    if cached is None:
        cached = wire.prompt_cache_hit_tokens
    if cached is None:
        cached = wire.num_cached_tokens
    return _Counts(
        prompt=wire.prompt_tokens,
        completion=wire.completion_tokens,
        total=wire.total_tokens,
        cached=cached if cached is not None else wire.cached_tokens,
        written=into.cache_write_tokens,
        audio_in=into.audio_tokens,
        image_in=into.image_tokens,
        reasoning=out.reasoning_tokens if out.reasoning_tokens is not None else wire.reasoning_tokens,
        audio_out=out.audio_tokens,
        image_out=out.image_tokens,
    )


def _larger(one: _Counts, other: _Counts) -> _Counts:
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return _Counts(*(b if a is None else a if b is None else max(a, b) for a, b in pairs))


def _zero(value: int | None) -> int:
    return 0 if value is None else value


def _buckets(counts: _Counts, *, generates: bool) -> tuple[Usage | None, bool]:
    """Disjoint buckets, and whether everything reported could be used."""
    prompt, completion = _ends(counts, generates=generates)
    if prompt is None or completion is None:
        return None, False
    if counts.is_plain and counts.total == prompt + completion:
        return Usage(in_fresh=prompt, out_text=completion), True
    sound = True
    cached, written, reasoning = _zero(counts.cached), _zero(counts.written), _zero(counts.reasoning)
    audio_in = _zero(counts.audio_in)

    # A total above prompt + completion says that some part was left out of them, and its size says which: reasoning,
    # audio input or cache tokens. What no detail explains is hidden reasoning, which one vendor bills and reports
    # nowhere else.
    excess = 0 if counts.total is None else counts.total - prompt - completion
    if excess > 0:
        for left_in, left_out in ((0, reasoning), (audio_in, 0), (cached + written, 0), (audio_in, reasoning)):
            if excess == left_in + left_out:
                prompt += left_in
                completion += left_out
                break
        else:
            reasoning += excess
            completion += excess
    elif reasoning > completion:
        completion += reasoning  # A part larger than the whole was not in it.

    if cached > prompt or written > prompt:
        # Some servers count the cache hits of a hidden prefix that they do not count as prompt. The totals are good.
        cached = written = 0
        sound = False
    elif cached + written > prompt:
        cached = max(cached - written, 0)  # One prefix, read and written at once: the lesser is part of the greater.
    # Parts may overlap (an image read from the cache); the prompt is shared out once, cache first.
    written, prompt = _take(written, prompt)
    cached, prompt = _take(cached, prompt)
    audio_in, prompt = _take(audio_in, prompt)
    image_in, prompt = _take(_zero(counts.image_in), prompt)
    reasoning, completion = _take(reasoning, completion)
    audio_out, completion = _take(_zero(counts.audio_out), completion)
    image_out, completion = _take(_zero(counts.image_out), completion)
    usage = Usage(
        in_fresh=prompt,
        in_cache_read=cached,
        in_cache_write_5m=written,
        in_audio=audio_in,
        in_image=image_in,
        out_text=completion,
        out_reasoning=reasoning,
        out_audio=audio_out,
        out_image=image_out,
    )
    return usage, sound


def _ends(counts: _Counts, *, generates: bool) -> tuple[int | None, int | None]:
    """Prompt and completion; one that is missing is what the other leaves of the total."""
    prompt, completion, total = counts.prompt, counts.completion, counts.total
    if prompt is None and completion is not None and total is not None and total >= completion:
        prompt = total - completion
    if completion is None and prompt is not None:
        if total is not None and total >= prompt:
            completion = total - prompt
        elif not generates:
            completion = 0
    return prompt, completion


def _take(part: int, whole: int) -> tuple[int, int]:
    """At most `whole` of `part`, and what is left of `whole`."""
    taken = min(part, whole)
    return taken, whole - taken
