"""Rows U to W: what operators move afterwards and beside, and what is not counted in tokens of text."""

from dataclasses import replace
from typing import Any

from tests.flow.money.answers import OVERRUN, POOR, TOO_MUCH, Reports
from tests.flow.money.kit import (
    REPORTED,
    UP,
    VOID,
    ByCell,
    Cell,
    Expect,
    Held,
    Row,
    Scene,
    Wire,
    answers,
    opened_with,
    planned,
)
from tests.flow.money.oracle import Price, Terms, Used, owed_nano
from tests.flow.money.routes import FEE, FREE, OWN, OWN_KEY
from tests.support.behaviours import Behaviour
from tests.support.gateway import USD, Config, Reply
from tests.support.upstream import Json, Ok

COST = owed_nano(REPORTED, Terms(UP))
LEAST = "0.000000001"
PAID_OF_IT = USD // 100
"""All that there was."""

# --- given back: U


async def _refund(scene: Scene, cell: Cell, **fields: Any) -> Reply:
    body = {"request_id": scene.replies[cell].headers["x-request-id"], **fields}
    return await scene.admin("POST", f"/tenants/{cell}/refund", body)


async def _given_back(scene: Scene, cell: Cell) -> None:
    """All of it, once; there is nothing left to give."""
    await answers(Ok())(scene, cell)
    assert (await _refund(scene, cell)).json["amount_nano"] == COST
    assert (await _refund(scene, cell)).json["amount_nano"] == COST  # The same one: all that is left goes back once.
    assert (await _refund(scene, cell, amount=LEAST)).status == 409


async def _given_back_in_parts(scene: Scene, cell: Cell) -> None:
    """Each part by its own reference, and together no more than was paid."""
    await answers(Ok())(scene, cell)
    for _ in range(2):
        assert (await _refund(scene, cell, amount=LEAST, reference=f"part of {cell}")).status == 200
    assert (await _refund(scene, cell, amount="0.000013")).status == 409
    assert (await _refund(scene, cell, amount="0.000012999")).status == 200
    assert (await _refund(scene, cell, amount=LEAST)).status == 409


async def _given_back_of_an_overrun(scene: Scene, cell: Cell) -> None:
    """What was written off was never paid."""
    await answers(Reports(TOO_MUCH))(scene, cell)
    assert (await _refund(scene, cell, amount="0.010000001")).status == 409
    assert (await _refund(scene, cell)).json["amount_nano"] == PAID_OF_IT


async def _given_back_of_a_fee(scene: Scene, cell: Cell) -> None:
    await answers(Ok(), headers=OWN_KEY)(scene, cell)
    assert (await _refund(scene, cell)).json["amount_nano"] == owed_nano(REPORTED, FEE)


async def _nothing_to_give_back(scene: Scene, cell: Cell) -> None:
    await answers(Ok(), model="solo:free")(scene, cell)
    assert (await _refund(scene, cell)).status == 409
    other = next(one for one in scene.replies if one is not cell) if len(scene.replies) > 1 else None
    if other is not None:  # And not that of another tenant either.
        body = {"request_id": scene.replies[other].headers["x-request-id"]}
        assert (await scene.admin("POST", f"/tenants/{cell}/refund", body)).status == 404


async def _given_out_of_goodwill(scene: Scene, cell: Cell) -> None:
    await answers(Ok())(scene, cell)
    assert (await scene.admin("POST", f"/tenants/{cell}/adjust", {"amount": "0.25", "note": "sorry"})).status == 200


# --- paid in: V


async def _paid_in(scene: Scene, cell: Cell) -> None:
    """Once for each payment, whoever tells of it how often, and not with another amount."""
    for _ in range(3):
        reply = await scene.admin("POST", f"/tenants/{cell}/topup", {"amount": "1.5", "reference": f"bank-{cell}"})
        assert (reply.status, reply.json["amount_nano"]) == (200, 1_500_000_000)
    for other in ("1.500000001", "15"):
        reply = await scene.admin("POST", f"/tenants/{cell}/topup", {"amount": other, "reference": f"bank-{cell}"})
        assert (reply.status, reply.json["error"]["code"]) == (409, "conflict")
    await scene.admin("POST", f"/tenants/{cell}/topup", {"amount": LEAST, "reference": f"other-{cell}"})


