"""Commands and routes for books that are written already, over a real ledger."""

import asyncio
import csv
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from routerx.cli import main
from routerx.clock import SystemClock
from routerx.config.snapshot import SnapshotHolder
from routerx.control.books import BookOperations
from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano
from routerx.domain.usage import Usage
from routerx.http.admin_books import book_routes
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from tests.cli.support import ADMIN_KEY, authorize, snapshot
from tests.unit.ledger.ledger_kit import USD, ledger_file, options, query, record, tenant

CONFIG = """\
version: 1
providers:
  acme-ai: {dialect: openai, base_url: "https://api.acme.example/v1", keys: ["${env:ACME_KEY}"]}
models:
  model: {endpoints: [{provider: acme-ai, price: {input: 1, output: 4}}]}
tenants:
  acme: {keys: [demo_key_fake_123456], opening_balance: $10}
"""
USAGE = Usage(in_fresh=1_000, out_text=250)
PAID = PriceSnapshot(PriceCard(2_000_000, 8_000_000))
COST = cost_nano(USAGE, PAID)
ACME = tenant(opening=10 * USD)


async def settle(ledger: SqliteLedger, number: int) -> None:
    done = record(COST, id=f"req_{number}", usage=USAGE, price=PAID)
    receipt = ledger.settle(done, ledger.hold(ACME, COST))
    assert receipt.durable is not None
    await receipt.durable


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, and a ledger with an opening balance and two charges."""

    async def fill() -> None:
        ledger = await open_ledger(options(tmp_path), SystemClock())
        await ledger.sync_tenants([ACME])
        await settle(ledger, 1)
        await settle(ledger, 2)
        await ledger.close()

    asyncio.run(fill())
    (tmp_path / "routerx.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("ACME_KEY", "fake-key-123456")
    return tmp_path


def run(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == exit_code, result.output
    return result


def run_json(*arguments: str) -> dict:
    return json.loads(run(*arguments, "--json").stdout)


def test_a_charge_is_refunded_in_parts_and_never_beyond_it() -> None:
    run("tenants", "refund", "acme", "req_1", exit_code=2)  # Nobody gives money back without saying why.
    part = run_json("tenants", "refund", "acme", "req_1", "--amount", "0.001", "--ref", "t-1", "--note", "slow")
    assert (part["kind"], part["amount_usd"], part["request_id"], part["note"]) == ("refund", "0.001", "req_1", "slow")
    again = run_json("tenants", "refund", "acme", "req_1", "--amount", "0.001", "--ref", "t-1", "--note", "slow")
    assert again == part | {"repeated": True}
    told = run("tenants", "refund", "acme", "req_1", "--amount", "0.001", "--ref", "t-1", "--note", "slow")
    assert f"refund no. {part['id']} of $0.001 was made before" in told.stderr
    blank = run("tenants", "refund", "acme", "req_1", "--ref", " ", "--note", "slow", exit_code=1)
    assert "reference is empty" in blank.stderr
    rest = run_json("tenants", "refund", "acme", "req_1", "--note", "wrong")
    assert rest["amount_nano"] == COST - USD // 1000
    refused = run("tenants", "refund", "acme", "req_1", "--amount", "0.001", "--note", "more", exit_code=1)
    assert "at most $0.00 can be refunded" in refused.stderr
    run("ledger", "verify")


def test_a_payment_is_credited_once_and_the_second_time_says_so() -> None:
    credited = run_json("tenants", "topup", "acme", "1_000.000000001", "--ref", "bank-7")
    assert (credited["amount_usd"], credited["repeated"]) == ("1000.000000001", False)
    run("tenants", "topup", "acme", "5")
    again = run("tenants", "topup", "acme", "$1000.000000001", "--ref", " bank-7 ")
    assert f"Nothing is credited now: topup no. {credited['id']} of $1000.000000001" in again.stderr
    assert f"balance then  ${credited['balance_usd']}" in again.stdout
    for amount in ("1000", "1000.000000002"):
        assert "'bank-7' is taken" in run("tenants", "topup", "acme", amount, "--ref", "bank-7", exit_code=1).stderr
    run("ledger", "verify")


@pytest.mark.parametrize("reference", ["", " ", "\t"])
def test_an_empty_reference_is_no_protection_and_refused(reference: str) -> None:
    """A script whose variable is not set would credit the same payment each time."""
    before = run_json("tenants", "show", "acme")["funds"]["balance_nano"]
    assert "reference is empty" in run("tenants", "topup", "acme", "5", "--ref", reference, exit_code=1).stderr
    assert run_json("tenants", "show", "acme")["funds"]["balance_nano"] == before


@pytest.mark.parametrize(
    "amount",
    [
        "1e9",
        "1E2",
        "inf",
        "nan",
        "1,000",
        "0.0000000001",
        "١٢",
        "１２",
        "+5",
        ".5",
        "5.",
        "",
        "0x10",
        "5 USD",
        "9223372036",
    ],
)
def test_what_is_no_exact_amount_moves_nothing(amount: str) -> None:
    for verb in ("topup", "adjust"):
        run("tenants", verb, "acme", "--", amount, exit_code=2)


def test_requests_are_re_rated_to_the_price_of_the_configuration() -> None:
    told = run_json("ledger", "rerate", "--model", "model", "--since", "2020-01-01", "--dry-run")
    assert (told["requests"], told["corrected"], told["dry_run"]) == (2, 2, True)
    done = run("ledger", "rerate", "--endpoint", "acme-ai/model", "--since", "2020-01-01")
    assert "$0.004" in done.stdout
    assert told["given_back_nano"] == COST
    assert run_json("ledger", "rerate", "--model", "model", "--since", "2020-01-01")["corrected"] == 0
    assert run_json("tenants", "show", "acme")["funds"]["balance_nano"] == 10 * USD - COST
    run("ledger", "verify")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rerate", "--since", "2020-01-01"), "either a model or an endpoint"),
        (("rerate", "--model", "modle", "--since", "2020-01-01"), "did you mean 'model'"),
        (("rerate", "--model", "model", "--since", "soon"), "'soon'"),
        (("rerate", "--model", "model", "--since", "2021-01-01", "--until", "2020-01-01"), "later than since"),
        (("prune", "--before", "2020-01-01T12:00:00"), "whole days"),
        (("prune", "--before", "2999-01-01"), "future"),
        (("backup", "routerx.yaml"), "already"),
        (("export", "--tenant", "nobody"), "'nobody'"),
        (("export", "--url", "http://gateway:8080"), "without --url"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], said: str) -> None:
    assert said in run("ledger", *arguments, exit_code=1).stderr


def test_a_backup_is_made_checked_and_put_back(folder: Path) -> None:
    made = run_json("ledger", "backup", "copy.db")
    assert made["path"] == str(folder / "copy.db")
    assert (made["verified"]["ok"], made["size_bytes"]) == (True, os.path.getsize("copy.db"))
    run("tenants", "topup", "acme", "5")
    assert "--force" in run("ledger", "restore", "copy.db", exit_code=1).stderr
    assert "no violation" in run("ledger", "restore", "copy.db", "--force").stdout
    assert run_json("tenants", "show", "acme")["funds"]["balance_nano"] == 10 * USD - 2 * COST


def test_rows_are_pruned_by_day() -> None:
    before = run_json("ledger", "prune", "--before", "2020-01-01")
    assert before == {"requests": 0, "kept": 2, "dry_run": False}


def test_every_transfer_is_exported_exactly() -> None:
    run("tenants", "topup", "acme", "0.000000001", "--ref", "=SUM(A1)")
    run("tenants", "refund", "acme", "req_2", "--note", "ü")
    rows = list(csv.DictReader(io.StringIO(run("ledger", "export").stdout)))
    assert [row["kind"] for row in rows] == ["opening", "charge", "charge", "topup", "refund"]
    assert sum(int(row["amount_nano"]) for row in rows) == int(rows[-1]["balance_nano"])
    assert rows[3]["amount_usd"] == "0.000000001"
    assert rows[3]["reference"] == "'=SUM(A1)", "no spreadsheet takes it for a formula"
    assert (rows[4]["request_id"], rows[4]["endpoint"], rows[4]["reverses"]) == ("req_2", "acme-ai/model", "3")
    lines = run("ledger", "export", "--format", "json", "--tenant", "acme", "--since", "2020-01-01").stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [row["kind"] for row in rows]
    assert json.loads(lines[3])["reference"] == "=SUM(A1)"
    assert json.loads(lines[4])["note"] == "ü"
    assert run("ledger", "export", "--format", "json", "--until", "2020-01-01").stdout == ""


# --- the same over HTTP


@pytest.fixture
async def api(folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    ledger = await open_ledger(options(folder), SystemClock())
    app = web.Application()
    app.add_routes(book_routes(BookOperations(ledger, SnapshotHolder(snapshot()), SystemClock()), authorize))
    server = TestServer(app)
    await server.start_server()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with aiohttp.ClientSession(server.make_url("/admin/v1/"), headers=headers) as session:
        yield session
    await server.close()
    await ledger.close()


async def post(api: aiohttp.ClientSession, path: str, body: object, status: int = 200) -> dict:
    async with api.post(path, json=body) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def test_books_are_kept_over_http(folder: Path, api: aiohttp.ClientSession) -> None:
    refund = {"request_id": "req_1", "reference": "t-1", "note": "slow"}
    first = await post(api, "tenants/acme/refund", refund)
    assert (first["amount_nano"], first["actor"]) == (COST, "admin")
    assert await post(api, "tenants/acme/refund", refund) == first | {"repeated": True}
    assert (await post(api, "tenants/acme/refund", {"request_id": "req_9"}, 404))["error"]["code"] == "not_found"
    assert (await post(api, "tenants/acme/refund", {"request_id": "req_1"}, 409))["error"]["code"] == "conflict"

    made = await post(api, "ledger/backup", {"path": str(folder / "copy.db")})
    assert made["verified"]["checked_transfers"] == 4
    assert verify_file(made["path"]).violations == ()
    assert (await post(api, "ledger/backup", {"path": "copy.db"}, 400))["error"]["param"] == "path"

    rerated = await post(api, "ledger/rerate", {"model": "gpt-4o", "since": "2020-01-01"})
    assert (rerated["requests"], rerated["endpoints"]) == (0, ["openai/gpt-4o"])
    assert await post(api, "ledger/prune", {"before": "2020-01-01"}) == {"requests": 0, "kept": 2, "dry_run": False}
    assert query(ledger_file(folder), "SELECT count(*) FROM requests") == [(2,)]
