"""A fake of Gemini's generateContent, after its reference and the official client's types.

Calls come without ids, answers go by name and order. Thoughts are told where they were asked for, and count beside
`candidatesTokenCount`. The first call of a turn is signed, and must come back with its signature, as for Gemini 3.
"""

import re
from collections.abc import Mapping
from typing import Any

from google.genai import types
from pydantic import BaseModel, ValidationError

from tests.support.natives.script import (
    Heard,
    Said,
    Tokens,
    pieces,
    refuse_unless,
    said,
    scenario_of,
    size_of,
    tokens_of,
    turn_of,
    without,
)
from tests.support.natives.server import KEY, Native, Reply, Sent, dumped
from tests.support.natives.shapes import complaints

Json = dict[str, Any]

SIGNATURE = "+/++IG5hdGl2ZSB0aG91Z2h0IP/++yE="
UNSIGNED = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
"""What the vendor takes in the place of a signature for calls that it did not make."""
UPLOADS = ("https://generativelanguage.googleapis.com/", "https://www.youtube.com/", "https://youtu.be/", "gs://")
FIELDS: Mapping[str, type[BaseModel] | type[str]] = {
    "contents": types.Content,
    "systemInstruction": types.Content,
    "tools": types.Tool,
    "toolConfig": types.ToolConfig,
    "safetySettings": types.SafetySetting,
    "generationConfig": types.GenerationConfig,
    "cachedContent": str,
    "serviceTier": str,
    "store": str,
}
LISTS = ("contents", "tools", "safetySettings")


class Gemini(Native):
    """POST /v1/models/{model}:generateContent and :streamGenerateContent?alt=sse, and the same below /v1beta."""

    name = "gemini"

    def tokens(self, scenario: str, turn: int) -> Tokens:
        return without(tokens_of(scenario, turn), "write_5m", "write_1h")

    def refused(self, reason: str) -> Mapping[str, Any]:
        return {"error": {"code": 400, "message": reason, "status": "INVALID_ARGUMENT"}}

    def answer(self, sent: Sent) -> Reply:
        refuse_unless(sent.headers.get("x-goog-api-key") == KEY, "no API key")
        head, _, method = sent.path.partition(":")
        found = re.fullmatch(r"/v1(?:beta)?/models/([^/]+)", head)
        refuse_unless(found, f"no such path: {sent.path}")
        assert found is not None
        refuse_unless(method in ("generateContent", "streamGenerateContent"), f"no such method: {method}")
        stream = method == "streamGenerateContent"
        refuse_unless(not stream or sent.query.get("alt") == "sse", "a stream is asked for as alt=sse")
        _check(sent.body)
        model = found[1]
        heard = _heard(model, sent)
        config = _named(sent.body.get("generationConfig") or {})
        wish = _named(config.get("thinkingConfig") or {})
        if heard.scenario == "reasoning":
            refuse_unless(wish.get("thinkingBudget") != 0, "thinking is switched off")
        answer, tokens = said(heard), self.tokens(heard.scenario, turn_of(heard))
        parts = _parts(answer, tells=wish.get("includeThoughts") is True)
        if not stream:
            return Reply(_whole(model, parts, tokens))
        return Reply(frames=tuple(_frames(model, parts, tokens)), content_type="text/event-stream")


def _check(body: Json) -> None:
    for name, value in body.items():
        refuse_unless(name in FIELDS, f"Unknown name {name!r}: Cannot find field.")
        kind = FIELDS[name]
        refuse_unless(isinstance(value, list) == (name in LISTS), f"{name} is {value!r}")
        for one in value if isinstance(value, list) else [value]:
            if not issubclass(kind, BaseModel):
                wrong = complaints(one, kind, name)
                refuse_unless(not wrong, "; ".join(wrong))
                continue
            try:
                kind.model_validate(one)
            except ValidationError as error:
                refuse_unless(False, f"{name}: {error}")


# --- hearing


def _heard(model: str, sent: Sent) -> Heard:
    body = sent.body
    refuse_unless(body.get("contents"), "contents are not specified")
    contents = [
        {**content, "parts": [_part(one) for one in content.get("parts") or ()]} for content in body["contents"]
    ]
    refuse_unless(contents[0].get("role") in ("user", None), "the first content is not the user's")
    for place, content in enumerate(contents):
        refuse_unless(
            content.get("role") in ("user", "model", None), f"contents[{place}]: role {content.get('role')!r}"
        )
        refuse_unless(content.get("parts"), f"contents[{place}]: parts must not be empty")
    parts = [part for content in contents for part in content["parts"]]
    pictures = [_picture(part) for part in parts if "inlineData" in part or "fileData" in part]
    tools = [one for tool in body.get("tools", ()) for one in tool.get("functionDeclarations", ())]
    return Heard(
        scenario_of(model),
        "\n".join(part["text"] for part in (body.get("systemInstruction") or {}).get("parts", ())),
        frozenset(str(one["name"]) for one in tools),
        _results(sent, contents),
        tuple(size for size in pictures if size is not None),
        _schema(_named(body.get("generationConfig") or {})),
    )


def _part(part: Json) -> Json:
    """With names in camel case; the vendor takes, and its client sends, both."""
    return {_camel(name): _named(value) for name, value in part.items()}


