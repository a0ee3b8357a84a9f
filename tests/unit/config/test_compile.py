"""What a valid configuration comes to: providers, models, prices, policies, plans, tenants."""

import pytest

from routerx.config.snapshot import ServerConfig
from routerx.domain.model import EVERYTHING, Capability, Kind, Origin
from routerx.domain.policy import BreakerPolicy, Fence, Policy, RetryPolicy, Sort, Timeouts
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import (
    BillEmpty,
    Billing,
    FreeSuffix,
    KeyTerms,
    Limits,
    OnUnpriced,
    Period,
    Plan,
    Principal,
    SpendLimit,
    Tenant,
)
from routerx.errors import ConfigError
from routerx.providers.spec import Auth, MockSettings
from routerx.secrets import Secret, key_digest, key_id
from tests.unit.config.config_kit import CHAT_PRICE, TWO_LINES, WITH_KEY, Folder

FREE = PriceCard(input_pico=0, output_pico=0)
NO_KEY: dict[str, str] = {}
KEYLESS = 'providers: {openai: {keys: ["${env:OPENAI_API_KEY:-}"]}}\n'
LAB = "providers: {lab: {base_url: 'http://127.0.0.1:9/v1/'}}\n"


def test_two_lines_are_a_configuration(folder: Folder):
    snapshot = folder.load(TWO_LINES, {**WITH_KEY, "AUTH_KEY": "tenant-key"})
    provider = snapshot.providers["openai"]
    assert (provider.auth, provider.mock, len(provider.credentials)) == (Auth.BEARER, None, 1)
    assert provider.credentials[0].secret is not None
    assert provider.credentials[0].secret.reveal() == "sk-canary-openai"
    assert set(snapshot.models) == {"gpt-4o", "gpt-4o-latest", "embed-small"}
    assert snapshot.models["gpt-4o"].endpoints[0].price == CHAT_PRICE
    assert snapshot.tenants["default"].plan.billing is Billing.OFF
    assert snapshot.keys[key_digest("tenant-key")].tenant is snapshot.tenants["default"]
    assert snapshot.policies == {"default": Policy(name="default")}


def test_a_server_block_reaches_the_snapshot(folder: Folder):
    text = """
server:
  listen: "[::1]:9000"
  data_dir: state
  auth_header: X-Gateway-Key
  public_models: on
  public_metrics: on
  body_max: 1MiB
  connections_max: 10
  concurrency_max: 5
  header_timeout: 1s
  body_timeout: 2s
  body_idle_timeout: 3s
  keepalive_timeout: 4s
  write_timeout: 5s
  drain: 6s
  log_level: debug
  admin_keys: ["${env:ADMIN}"]
  vault_keys: ["${env:VAULT}", "${env:OLD_VAULT:-}"]
ledger: {path: books.db, synchronous: normal, log_retention: 7d, retention: 90d, ballast: 2MiB}
"""
    env = {**WITH_KEY, "ADMIN": "an-admin-key-of-some-length", "VAULT": "v" * 32}
    snapshot = folder.load(text, env)
    assert snapshot.server == ServerConfig(
        host="::1",
        port=9000,
        data_dir=str(folder.path / "state"),
        admin_key_digests=frozenset({key_digest("an-admin-key-of-some-length")}),
        vault_keys=(Secret("v" * 32),),
        auth_header="X-Gateway-Key",
        public_models=True,
        public_metrics=True,
        body_bytes_max=2**20,
        connections_max=10,
        concurrency_max=5,
        header_timeout_s=1.0,
        body_timeout_s=2.0,
        body_idle_timeout_s=3.0,
        keepalive_timeout_s=4.0,
        write_timeout_s=5.0,
        drain_s=6.0,
        log_level="debug",
        ledger_path=str(folder.path / "books.db"),
        ledger_synchronous="normal",
        log_retention_days=7,
        retention_days=90,
        ledger_ballast_bytes=2 * 2**20,
    )