BOOKED = (
    Row("U", "given_back", _given_back, Expect(moved=COST, kinds=("charge", "refund"))),
    Row(
        "U",
        "given_back_in_parts",
        _given_back_in_parts,
        Expect(moved=COST, kinds=("charge", "refund", "refund")),
    ),
    Row(
        "U",
        "given_back_of_an_overrun",
        _given_back_of_an_overrun,
        Expect(
            Used(in_fresh=50_000, out_text=3),
            written_off=OVERRUN,
            flags=frozenset({"overrun"}),
            moved=PAID_OF_IT,
            kinds=("charge", "writeoff", "refund"),
        ),
        opened_with(POOR),
    ),
    Row(
        "U",
        "given_back_of_a_fee",
        _given_back_of_a_fee,
        Expect(billing="byok", terms=FEE, flags=OWN, moved=owed_nano(REPORTED, FEE), kinds=("byok_fee", "refund")),
        planned(byok_fee="12.5%"),
    ),
    Row("U", "nothing_to_give_back", _nothing_to_give_back, FREE, planned(free_suffix="any")),
    Row(
        "U",
        "given_out_of_goodwill",
        _given_out_of_goodwill,
        Expect(moved=250_000_000, kinds=("charge", "adjustment")),
    ),
    Row(
        "V",
        "paid_in",
        _paid_in,
        replace(VOID, rows=0, moved=1_500_000_001, kinds=("topup", "topup")),
    ),
)

# --- by the unit: W


OTHER = "it has a route of its own, and no dialects"
ITEMS: dict[str, tuple[str, Price]] = {
    "painter": ("image", {"input": 0, "output": 0, "request": "0.04"}),
    "token-painter": ("image", {"input": 5, "output": 0, "image_input": 10, "image_output": 40}),
    "voice": ("speech", {"input": 15, "output": 0}),
    "ear": ("transcription", {"input": 0, "output": 0, "audio_input": 100}),
    "ranker": ("rerank", {"input": 0, "output": 0, "request": "0.002"}),
}


def _items(value: Config) -> None:
    for name, (kind, price) in ITEMS.items():
        value["models"][name] = {"kind": kind, "endpoints": [{"provider": "up", "price": price}]}


def unit(name: str, path: str, body: dict[str, Any], says: Behaviour, used: Used, **more: Any) -> Row:
    """One operation beside chat, as one caller asks for it."""

    async def play(scene: Scene, cell: Cell) -> None:
        scene.up.default = says
        scene.replies[cell] = await scene.gateway.ask("POST", path, body, key=cell.key)
        assert scene.replies[cell].status == 200, scene.replies[cell].body
        await scene.gateway.settled()

    model = body["model"]
    price = {"input": 1} if model == "vectors" else ITEMS[model][1]
    expect = Expect(used, terms=Terms(price), held=Held.UNSAID, **more)
    return Row("W", name, play, _one_cell(expect), _items)


def _one_cell(expect: Expect) -> ByCell:
    return lambda cell: expect if cell == Cell(Wire.CHAT, False) else OTHER


PICTURE = {"b64_json": "aGk="}
PAINTED = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 1_056,
    "total_tokens": 1_106,
}
THREE = {"model": "painter", "prompt": "A lighthouse", "n": 3}
PAINTERS_PROMPT = 36
"""Tokens that its words are likely to have."""
MEDIUM = 1_056
"""Tokens of one image, where the quality is not said."""
HITS = [{"index": n, "relevance_score": 0.5} for n in range(2)]

UNITS = (
    unit(
        "embeddings",
        "/v1/embeddings",
        {"model": "vectors", "input": ["a", "b"]},
        Ok(),
        Used(in_fresh=7),
    ),
    unit(
        "images",
        "/v1/images/generations",
        THREE,
        Json({"created": 1, "data": [PICTURE] * 3}),
        Used(in_fresh=PAINTERS_PROMPT, out_image=3 * MEDIUM, requests=3),
        source="estimated",
    ),
    unit(
        "images_of_which_fewer_came",
        "/v1/images/generations",
        THREE,
        Json({"created": 1, "data": [PICTURE] * 2}),
        Used(in_fresh=PAINTERS_PROMPT, out_image=2 * MEDIUM, requests=2),
        source="estimated",
    ),
    unit(
        "images_by_the_token",
        "/v1/images/generations",
        {"model": "token-painter", "prompt": "A lighthouse", "quality": "medium"},
        Json({"created": 1, "data": [PICTURE], "usage": PAINTED}),
        Used(in_fresh=10, in_image=40, out_image=1_056),
    ),
    unit(
        "speech_by_the_character",
        "/v1/audio/speech",
        {"model": "voice", "voice": "alloy", "input": "Grüße, Welt!"},
        Json(b"\xff\xfb\x90", headers={"content-type": "audio/mpeg"}),
        Used(in_fresh=12, out_audio=17),
        source="estimated",
    ),
    unit(
        "rerank_by_the_search_unit",
        "/v1/rerank",
        {"model": "ranker", "query": "who", "documents": ["a", "b"]},
        Json({"id": "r", "results": HITS, "meta": {"billed_units": {"search_units": 2}}}),
        Used(requests=2),
    ),
)

ROWS = (*BOOKED, *UNITS)
