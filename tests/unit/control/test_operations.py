"""The control plane's rules, over a ledger in memory."""

import asyncio
import re
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.control.key_values import NewKeyOrder
from routerx.control.keys import TEXT_CHARS_MAX
from routerx.control.operations import Operations
from routerx.control.values import LogLine, ModelQuery, NewTenant
from routerx.control.views import iso_time
from routerx.errors import Conflict, InvalidParameter, ModelNotFound, NotFound, StorageUnavailable
from routerx.ledger.base import LogQuery
from routerx.money import format_usd, parse_usd
from routerx.secrets import key_digest, key_id
from tests.cli.support import DEMO_KEY, USD, Control, record


@pytest.fixture
async def control() -> Control:
    return await Control().start()


@pytest.fixture
def operations(control: Control) -> Operations:
    return control.operations


async def test_money_is_shown_exactly_and_twice(operations: Operations) -> None:
    funds = (await operations.tenant("demo")).funds

    assert (funds.balance_usd, funds.balance_nano) == ("25.00", 25 * USD)
    assert (funds.spent_today_usd, funds.spent_today_nano) == ("0.003674", 3_674_000)
    assert funds.available_nano == 25 * USD - funds.held_nano


async def test_a_tenant_that_is_not_billed_has_no_limit_of_money(operations: Operations) -> None:
    assert (await operations.tenant("lab")).funds.available_usd is None


async def test_tenants_come_by_name(operations: Operations) -> None:
    assert [tenant.name for tenant in await operations.tenants()] == ["demo", "lab"]


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda ops: ops.tenant("dmo"), "did you mean 'demo'?"),
        (lambda ops: ops.top_up("dmo", "5", reference=None, note=None, actor="x"), "did you mean 'demo'?"),
        (lambda ops: ops.adjust("dmo", "5", note=None, actor="x"), "did you mean 'demo'?"),
        (lambda ops: ops.suspend("dmo", reason=None, actor="x"), "did you mean 'demo'?"),
        (lambda ops: ops.unsuspend("zzz", actor="x"), "There is no tenant 'zzz'."),
        (lambda ops: ops.keys.every("dmo"), "did you mean 'demo'?"),
        (lambda ops: ops.keys.create(NewKeyOrder("dmo"), actor="x"), "did you mean 'demo'?"),
        (lambda ops: ops.logs(LogQuery(tenant="dmo")), "did you mean 'demo'?"),
        (lambda ops: ops.create_tenant(NewTenant("new", plan="standrd"), actor="x"), "did you mean 'standard'?"),
        (lambda ops: ops.create_tenant(NewTenant("new", policy="defalt"), actor="x"), "did you mean 'default'?"),
        (lambda ops: ops.models(ModelQuery(kind="chats")), "did you mean 'chat'?"),
    ],
)
async def test_an_unknown_name_is_answered_with_the_nearest(operations: Operations, call, near: str) -> None:
    with pytest.raises(NotFound, match="There is no") as caught:
        await call(operations)

    assert near in caught.value.message


async def test_a_top_up_is_credited_once_per_reference(control: Control, operations: Operations) -> None:
    first = await operations.top_up("demo", "$2.50", reference="inv-1", note=" paid ", actor="socket")
    again = await operations.top_up("demo", "$2.50", reference="inv-1", note=None, actor="socket")

    assert (first.amount_nano, first.balance_usd, first.note, first.actor) == (
        25 * USD // 10,
        "27.50",
        "paid",
        "socket",
    )
    assert again == first
    assert control.ledger.balances["demo"] == 27_500_000_000