def test_defaults_of_the_file_are_those_of_the_values_it_becomes(folder: Folder):
    snapshot = folder.load("policies: {default: {}}\nplans: {p: {}}\nproviders: {lab: {base_url: 'http://h'}}\n")
    assert snapshot.policies["default"] == Policy(name="default")
    assert snapshot.plans["p"] == Plan(name="p")
    assert snapshot.providers["lab"].timeouts == Timeouts()
    folders = {"data_dir": str(folder.path / "data"), "ledger_path": str(folder.path / "data" / "ledger.db")}
    assert snapshot.server == ServerConfig(**folders)


# --- providers -------------------------------------------------------------------------------------------------------


def test_a_provider_of_ones_own_needs_only_an_address(folder: Folder):
    provider = folder.load(LAB).providers["lab"]
    assert (provider.base_url, provider.auth, provider.dialect) == ("http://127.0.0.1:9/v1", Auth.NONE, "openai")
    assert [(credential.id, credential.secret) for credential in provider.credentials] == [("lab-none", None)]


def test_everything_a_provider_may_say_is_kept(folder: Folder):
    folder.write("-", "ca.pem")
    text = """
providers:
  second:
    preset: openai
    base_url: https://eu.example/v1
    auth: api-key
    keys: ["${env:OPENAI_API_KEY}", {key: "${env:B}", rpm: 500}, "${env:B}", "${env:C:-}"]
    timeouts: {connect: 1s, first_token: 2s, idle: 3s, total: 4s}
    headers: {X-Team: blue}
    quirks: [random_seed]
    proxy: http://proxy:3128
    ca_file: ca.pem
    priority: 3
"""
    snapshot = folder.load(text, {**WITH_KEY, "B": "sk-b"})
    provider = snapshot.providers["second"]
    assert (provider.base_url, provider.auth) == ("https://eu.example/v1", Auth.API_KEY)
    assert [credential.rpm for credential in provider.credentials] == [None, 500]
    assert provider.timeouts == Timeouts(connect_s=1.0, first_token_s=2.0, idle_s=3.0, total_s=4.0)
    assert provider.headers == (("X-Team", "blue"),)
    assert {"random_seed", "max_completion_tokens"} == provider.quirks
    assert (provider.proxy, provider.ca_file) == ("http://proxy:3128", str(folder.path / "ca.pem"))
    assert snapshot.models["gpt-4o"].endpoints[0].key == "second/gpt-4o"
    assert snapshot.models["gpt-4o"].endpoints[0].priority == 3
    assert snapshot.notices[:2] == (
        "providers.second.keys[2] is the same key as one before it and left out",
        "providers.second.keys[3] is empty and left out",
    )


def test_a_provider_without_its_key_is_left_out_beside_one_that_answers(folder: Folder):
    text = KEYLESS + "  \n".join(["models: {m: {endpoints: [{provider: openai}, {provider: lab}]}, n: gpt-4o}\n"])
    snapshot = folder.load(text.replace("{openai", "{lab: {base_url: 'http://h'}, openai"), NO_KEY)
    assert set(snapshot.providers) == {"lab"}
    assert [endpoint.key for endpoint in snapshot.models["m"].endpoints] == ["lab/m"]
    assert "n" not in snapshot.models
    assert "provider 'openai' has no key and is left out" in snapshot.notices


# --- the mock --------------------------------------------------------------------------------------------------------


def test_with_no_key_at_all_the_mock_answers_for_everything_and_costs_nothing(folder: Folder):
    snapshot = folder.load(KEYLESS, NO_KEY)
    assert set(snapshot.models) == {"gpt-4o", "gpt-4o-latest", "claude", "embed-small", "mock", "mock-embedding"}
    assert all(provider.mock == MockSettings() for provider in snapshot.providers.values())
    assert {model.endpoints[0].price for model in snapshot.models.values()} == {FREE}
    assert [snapshot.models[name].endpoints[0].key for name in ("gpt-4o", "claude", "mock")] == [
        "openai/gpt-4o",
        "mock/claude",
        "mock/mock",
    ]
    assert snapshot.models["mock-embedding"].kind is Kind.EMBEDDING
    assert snapshot.models["claude"].endpoints[0].capabilities == {Capability.FIXED_SAMPLING}
    assert Capability.VISION in snapshot.models["mock"].endpoints[0].capabilities
    assert "no provider has a key: the built-in mock answers" in snapshot.notices


