"""The configuration that the torture runs on, its tenants and their keys."""

import hashlib
import os
from pathlib import Path

from tests.torture import oracle

LANES = 40
"""Requests at once. Each has a key of its own, so that a row that nobody saw can be traced to where it came from."""

OPENING_NANO = 10**15
ADMIN_KEY = "torture-admin-key-0123456789"
DRAIN_S = 2.0

TEN, TOKENS = "ten", "tokens"
"""Tenants that overspend: one with money for exactly 10 calls, one that pays by token."""
TEN_NANO = 10 * oracle.REQUEST_NANO
TOKENS_NANO = 5_000_000
"""Enough for about twenty calls."""

POLICY = (
    "policies: {steady: {retry: {max: 2, backoff: 10ms..50ms}, "
    "breaker: {min_requests: 1M, consecutive: 1M, error_rate: 100%}}}\n"
)
"""The last line of the file, and the tenants in its first line refer to it: no cut of the file is a configuration, once
more than FILE_BEGINS is there. (A file of which only `tenants:` is written is an empty one, and valid.)"""

FILE_BEGINS = "tenants: {"


def tenant_of(lane: int) -> str:
    names = tuple(oracle.MARKUP_BP)
    return names[lane % len(names)]


def lane_key(lane: int) -> str:
    return f"torture-key-of-lane-{lane:03d}"


def key_id(key: str) -> str:
    """The id that the ledger's rows have for a key from YAML."""
    return f"key_{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def digest(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def usd(pico_per_token: int) -> str:
    """As YAML has it: USD per million tokens."""
    return f"{pico_per_token // 10**6}.{pico_per_token % 10**6:06d}"


def money(nano: int) -> str:
    return f"{nano // 10**9}.{nano % 10**9:09d}"


def config(provider_port: int, extra_models: str = "") -> str:
    """The whole file. `extra_models`: lines to stand under `models`."""
    chat, spare = chat_price(1), chat_price(oracle.SPARE_FACTOR)
    plans = "".join(f'  {name}: {{billing: prepaid, markup: "{bp / 100}%"}}\n' for name, bp in oracle.MARKUP_BP.items())
    return f"""\
tenants: {{{_tenants()}}}
version: 1
server: {{listen: "127.0.0.1:0", data_dir: data, admin_keys: ["{digest(ADMIN_KEY)}"], drain: {DRAIN_S:g}s,
  health_interval: 0s}}
providers:
  stub: {{base_url: "http://127.0.0.1:{provider_port}/v1", keys: ["${{file:upstream.key}}"]}}
  spare: {{base_url: "http://127.0.0.1:{provider_port}/spare/v1", keys: ["${{file:upstream.key}}"]}}
include: [tenants.d/*.yaml]
plans:
{plans}  ten: {{billing: prepaid}}
models:
  {oracle.CHAT}:
    endpoints: [{{provider: stub, priority: 1, price: {chat}}}, {{provider: spare, priority: 2, price: {spare}}}]
  {oracle.ENDLESS}: {{endpoints: [{{provider: stub, price: {chat}}}]}}
  {oracle.EMBEDDING}:
    kind: embedding
    endpoints: [{{provider: stub, price: {{input: "{usd(oracle.EMBEDDING_INPUT)}"}}}}]
  {oracle.PRICED_PER_REQUEST}: {{endpoints: [{{provider: stub, price: {{request: "{money(oracle.REQUEST_NANO)}"}}}}]}}
{extra_models}{POLICY}"""


def chat_price(factor: int) -> str:
    """As YAML has it, tokens at `factor` times the oracle's prices."""
    return (
        f'{{input: "{usd(factor * oracle.CHAT_INPUT)}", cached_input: "{usd(factor * oracle.CHAT_CACHED)}", '
        f'output: "{usd(factor * oracle.CHAT_OUTPUT)}", reasoning: "{usd(factor * oracle.CHAT_REASONING)}", '
        f'request: "{money(oracle.CHAT_REQUEST_NANO)}"}}'
    )


def _tenants() -> str:
    entries = []
    for name in oracle.MARKUP_BP:
        keys = ", ".join(f'"{digest(lane_key(lane))}"' for lane in range(LANES) if tenant_of(lane) == name)
        balance = money(OPENING_NANO)
        entries.append(f"{name}: {{plan: {name}, policy: steady, opening_balance: {balance}, keys: [{keys}]}}")
    for name, nano in ((TEN, TEN_NANO), (TOKENS, TOKENS_NANO)):
        key = digest(tenant_key(name))
        entries.append(f'{name}: {{plan: ten, policy: steady, opening_balance: {money(nano)}, keys: ["{key}"]}}')
    return ", ".join(entries)


def tenant_key(name: str) -> str:
    return f"torture-key-of-{name}"


def opening() -> dict[str, int]:
    """Tenant → nano-USD granted when the ledger first sees it."""
    return {**dict.fromkeys(oracle.MARKUP_BP, OPENING_NANO), TEN: TEN_NANO, TOKENS: TOKENS_NANO}


def write(path: Path, text: str) -> None:
    """As a careful editor does it: a whole new file takes the old one's place."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.chmod(0o600)
    os.replace(draft, path)