@pytest.mark.parametrize("amount", ["0", "-1", "1e3", "NaN", "", "0.0000000001", "9" * 30])
async def test_a_top_up_that_is_no_positive_amount_is_refused(
    control: Control, operations: Operations, amount: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await operations.top_up("demo", amount, reference=None, note=None, actor="x")

    assert caught.value.param == "amount"
    assert control.ledger.balances["demo"] == 25 * USD


async def test_an_adjustment_goes_both_ways_and_not_nowhere(operations: Operations) -> None:
    assert (await operations.adjust("demo", "-3.5", note=None, actor="x")).balance_usd == "21.50"
    assert (await operations.adjust("demo", "0.5", note=None, actor="x")).balance_usd == "22.00"
    with pytest.raises(InvalidParameter):
        await operations.adjust("demo", "-0.00", note=None, actor="x")


async def test_a_note_has_a_limit(operations: Operations) -> None:
    with pytest.raises(InvalidParameter, match="note is limited to"):
        await operations.adjust("demo", "1", note="x" * (TEXT_CHARS_MAX + 1), actor="x")


async def test_suspension_is_seen_at_once_and_taken_back(operations: Operations) -> None:
    assert (await operations.suspend("demo", reason="unpaid", actor="x")).suspend_reason == "unpaid"
    assert (await operations.tenants())[0].suspended
    assert not (await operations.unsuspend("demo", actor="x")).suspended


async def test_a_new_tenant_is_live_with_money_and_a_key(control: Control, operations: Operations) -> None:
    created = await operations.create_tenant(
        NewTenant("acme", plan="standard", allow=("gpt-*",), topup="10", label="first"), actor="socket"
    )

    assert created.file == "tenants.d/acme.yaml"
    assert created.tenant.funds.balance_usd == "10.00"
    assert created.tenant.transfers[0].actor == "socket"
    assert created.tenant.keys == (created.key.view,)
    assert created.key.view.label == "first"
    assert created.key.view.id == key_id(key_digest(created.key.key))
    assert "acme" in control.holder.current.tenants


async def test_creating_a_tenant_twice_is_a_conflict(control: Control, operations: Operations) -> None:
    results = await asyncio.gather(
        *(operations.create_tenant(NewTenant("acme"), actor="x") for _ in range(2)), return_exceptions=True
    )

    assert sorted(type(result).__name__ for result in results) == ["Conflict", "CreatedTenant"]
    assert len(control.ledger.issued) == 1


async def test_a_tenant_the_configuration_refuses_leaves_no_file(control: Control, operations: Operations) -> None:
    control.configuration.refusal = "routerx.yaml:3: models: unknown key"

    with pytest.raises(Conflict, match=r"routerx\.yaml:3: models: unknown key"):
        await operations.create_tenant(NewTenant("acme", topup="5"), actor="x")

    assert control.configuration.files == {}
    assert "acme" not in control.ledger.balances


async def test_a_tenant_file_that_nothing_includes_is_taken_back(control: Control, operations: Operations) -> None:
    control.configuration.included = False

    with pytest.raises(Conflict, match=r"do not read tenants\.d/acme\.yaml"):
        await operations.create_tenant(NewTenant("acme"), actor="x")

    assert control.configuration.files == {}


async def test_nothing_is_written_for_a_bad_top_up(control: Control, operations: Operations) -> None:
    with pytest.raises(InvalidParameter):
        await operations.create_tenant(NewTenant("acme", topup="ten"), actor="x")

    assert control.configuration.files == {}


async def test_a_tenant_left_half_made_is_told_with_what_is_left_to_do(
    control: Control, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StorageUnavailable("The disk is full.", retry_after_s=5)

    async def made(name: str) -> tuple[str, float | None]:
        with pytest.raises(StorageUnavailable) as caught:
            await operations.create_tenant(NewTenant(name, topup="10", label="my first"), actor="x")
        return caught.value.message, caught.value.retry_after_s

    with monkeypatch.context() as patch:
        patch.setattr(control.ledger, "issue_key", full)
        assert await made("acme") == (
            "The disk is full. Tenant 'acme' is there nevertheless (tenants.d/acme.yaml) and was credited; "
            "what is left: `routerx keys create acme --label 'my first'`.",
            5,
        )
    monkeypatch.setattr(control.ledger, "top_up", full)
    message, _ = await made("beta")
    told = re.search(r"what is left: `routerx tenants topup beta 10 --ref (top_\w+)`, `routerx keys create", message)
    assert told is not None
    monkeypatch.undo()
    with pytest.raises(Conflict, match="There already is a tenant 'beta'"):
        await operations.create_tenant(NewTenant("beta"), actor="x")
    for _ in range(2):  # As told, the top-up is credited once, however the first try ended.
        await operations.top_up("beta", "10", reference=told[1], note=None, actor="x")
    assert control.ledger.balances["beta"] == 10 * USD


async def test_keys_of_yaml_and_ledger_stand_in_one_list(operations: Operations) -> None:
    issued = await operations.keys.create(NewKeyOrder("demo", "ci"), actor="x")
    keys = await operations.keys.every("demo")

    assert [(key.source, key.active) for key in keys] == [("yaml", True), ("issued", True)]
    assert issued.view in keys
    assert await operations.keys.every("lab") == ()
    assert len(await operations.keys.every(None)) == 2


async def test_a_key_of_yaml_is_revoked_by_its_id(operations: Operations) -> None:
    name = key_id(key_digest(DEMO_KEY))

    assert not (await operations.keys.revoke(name, actor="x")).active
    assert [(key.id, key.active, key.created) for key in await operations.keys.every("demo")] == [(name, False, None)]


async def test_an_unknown_key_is_not_revoked(operations: Operations) -> None:
    with pytest.raises(NotFound, match="There is no key"):
        await operations.keys.revoke("key_ffffffffffff", actor="x")


async def test_a_new_key_does_not_print_itself(operations: Operations) -> None:
    issued = await operations.keys.create(NewKeyOrder("demo"), actor="x")

    assert issued.key not in repr(issued)


async def test_an_alias_says_what_it_stands_for(operations: Operations) -> None:
    models = {model.name: model for model in await operations.models(ModelQuery())}

    assert models["fast"].alias_of == "gpt-4o"
    assert (models["gpt-4o"].aliases, models["fast"].aliases) == (("fast",), ())
    assert models["gpt-4o"].alias_of is None
    assert models["gpt-4o"].released == "2024-05-13"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (ModelQuery(search="GPT"), ["fast", "gpt-4o"]),
        (ModelQuery(search="nothing"), []),
        (ModelQuery(kind="embedding"), ["tiny-embed"]),
        (ModelQuery(kind="chat", search="fast"), ["fast"]),
    ],
)
async def test_models_are_filtered(operations: Operations, query: ModelQuery, names: list[str]) -> None:
    assert [model.name for model in await operations.models(query)] == names