def test_mock_mode_puts_the_mock_under_providers_that_have_keys(folder: Folder):
    snapshot = folder.load(TWO_LINES + "server: {mode: mock}\n")
    assert set(snapshot.providers) == {"openai"}
    assert snapshot.providers["openai"].mock == MockSettings()
    assert snapshot.models["gpt-4o"].endpoints[0].price == FREE
    assert set(snapshot.models) == {"gpt-4o", "gpt-4o-latest", "embed-small"}


def test_one_provider_may_be_mocked_beside_real_ones(folder: Folder):
    text = (
        TWO_LINES.replace("}}\n", "}, ")
        + "anthropic: {mock: {latency: 10ms, token_delay: 1ms, output_tokens: 5}}, mock: {}}\n"
    )
    snapshot = folder.load(text)
    assert snapshot.providers["anthropic"].mock == MockSettings(0.01, 0.001, 5)
    assert snapshot.providers["openai"].mock is None
    assert snapshot.models["claude"].endpoints[0].price == FREE
    assert snapshot.models["gpt-4o"].endpoints[0].price == CHAT_PRICE
    assert "mock" in snapshot.models


def test_a_price_in_the_file_holds_for_the_mock_too(folder: Folder):
    text = KEYLESS + "pricing: {gpt-4o: {request: $1}, mock: {input: 1, output: 2}}\n"
    text += "models: {own: {endpoints: [{provider: openai, price: {input: 3, output: 4}}]}}\n"
    models = folder.load(text, NO_KEY).models
    assert models["gpt-4o"].endpoints[0].price == PriceCard(0, 0, request_nano=10**9)
    assert models["mock"].endpoints[0].price == PriceCard(1_000_000, 2_000_000)
    assert models["own"].endpoints[0].price == PriceCard(3_000_000, 4_000_000)


def test_an_endpoint_knows_who_states_its_price(folder: Folder):
    text = TWO_LINES + "models: {own: {endpoints: [{provider: openai, price: {input: 3, output: 4}}]}}\n"
    models = folder.load(text).models
    assert models["gpt-4o"].endpoints[0].price_origin == Origin("https://openai.test/prices", "2026-01-02")
    assert models["own"].endpoints[0].price_origin == Origin("configuration")
    priced = folder.load(TWO_LINES + "pricing: {openai/gpt-4o: {input: 1, output: 2}}\n").models
    assert priced["gpt-4o"].endpoints[0].price_origin == Origin("configuration")


def test_nobody_states_the_price_of_a_mock_or_of_what_has_none(folder: Folder):
    assert folder.load(KEYLESS, NO_KEY).models["gpt-4o"].endpoints[0].price_origin is None
    unknown = folder.load(TWO_LINES + "models: {own: {endpoints: [{provider: openai}]}}\n").models["own"]
    assert (unknown.endpoints[0].price, unknown.endpoints[0].price_origin) == (None, None)


def test_a_vendor_may_be_able_to_do_more_with_a_model_than_others(folder: Folder):
    snapshot = folder.load(None, {**WITH_KEY, "OPENROUTER_API_KEY": "sk-canary-openrouter"})
    first, second = snapshot.models["gpt-4o"].endpoints
    assert (first.provider, second.provider) == ("openai", "openrouter")
    assert second.capabilities - first.capabilities == {Capability.PREFILL}
    text = "models: {own: {endpoints: [{provider: openrouter, model: openai/gpt-4o}]}}\n"
    declared = folder.load(text, {"OPENROUTER_API_KEY": "sk-canary-openrouter"}).models["own"].endpoints[0]
    assert declared.capabilities == second.capabilities


