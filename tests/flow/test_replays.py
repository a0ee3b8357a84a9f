"""Answers kept for idempotency keys: told again after a restart, by whoever may have them and nobody else."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from routerx.http.calls import CALLS, GENERATE_PATHS, MESSAGES_PATH
from routerx.http.explain import PATH as EXPLAIN_PATH
from tests.flow.flow_kit import UP_COST
from tests.support.gateway import HELLO, KEY, TENANT, Config, Gateway, Reply, config, digest, running, wait_for
from tests.support.upstream import Json, Ok, ScriptedUpstream, Status, Stream

CHAT = "/v1/chat/completions"
NARROW_KEY, WIDE_KEY = "narrow_tenant_key_123456", "wide_tenant_key_12345678"
VAULT_KEYS = ["a-vault-key-of-32-characters-or-more", "b-vault-key-of-32-characters-or-more"]
FREE = {EXPLAIN_PATH, MESSAGES_PATH + "/count_tokens"}
"""POST routes that charge nobody."""


async def ask(gw: Gateway, key: str = "order-1", *, tenant: str = KEY, path: str = CHAT, **said: Any) -> Reply:
    body = said.pop("body", {"model": "solo", "messages": HELLO, **said})
    return await gw.ask("POST", path, body, key=tenant, headers={"Idempotency-Key": key})


def replayed(reply: Reply) -> bool:
    assert reply.status == 200, reply.body
    return reply.headers.get("idempotent-replayed") == "true"


def sealed_with(up: str, *keys: str) -> Config:
    value = config(up)
    value["server"]["vault_keys"] = list(keys)
    return value


# --- after a restart


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_told_again_after_a_restart(tmp_path: Path, up: ScriptedUpstream, stream: bool) -> None:
    up.default = Stream(["x" * 50_000] * 5) if stream else Ok("y" * 250_000)
    async with running(tmp_path, config(up.url)) as gw:
        first = await ask(gw, stream=stream)
    async with running(tmp_path, config(up.url)) as gw:
        for _ in range(2):
            again = await ask(gw, stream=stream)
            assert replayed(again)
            assert again.body == first.body
            assert again.headers["content-type"] == first.headers["content-type"]
            assert again.headers["x-routerx-provider"] == "up"
            assert stream or float(again.headers["x-routerx-cost-usd"]) == 0
        assert (await ask(gw, stream=not stream)).error["code"] == "idempotency_mismatch"
        assert await gw.spent() == UP_COST
        await gw.assert_books_are_clean()
    assert len(up.requests) == 1


async def test_what_is_on_disk_says_nothing_to_who_has_no_key(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.default = Ok("the launch code is swordfish")
    async with running(tmp_path, sealed_with(up.url, VAULT_KEYS[0])) as gw:
        await ask(gw, "a-key-of-mine")
        (gw.data / ".ballast").unlink(missing_ok=True)
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    kept = tmp_path / "data" / "answers.db"
    assert kept in files
    assert kept.stat().st_mode & 0o077 == 0
    for path in files:
        assert not any(text in path.read_bytes() for text in (b"swordfish", b"a-key-of-mine", VAULT_KEYS[0].encode()))


async def test_an_answer_whose_vault_key_is_gone_is_not_told_again(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, sealed_with(up.url, VAULT_KEYS[0])) as gw:
        await ask(gw)
    async with running(tmp_path, sealed_with(up.url, VAULT_KEYS[1])) as gw:
        assert ((await ask(gw)).status, (await ask(gw)).error["code"]) == (409, "replay_unavailable")
        assert await gw.spent() == UP_COST
    async with running(tmp_path, sealed_with(up.url, VAULT_KEYS[1], VAULT_KEYS[0])) as gw:
        assert replayed(await ask(gw))


async def test_a_damaged_file_costs_the_answers_and_no_more(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, config(up.url)) as gw:
        await ask(gw)
    (tmp_path / "data" / "answers.db").write_bytes(b"no database" * 1_000)
    async with running(tmp_path, config(up.url)) as gw:
        assert (await ask(gw)).error["code"] == "replay_unavailable"
        await ask(gw, "order-2")
        assert await gw.spent() == 2 * UP_COST
    async with running(tmp_path, config(up.url)) as gw:
        assert replayed(await ask(gw, "order-2"))


async def test_the_operator_may_keep_nothing_on_disk(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    async with running(tmp_path, value) as gw:
        await ask(gw)
    value["server"]["idempotency"] = {"on_disk": "off"}
    async with running(tmp_path, value) as gw:
        assert not list(gw.data.glob("answers.db*"))
        assert (await ask(gw)).error["code"] == "replay_unavailable"
        await ask(gw, "order-2")
        assert replayed(await ask(gw, "order-2"))
        assert not list(gw.data.glob("answers.db*"))


async def test_a_key_whose_request_failed_before_a_restart_is_free(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    up.queue(Status(400))
    async with running(tmp_path, value) as gw:
        assert (await ask(gw)).status == 400
    async with running(tmp_path, value) as gw:
        assert (await ask(gw, temperature=0.5)).status == 200
        assert replayed(await ask(gw, temperature=0.5))
        assert (await ask(gw)).error["code"] == "idempotency_mismatch"


# --- whose they are


async def test_a_restricted_key_is_not_told_what_another_key_was(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["tenants"][TENANT]["keys"] += [{"key": digest(NARROW_KEY), "allow": ["solo"]}, digest(WIDE_KEY)]
    up.queue(Ok("wide"), Ok("narrow"))
    async with running(tmp_path, value) as gw:
        first, narrow, wide = await ask(gw), await ask(gw, tenant=NARROW_KEY), await ask(gw, tenant=WIDE_KEY)
        assert [one.text for one in (first, narrow, wide)] == ["wide", "narrow", "wide"]
        assert [replayed(one) for one in (first, narrow, wide)] == [False, False, True]
    async with running(tmp_path, value) as gw:
        assert (await ask(gw, tenant=NARROW_KEY)).text == "narrow"
        assert (await ask(gw)).text == "wide"
    assert len(up.requests) == 2


# --- every route


async def test_every_route_that_can_charge_takes_a_key(tmp_path: Path, up: ScriptedUpstream) -> None:
    """A malformed one is refused before anything else is read, so each route shows whether it looks."""
    async with running(tmp_path, config(up.url)) as gw:
        posts = {path for method, path in gw.runtime._app()._routes if method == "POST"} - FREE
        assert posts == set(CALLS)
        paths = posts | {
            f"{base}solo:{method}" for base in GENERATE_PATHS for method in ("generateContent", "streamGenerateContent")
        }
        for path in sorted(paths):
            reply = await ask(gw, "x" * 256, path=path)
            assert reply.status == 400, path
            assert b"Idempotency-Key takes 1 to 255" in reply.body
    assert not up.requests


async def test_gemini_routes_tell_again(tmp_path: Path, up: ScriptedUpstream) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    async with running(tmp_path, config(up.url)) as gw:
        for key, path in (("a", "solo:generateContent"), ("b", "solo:streamGenerateContent?alt=sse")):
            first, second = [await ask(gw, key, path=f"/v1beta/models/{path}", body=body) for _ in range(2)]
            assert [replayed(first), replayed(second)] == [False, True]
            assert first.body == second.body
        other = await ask(gw, "a", path="/v1beta/models/flat:generateContent", body=body)
        assert other.status == 422
    assert len(up.requests) == 2


async def test_forms_that_differ_are_told_apart_and_boundaries_do_not_count(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = config(up.url)
    value["models"]["ear"] = {"kind": "transcription", "endpoints": [{"provider": "up", "price": {"request": 1}}]}

    up.default = Json({"text": "Hello"})

    def form(mark: str, sound: str) -> bytes:
        head = f"--{mark}\r\nContent-Disposition: form-data; name="
        model, file = f'{head}"model"\r\n\r\near\r\n', f'{head}"file"; filename="a.wav"\r\n\r\n{sound}\r\n'
        return f"{model}{file}--{mark}--\r\n".encode()

    async with running(tmp_path, value) as gw:
        seen = []
        for mark, sound in (("an", "banana"), ("zz", "banana"), ("an", "ba")):
            headers = {"Idempotency-Key": "order-1", "Content-Type": f"multipart/form-data; boundary={mark}"}
            reply = await gw.ask("POST", "/v1/audio/transcriptions", form(mark, sound), headers=headers)
            seen.append((reply.status, reply.headers.get("idempotent-replayed")))
        assert seen == [(200, None), (200, "true"), (422, None)]


# --- what is not charged after all


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_whose_charge_cannot_be_written_is_free(tmp_path: Path, up: ScriptedUpstream, stream: bool) -> None:
    async with running(tmp_path, config(up.url)) as gw:
        async with gw.commits_failing():
            first = await ask(gw, stream=stream)
            error = first.stream_error if stream else first.error
            assert error is not None
            assert error["code"] == "storage_unavailable"
        await wait_for(lambda: gw.runtime.ledger.health().ok)
        again = await ask(gw, stream=stream)
        assert not replayed(again)
        assert replayed(await ask(gw, stream=stream))
        assert await gw.spent() == UP_COST
        await gw.assert_books_are_clean()


async def test_who_left_before_its_charge_was_lost_is_served_anew(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["plans"]["prepaid"]["on_disconnect"] = "cancel"
    up.queue(Stream(["Hel", "lo"], gates={2: asyncio.Event()}))
    async with running(tmp_path, value) as gw:
        async with gw.commits_failing():
            caller = await gw.connect()
            said = {"model": "solo", "messages": HELLO, "stream": True}
            await caller.send("POST", CHAT, said, headers={"Idempotency-Key": "order-1"})
            await caller.head()
            await caller.until(b"Hel")
            caller.leave()
            assert (await gw.settled()).cost_nano > 0
            await wait_for(lambda: gw.runtime.ledger.health().queue == 0)
        assert (await ask(gw, stream=True)).text == "Hello from upstream"
        assert await gw.spent() == UP_COST


async def test_a_fault_of_ours_leaves_it_to_the_books_whether_a_key_was_charged(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError

    async with running(tmp_path, config(up.url)) as gw:
        for place, code in (("settler.settle", None), ("metrics.observe", "replay_unavailable")):
            with monkeypatch.context() as patch:
                part, name = place.split(".")
                patch.setattr(getattr(gw.runtime.gateway._parts, part), name, broken)
                assert (await ask(gw, place)).error["code"] == "internal_error"
            await wait_for(lambda: gw.runtime.ledger.health().queue == 0)
            again = await ask(gw, place)
            assert (again.status == 200) is (code is None)
            assert code is None or again.error["code"] == code
        assert await gw.spent() == 2 * UP_COST