async def test_prices_are_exact_per_million_and_absent_where_unknown(operations: Operations) -> None:
    priced, unpriced = (await operations.model("gpt-4o")).endpoints

    assert priced.price is not None
    assert [(unit, rate.usd, rate.pico) for unit, rate in priced.price.items()] == [
        ("input", "2.50", 2_500_000),
        ("output", "10.00", 10_000_000),
        ("cache_read", "1.25", 1_250_000),
    ]
    assert unpriced.price is None


async def test_a_model_is_found_by_its_path(operations: Operations) -> None:
    found = await operations.model("openai/gpt-4o")

    assert (found.alias_of, len(found.endpoints)) == (None, 1)
    with pytest.raises(ModelNotFound, match="did you mean 'openai/gpt-4o'"):
        await operations.model("openai/gpt-4oo")


async def test_a_log_entry_tells_no_usage_from_zero(control: Control, operations: Operations) -> None:
    control.ledger.seen(record(1), record(2, usage=None))
    known, unknown = await operations.logs(LogQuery())

    assert (known.input_tokens, known.output_tokens) == (1_200, 34)
    assert (unknown.input_tokens, unknown.output_tokens) == (None, None)


async def test_a_request_is_shown_with_what_recomputes_its_cost(control: Control, operations: Operations) -> None:
    control.ledger.seen(record(1))
    detail = await operations.log("req_0001")

    assert detail.usage is not None
    assert detail.price is not None
    pico = (
        detail.usage["in_fresh"] * detail.price["input"].pico + detail.usage["out_text"] * detail.price["output"].pico
    )
    assert -(-pico * (10_000 + detail.markup_bp) // 10_000_000) == detail.entry.cost_nano
    with pytest.raises(NotFound):
        await operations.log("req_9999")


@pytest.mark.parametrize("limit", [-1, 1_001])
async def test_a_log_query_has_a_limit(operations: Operations, limit: int) -> None:
    with pytest.raises(InvalidParameter, match="between 0 and 1000"):
        await operations.logs(LogQuery(limit=limit))
    with pytest.raises(InvalidParameter, match="between 0 and 1000"):
        operations.follow(LogQuery(limit=limit))


async def test_a_follower_misses_nothing_and_sees_nothing_twice(control: Control, operations: Operations) -> None:
    control.ledger.seen(record(1), record(2, tenant="lab"), record(3))
    async with aclosing(operations.follow(LogQuery(tenant="demo", after_id="req_0001"))) as lines:
        assert (await anext(lines)).heartbeat == iso_time(control.clock.now_ns())
        control.ledger.seen(record(4), record(5, tenant="lab"))  # While the log has not been read yet.
        control.ledger.seen(record(6))
        seen = [(await anext(lines)).entry.id for _ in range(3)]
        control.ledger.seen(record(7))
        seen.append((await anext(lines)).entry.id)

    assert seen == ["req_0003", "req_0004", "req_0006", "req_0007"]
    assert control.ledger.followers == []


async def test_a_silent_stream_has_a_heartbeat(control: Control, operations: Operations) -> None:
    async with aclosing(operations.follow(LogQuery(limit=0), heartbeat_s=10)) as lines:
        await anext(lines)
        waiting = asyncio.ensure_future(anext(lines))
        await control.clock.run(9.9)
        assert not waiting.done()
        await control.clock.run(0.2)
        assert (await waiting).heartbeat == "2026-01-01T00:00:10.000Z"


async def test_followers_end_when_the_server_drains(control: Control, operations: Operations) -> None:
    async with aclosing(operations.follow(LogQuery(limit=0))) as lines:
        await anext(lines)
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        operations.stop_following()

        assert await waiting == LogLine(end="shutting_down")
        assert [line async for line in lines] == []
    assert control.ledger.followers == []


async def test_violations_make_the_books_not_ok(control: Control, operations: Operations) -> None:
    assert (await operations.verify()).ok
    control.ledger.violations = ("I2: the books are off by 1",)
    assert not (await operations.verify()).ok


async def test_status_names_what_keeps_the_files_from_being_live(control: Control, operations: Operations) -> None:
    control.configuration.refusal = "routerx.yaml:3: no\nrouterx.yaml:4: neither"
    status = await operations.status()

    assert (status.generation, status.tenants, status.models) == (1, 2, 3)
    assert status.problems == ("routerx.yaml:3: no", "routerx.yaml:4: neither")
    assert status.restart_needed == ("port",)
    assert status.ledger.held_usd == "0.05"


@given(st.integers(0, 2**62))
def test_shown_money_reads_back_exactly(nano: int) -> None:
    assert parse_usd(format_usd(nano)) == nano


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_times_are_iso_and_sort_as_they_happened(ns: int) -> None:
    text = iso_time(ns)

    assert len(text) == 24
    assert text <= iso_time(ns + 1_000_000)