def test_a_declared_model_is_served_by_the_mock_where_its_providers_are_off(folder: Folder):
    text = "models: {own: {endpoints: [{provider: anthropic, model: claude, price: {input: 3, output: 4}}]}}\n"
    endpoint = folder.load(text, NO_KEY).models["own"].endpoints[0]
    assert (endpoint.key, endpoint.price) == ("mock/own", PriceCard(3_000_000, 4_000_000))


# --- models and prices -----------------------------------------------------------------------------------------------


def test_a_declared_endpoint_takes_from_the_catalogue_what_it_does_not_say(folder: Folder):
    text = TWO_LINES + "models: {house: {endpoints: [{provider: openai, model: gpt-4o}]}}\n"
    endpoint = folder.load(text).models["house"].endpoints[0]
    assert (endpoint.price, endpoint.context_tokens, endpoint.output_tokens_max) == (CHAT_PRICE, 128_000, 16_384)
    assert endpoint.capabilities == {Capability.VISION, Capability.TOOLS}


def test_a_declared_endpoint_keeps_what_it_says(folder: Folder):
    text = LAB + (
        "models: {house: {kind: chat, endpoints: [{provider: lab, model: q, price: {input: 0, output: 0}, "
        "supports: [tools], context: 32k, max_output: 4k, weight: 3, priority: -1}]}}\n"
    )
    endpoint = folder.load(text).models["house"].endpoints[0]
    assert endpoint.key == "lab/q"
    assert (endpoint.price, endpoint.capabilities) == (FREE, {Capability.TOOLS})
    assert (endpoint.context_tokens, endpoint.output_tokens_max) == (32_000, 4_000)
    assert (endpoint.weight, endpoint.priority) == (3, -1)


def test_an_endpoint_nobody_prices_has_no_price(folder: Folder):
    models = folder.load(LAB + "models: {house: {endpoints: [{provider: lab}]}}\n").models
    assert models["house"].endpoints[0].price is None


def test_a_catalogue_model_can_be_replaced(folder: Folder):
    snapshot = folder.load(LAB + "models: {gpt-4o: {endpoints: [{provider: lab, model: q}]}}\n")
    assert [endpoint.key for endpoint in snapshot.models["gpt-4o"].endpoints] == ["lab/q"]
    assert snapshot.models["gpt-4o"].created == 1_715_558_400
    assert "openai/gpt-4o" not in snapshot.endpoints


def test_every_offer_is_a_path_of_its_own(folder: Folder):
    text = "providers: {openai: {keys: ['${env:OPENAI_API_KEY}']}, openrouter: {keys: [b]}}\n"
    snapshot = folder.load(text)
    assert set(snapshot.endpoints) == {"openai/gpt-4o", "openai/embed-small", "openrouter/openai/gpt-4o"}
    assert snapshot.endpoints["openrouter/openai/gpt-4o"].endpoints[0].upstream_model == "openai/gpt-4o"


def test_aliases_stand_for_models_other_aliases_and_paths(folder: Folder):
    text = TWO_LINES + (
        "models: {a: b, b: gpt-4o, path: openai/gpt-4o, new: openai/unknown, claude: gpt-4o, gpt-4o: {aliases: [g]}}\n"
    )
    models = folder.load(text).models
    for name in ("a", "b", "path", "g", "gpt-4o-latest", "claude"):
        assert models[name].name == name
        assert [endpoint.key for endpoint in models[name].endpoints] == ["openai/gpt-4o"]
    assert models["new"].endpoints[0].price is None
    assert models["new"].endpoints[0].upstream_model == "unknown"


