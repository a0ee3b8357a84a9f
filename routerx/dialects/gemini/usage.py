"""Usage on the generateContent wire, both ways: cumulative reports, a prompt that includes what came from the cache,
and thoughts beside the answer's own tokens (PROVIDERS.md 6b, 6c)."""

from typing import Any

from routerx.domain.usage import Usage

TOKENS_MAX = 1 << 40

_COUNTS = (
    "promptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "totalTokenCount",
)
_DETAILS = ("promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails")


class UsageReader:
    """Reads the `usageMetadata` of one answer, one or many. Per field the last value that is one stands."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.anomaly = False
        """A report was present and unusable, in whole or in part."""
        self._counts: dict[str, int] = {}
        self._details: dict[str, dict[str, int]] = {}

    def read(self, report: Any) -> None:
        """Take one report, decoded. Null is none."""
        if report is None:
            return
        if not isinstance(report, dict):
            self.anomaly = True
            return
        for key in _COUNTS:
            value = report.get(key)
            if value is None:
                continue
            if type(value) is int and 0 <= value <= TOKENS_MAX:
                self._counts[key] = value
            else:
                self.anomaly = True
        for key in _DETAILS:
            if isinstance(report.get(key), list):
                self._details[key] = _by_modality(report[key])
        own = {key: report[key] for key in _COUNTS if type(report.get(key)) is int}
        if "totalTokenCount" in own and "promptTokenCount" in own and own["totalTokenCount"] == _sum(own):
            # Whole by itself; what came from the cache is a part of the prompt that later reports may leave out.
            cached = {key: self._counts[key] for key in ("cachedContentTokenCount",) if key in self._counts}
            self._counts = cached | {key: value for key, value in own.items() if 0 <= value <= TOKENS_MAX}
        if "promptTokenCount" in self._counts or "totalTokenCount" in self._counts:
            self.usage = self._buckets()

    def _buckets(self) -> Usage:
        count = self._counts.get
        tools, thoughts = count("toolUsePromptTokenCount", 0), count("thoughtsTokenCount", 0)
        answer = self._counts.get("candidatesTokenCount")
        prompt = self._counts.get("promptTokenCount")
        total = count("totalTokenCount", 0)
        if prompt is None:
            prompt = max(0, total - thoughts - tools - (answer if answer is not None else 0))
        if answer is None:
            answer = max(0, total - prompt - thoughts - tools)
        cached = min(count("cachedContentTokenCount", 0), prompt)
        if cached < count("cachedContentTokenCount", 0):
            self.anomaly = True
        fresh = prompt - cached
        into, hit = self._details.get("promptTokensDetails", {}), self._details.get("cacheTokensDetails", {})
        # The split by kind counts cached tokens, too.
        audio = min(max(0, into.get("AUDIO", 0) - hit.get("AUDIO", 0)), fresh)
        image = min(max(0, into.get("IMAGE", 0) - hit.get("IMAGE", 0)), fresh - audio)
        out = self._details.get("candidatesTokensDetails", {})
        made_audio = min(out.get("AUDIO", 0), answer)
        made_image = min(out.get("IMAGE", 0), answer - made_audio)
        return Usage(
            in_fresh=fresh - audio - image + tools,
            in_cache_read=cached,
            in_audio=audio,
            in_image=image,
            out_text=answer - made_audio - made_image,
            out_reasoning=thoughts,
            out_audio=made_audio,
            out_image=made_image,
        )


def _sum(counts: dict[str, int]) -> int:
    parts = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount")
    return sum(counts.get(key, 0) for key in parts)


def _by_modality(details: list[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in details:
        if isinstance(item, dict) and type(item.get("tokenCount")) is int and item["tokenCount"] >= 0:
            kind = str(item.get("modality"))
            counts[kind] = counts.get(kind, 0) + item["tokenCount"]
    return counts


def usage_metadata(usage: Usage) -> dict[str, Any]:
    """The `usageMetadata` of an answer."""
    encoded: dict[str, Any] = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.out_reasoning,
        "totalTokenCount": usage.total_tokens,
    }
    if usage.in_cache_read:
        encoded["cachedContentTokenCount"] = usage.in_cache_read
    if usage.out_reasoning:
        encoded["thoughtsTokenCount"] = usage.out_reasoning
    into = {"AUDIO": usage.in_audio, "IMAGE": usage.in_image}
    out = {"AUDIO": usage.out_audio, "IMAGE": usage.out_image}
    for key, parts in (("promptTokensDetails", into), ("candidatesTokensDetails", out)):
        if any(parts.values()):
            encoded[key] = [{"modality": kind, "tokenCount": count} for kind, count in parts.items() if count]
    return encoded