def _named(value: Any) -> Any:
    return {_camel(name): inner for name, inner in value.items()} if isinstance(value, dict) else value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _picture(part: Json) -> tuple[int, int] | None:
    """The size of a picture; None for bytes of another kind."""
    if "fileData" in part:
        uri = str(_named(part["fileData"]).get("fileUri"))
        refuse_unless(uri.startswith(UPLOADS), f"{uri} is no upload, and this vendor does not fetch")
        return None
    data = part["inlineData"]["data"].replace("-", "+").replace("_", "/")  # The client writes the other alphabet.
    if not part["inlineData"]["mimeType"].startswith("image/"):
        return None
    return size_of(data, part["inlineData"]["mimeType"])


def _schema(config: Json) -> Json | None:
    schema: Json | None = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is not None:
        refuse_unless(config.get("responseMimeType") == "application/json", "a schema without its responseMimeType")
    return schema


def _results(sent: Sent, contents: list[Json]) -> tuple[str, ...] | None:
    wanted: list[Json] = []
    found: list[str] = []
    for place, content in enumerate(contents):
        results = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        refuse_unless(
            len(results) == len(wanted),
            "the number of function response parts must equal the number of function call parts of the turn before",
        )
        for call, result in zip(wanted, _in_order(wanted, results), strict=True):
            refuse_unless(result["name"] == call["name"], f"{result['name']} answered for {call['name']}")
            refuse_unless(isinstance(result.get("response"), dict), "a response that is no object")
            found.append("".join(_leaves(result["response"])))
        wanted = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
        _check_signatures(sent, content["parts"], place)
    refuse_unless(not wanted, "calls without responses")
    return tuple(found) if found else None


def _in_order(calls: list[Json], results: list[Json]) -> list[Json]:
    """Results as their calls stood: by id where there is one, else the next of that name."""
    rest, found = list(results), []
    for call in calls:
        key = "id" if call.get("id") is not None else "name"
        fitting = next((one for one in rest if one.get(key) == call[key]), None)
        refuse_unless(fitting is not None, f"no response for {call['name']}")
        assert fitting is not None
        rest.remove(fitting)
        found.append(fitting)
    return found


def _check_signatures(sent: Sent, parts: list[Json], place: int) -> None:
    calls = [part for part in parts if "functionCall" in part]
    if calls:
        signature = calls[0].get("thoughtSignature")
        refuse_unless(signature is not None, f"contents[{place}]: function call is missing a thought_signature")
    for part in parts:
        if "thoughtSignature" in part:
            given = part["thoughtSignature"].replace("-", "+").replace("_", "/")
            sent.signatures += [given] if given == SIGNATURE else []
            known = given == SIGNATURE or part["thoughtSignature"] in UNSIGNED
            refuse_unless(known, f"contents[{place}]: signature {part['thoughtSignature']!r} is not valid")


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in _leaves(one)]
    if isinstance(value, list):
        return [leaf for one in value for leaf in _leaves(one)]
    return [str(value)]


# --- saying


def _parts(answer: Said, *, tells: bool) -> list[Json]:
    parts: list[Json] = []
    if answer.thought and tells:
        parts.append({"text": answer.thought, "thought": True})
    if answer.text:
        parts.append({"text": answer.text})
        if answer.thought:
            parts[-1]["thoughtSignature"] = SIGNATURE
    for place, call in enumerate(answer.calls):
        parts.append({"functionCall": {"name": call.name, "args": dict(call.arguments)}})
        if place == 0:
            parts[-1]["thoughtSignature"] = SIGNATURE
    return parts


def _usage(tokens: Tokens) -> Json:
    usage: Json = {
        "promptTokenCount": tokens.prompt,
        "cachedContentTokenCount": tokens.read,
        "candidatesTokenCount": tokens.text,
        "totalTokenCount": tokens.prompt + tokens.output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens.prompt}],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": tokens.read}],
    }
    return usage | ({"thoughtsTokenCount": tokens.thought} if tokens.thought else {})


def _told(model: str, parts: list[Json], usage: Json, finish: str | None) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "native1"}


def _whole(model: str, parts: list[Json], tokens: Tokens) -> Json:
    return _told(model, parts, _usage(tokens), "STOP")


def _frames(model: str, parts: list[Json], tokens: Tokens) -> list[bytes]:
    """Calls come whole, texts in pieces, the signature of a text behind it; usage grows from chunk to chunk."""
    said_so_far: list[Json] = []
    for part in parts:
        if "functionCall" in part:
            said_so_far.append(part)
            continue
        more = {"thought": True} if part.get("thought") else {}
        said_so_far += [{"text": piece, **more} for piece in pieces(part["text"])]
        if "thoughtSignature" in part:
            said_so_far.append({"text": "", "thoughtSignature": part["thoughtSignature"]})
    early = {"promptTokenCount": tokens.prompt, "totalTokenCount": tokens.prompt, "candidatesTokenCount": 1}
    last = len(said_so_far) - 1
    events = [
        _told(model, [part], _usage(tokens) if place == last else early, "STOP" if place == last else None)
        for place, part in enumerate(said_so_far)
    ]
    return [b"data: " + dumped(event) + b"\r\n\r\n" for event in events]