def test_the_nearest_price_holds(folder: Folder):
    text = "providers: {openai: {keys: [a]}, openrouter: {keys: [b]}, lab: {base_url: 'http://h'}}\n" + (
        "models: {house: {endpoints: [{provider: lab, model: q, price: {input: 9, output: 9}}]}}\n"
        "pricing:\n"
        "  gpt-4o: {input: 1, output: 1}\n"
        "  openai/gpt-4o: {input: 2, output: 2}\n"
        "  house: {input: 3, output: 3}\n"
        "  embed-small: {input: 4}\n"
        "  lab/other: {per: 1k, input: 0.005, output: 0}\n"
    )
    snapshot = folder.load(text)
    first, second = snapshot.models["gpt-4o"].endpoints
    assert (first.price, second.price) == (PriceCard(2_000_000, 2_000_000), PriceCard(1_000_000, 1_000_000))
    assert snapshot.models["house"].endpoints[0].price == PriceCard(3_000_000, 3_000_000)
    assert snapshot.models["embed-small"].endpoints[0].price == PriceCard(4_000_000, 0)
    assert snapshot.endpoints["lab/other"].endpoints[0].price == PriceCard(5_000_000, 0)


def test_a_path_that_only_a_price_or_an_alias_names_may_be_asked_for_anything(folder: Folder):
    text = TWO_LINES + "models: {new: openai/unknown}\npricing: {openai/unknown-too: {input: 1, output: 0}}\n"
    snapshot = folder.load(text)
    for model in (snapshot.models["new"], snapshot.endpoints["openai/unknown-too"]):
        assert all(model.does(kind) for kind in Kind)
        assert model.endpoints[0].capabilities == EVERYTHING
    assert not snapshot.models["gpt-4o"].does(Kind.EMBEDDING)


# --- policies, plans, tenants ----------------------------------------------------------------------------------------


def test_a_policy_is_kept_as_written(folder: Folder):
    text = TWO_LINES + (
        "policies: {cheap: {sort: price, on_failure: [gpt-4o, openai/else, claude], fence: {max_cost_ratio: 2.5, "
        "never_paid: yes}, retry: {max: 1, backoff: 1s..2s, attempts: 4}, breaker: {window: 10s, error_rate: 25%, "
        "min_requests: 4, consecutive: 3, cooldown: 5s, cooldown_max: 50s}}}\n"
    )
    snapshot = folder.load(text)
    assert snapshot.policies["cheap"] == Policy(
        name="cheap",
        sort=Sort.PRICE,
        on_failure=("gpt-4o", "openai/else"),
        retry=RetryPolicy(1, 1.0, 2.0, 4),
        breaker=BreakerPolicy(10.0, 0.25, 4, 3, 5.0, 50.0),
        fence=Fence(2.5, never_paid=True),
    )
    assert snapshot.notices[0] == "policy 'cheap' does without 'claude': nobody configured serves it"


def test_a_plan_is_kept_as_written(folder: Folder):
    text = (
        "plans: {gold: {billing: postpaid, markup: 12.5%, limits: {rpm: 300, tpm: 1M, concurrency: 20, daily_requests: "
        "10k}, spend_limit: $500/week, free_suffix: off, on_unpriced: allow_flagged, hold_output_tokens: 1k}, "
        "gratis: {billing: off}}\n"
    )
    plans = folder.load(text).plans
    assert plans["gold"] == Plan(
        name="gold",
        billing=Billing.POSTPAID,
        markup_bp=1_250,
        limits=Limits(300, 1_000_000, 20, 10_000),
        spend_limit=SpendLimit(500_000_000_000, Period.WEEK),
        free_suffix=FreeSuffix.OFF,
        on_unpriced=OnUnpriced.ALLOW_FLAGGED,
        hold_output_tokens=1_000,
    )
    assert plans["gratis"].on_unpriced is OnUnpriced.ALLOW_FLAGGED
    assert Plan(name="x").on_unpriced is OnUnpriced.DENY


def test_a_plan_may_name_a_stand_in_for_prices_that_nobody_knows(folder: Folder):
    text = "plans: {p: {on_unpriced: hold_estimate, unpriced_price: {input: 1.5, output: 6}, bill_empty: input}}\n"
    plan = folder.load(text).plans["p"]
    assert plan.on_unpriced is OnUnpriced.HOLD_ESTIMATE
    assert plan.unpriced_price == PriceCard(1_500_000, 6_000_000)
    assert plan.bill_empty is BillEmpty.INPUT


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        ("{on_unpriced: hold_estimate}", "plans.p: has on_unpriced: hold_estimate and no unpriced_price to go by"),
        ("{unpriced_price: {input: 1, output: 1}}", "plans.p.unpriced_price: is only gone by with on_unpriced"),
        ("{on_unpriced: hold_estimate, unpriced_price: {input: 1}}", "plans.p.unpriced_price.output"),
        (
            "{on_unpriced: hold_estimate, unpriced_price: {input: 1.1234567, output: 1}}",
            "plans.p.unpriced_price.input",
        ),
    ],
)
def test_a_stand_in_that_makes_no_sense_is_named(folder: Folder, plan: str, problem: str):
    with pytest.raises(ConfigError) as error:
        folder.load(f"plans: {{p: {plan}}}\n")
    assert problem in str(error.value)


def test_tenants_and_their_keys(folder: Folder):
    digest = key_digest("written-as-a-digest")
    text = (
        f'tenants: {{a: {{keys: ["sha256:{digest.upper()}", "${{env:KEY}}", "${{env:NONE:-}}"], '
        'allow: ["gpt-*"], opening_balance: $25}, b: {}}\n'
    )
    snapshot = folder.load(text, {**WITH_KEY, "KEY": "by-reference"})
    tenant = Tenant(name="a", plan=Plan(name="default"), allow=("gpt-*",), opening_balance_nano=25 * 10**9)
    other = key_digest("by-reference")
    assert snapshot.tenants == {"a": tenant, "b": Tenant(name="b", plan=Plan(name="default"))}
    assert snapshot.keys == {
        digest: Principal(tenant=tenant, key_id=key_id(digest)),
        other: Principal(tenant=tenant, key_id=key_id(other)),
    }
    assert snapshot.notices[0] == "tenants.a.keys[2] is empty and left out"


def test_a_key_may_be_a_mapping_with_terms_of_its_own(folder: Folder):
    digest = key_digest("written-as-a-digest")
    text = (
        f'tenants: {{a: {{keys: [{{key: "sha256:{digest}", allow: ["gpt-*"], rpm: 60, tpm: 10k, concurrency: 2, '
        "daily_requests: 5, spend_limit: $5/day, expires: 2027-01-01}, {key: '${env:KEY}'}]}}\n"
    )
    snapshot = folder.load(text, {**WITH_KEY, "KEY": "by-reference"})
    assert snapshot.keys[digest].terms == KeyTerms(
        allow=("gpt-*",),
        limits=Limits(60, 10_000, 2, 5),
        spend_limit=SpendLimit(5 * 10**9, Period.DAY),
        expires_ns=1_798_761_600 * 10**9,
    )
    assert snapshot.keys[key_digest("by-reference")].terms is None


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("{key: some-key-in-the-open}", "is a key in plain text"),
        ("{key: 'sha256:12'}", "is not a digest"),
        ("{key: '${env:KEY}', expires: soon}", "is not a date"),
        ("{key: '${env:KEY}', rpm: 0}", "must be a whole number from 1"),
        ("{allow: [gpt-4o]}", "key"),
        ("{key: '${env:KEY}', rps: 5}", "did you mean 'rpm'"),
    ],
)
def test_a_mapping_that_is_no_key_is_a_problem(folder: Folder, key: str, says: str):
    with pytest.raises(ConfigError, match=says):
        folder.load(f"tenants: {{a: {{keys: [{key}]}}}}\n", {**WITH_KEY, "KEY": "by-reference"})


def test_a_section_with_nothing_behind_it_counts_as_not_written(folder: Folder):
    snapshot = folder.load("tenants:\nproviders:\nserver:\nplans:\n", {**WITH_KEY, "AUTH_KEY": "k"})
    assert set(snapshot.providers) == {"openai"}
    assert set(snapshot.tenants) == {"default"}


def test_a_snapshot_does_not_print_its_secrets(folder: Folder):
    text = TWO_LINES.replace("]}", "], headers: {X: y}}")
    assert "canary" not in repr(folder.load(text))


def test_what_a_known_model_refuses_stays_when_a_file_says_what_it_can_do(folder: Folder):
    text = (
        "providers: {anthropic: {keys: [k]}}\n"
        "models: {mine: {endpoints: [{provider: anthropic, model: claude, supports: [tools]}]}}\n"
    )
    endpoint = folder.load(text).models["mine"].endpoints[0]
    assert endpoint.capabilities == {Capability.TOOLS, Capability.FIXED_SAMPLING}


def test_a_key_that_is_off_is_known_and_not_used(folder: Folder):
    text = 'providers: {openai: {keys: [{key: "${env:OPENAI_API_KEY}"}, {key: "${env:B}", enabled: off}]}}\n'
    provider = folder.load(text, {**WITH_KEY, "B": "sk-canary-b"}).providers["openai"]
    assert [one.secret and one.secret.reveal() for one in provider.credentials_off] == ["sk-canary-b"]
    assert len(provider.credentials) == 1


def test_a_provider_whose_keys_are_all_off_is_off_and_no_mock_stands_in(folder: Folder):
    snapshot = folder.load('providers: {openai: {keys: [{key: "${env:OPENAI_API_KEY}", enabled: off}]}}\n', WITH_KEY)
    assert (dict(snapshot.providers), dict(snapshot.models)) == ({}, {})
    assert snapshot.idle["openai"].reason == "off"


def test_no_mock_stands_in_for_a_provider_that_is_off(folder: Folder):
    text = 'providers: {openai: {keys: ["${env:OPENAI_API_KEY}"], enabled: off}, openrouter: {keys: ["${env:NO:-}"]}}\n'
    snapshot = folder.load(text, WITH_KEY)
    assert dict(snapshot.providers) == {}
    assert {name: idle.reason for name, idle in snapshot.idle.items()} == {"openai": "off", "openrouter": "no_key"}


def test_a_provider_without_its_key_is_idle(folder: Folder):
    text = 'providers: {openai: {keys: ["${env:OPENAI_API_KEY}"]}, openrouter: {keys: ["${env:NONE:-}"]}}\n'
    snapshot = folder.load(text, WITH_KEY)
    assert {name: idle.reason for name, idle in snapshot.idle.items()} == {"openrouter": "no_key"}


def test_a_provider_with_own_keys_only_is_live_without_one_of_the_house(folder: Folder):
    text = "providers: {openai: {byok_only: on}, lab: {base_url: 'http://127.0.0.1:9/v1', byok_only: on}}\n"
    snapshot = folder.load(text, NO_KEY)
    providers = snapshot.providers
    assert [(name, providers[name].byok_only, providers[name].credentials) for name in ("openai", "lab")] == [
        ("openai", True, ()),
        ("lab", True, ()),
    ]
    assert [(providers[name].auth, providers[name].mock) for name in ("openai", "lab")] == [(Auth.BEARER, None)] * 2
    assert (dict(snapshot.idle), "gpt-4o" in snapshot.models) == ({}, True)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{byok_only: on, keys: ['${env:OPENAI_API_KEY}']}", "leave out this or `keys`"),
        ("{byok_only: on, auth: none}", "needs a provider that takes a key"),
    ],
)
def test_own_keys_only_means_that_the_house_has_none_and_tenants_do(folder: Folder, entry: str, says: str):
    with pytest.raises(ConfigError, match=r"providers\.openai\.byok_only") as raised:
        folder.load(f"providers: {{openai: {entry}}}\n", WITH_KEY)
    assert says in str(raised.value)
