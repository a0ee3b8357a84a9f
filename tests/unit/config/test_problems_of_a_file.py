"""All mistakes at once, each at its line, with the nearest valid name, and without a secret."""

import pytest

from routerx.errors import ConfigError
from tests.unit.config.config_kit import TWO_LINES, Folder

BROKEN = """\
version: 1
server:
  lsten: 127.0.0.1:8080
  drain: 5
providers:
  openai: {keys: ["${env:NOPE}"], timeuts: {connect: 2s}}
  lab: {base_url: "http://10.0.0.7/v1", timeouts: {connect: 2 s}}
  opnai: {keys: ["${env:OPENAI_API_KEY}"]}
models:
  fast: gpt-4oo
  a: b
  b: a
  house:
    endpoints:
      - {provider: lab, model: q, price: {input: 0.1234567, output: -1}}
      - {provider: opena}
policies:
  p: {on_failure: [claude, nix, claude]}
plans:
  standard: {billing: prepayd, markup: 10}
tenants:
  acme: {plan: standrd, policy: pp, keys: ["sha256:12", "rx_plain"]}
  Bad!: {}
pricing:
  gpt-4o: {input: 1}
  gpt-5o: {input: 1, output: 2}
webhoks: {}
"""


def test_every_mistake_is_told_at_once(folder: Folder):
    assert folder.problems(BROKEN) == (
        "routerx.yaml:3: server.lsten: unknown key; did you mean 'listen'?",
        "routerx.yaml:4: server.drain: is not a duration; write a number with its unit, like 300ms, 30s, 5m, 12h or "
        "30d ('5')",
        "routerx.yaml:6: providers.openai.keys[0]: the environment variable NOPE is not set; set it, or write "
        "${env:NOPE:-} to do without",
        "routerx.yaml:6: providers.openai.timeuts: unknown key; did you mean 'timeouts'?",
        "routerx.yaml:7: providers.lab.timeouts.connect: is not a duration; write a number with its unit, like 300ms, "
        "30s, 5m, 12h or 30d ('2 s')",
        "routerx.yaml:8: providers.opnai: needs a base_url, because no preset has this name; did you mean 'openai'?",
        "routerx.yaml:10: models.fast.alias: no model has this name ('gpt-4oo'); did you mean 'gpt-4o'?",
        "routerx.yaml:11: models.a.alias: is an alias that goes in a circle: a → b → a",
        "routerx.yaml:12: models.b.alias: is an alias that goes in a circle: b → a → b",
        "routerx.yaml:15: models.house.endpoints[0].price.input: has more than 6 decimals per 1M tokens; prices are "
        "exact to that ('0.1234567')",
        "routerx.yaml:15: models.house.endpoints[0].price.output: must not be negative ('-1')",
        "routerx.yaml:16: models.house.endpoints[1].provider: no provider has this name ('opena'); did you mean "
        "'openai'?",
        "routerx.yaml:18: policies.p.on_failure[1]: no model has this name ('nix')",
        "routerx.yaml:18: policies.p.on_failure[2]: names the same model twice; a fallback chain must not return to "
        "where it was ('claude')",
        "routerx.yaml:20: plans.standard.billing: must be one of prepaid, postpaid, off ('prepayd'); did you mean "
        "'prepaid'?",
        "routerx.yaml:20: plans.standard.markup: is not a percentage; write it like 10% or 2.5% ('10')",
        "routerx.yaml:22: tenants.acme.keys[0]: is not a digest; write sha256: and 64 hexadecimal digits",
        "routerx.yaml:22: tenants.acme.keys[1]: is a key in plain text; write its digest (sha256:…), or ${env:NAME} "
        "or ${file:/path}",
        "routerx.yaml:22: tenants.acme.plan: no plan has this name ('standrd'); did you mean 'standard'?",
        "routerx.yaml:22: tenants.acme.policy: no policy has this name ('pp'); did you mean 'p'?",
        "routerx.yaml:23: tenants.Bad!: is not a name; use small letters, digits, '_' and '-', at most 63",
        "routerx.yaml:25: pricing.gpt-4o: has no price for output; write output: 0 if it is free",
        "routerx.yaml:26: pricing.gpt-5o: no model has this name; did you mean 'gpt-4o'?",
        "routerx.yaml:27: webhoks: unknown key",
    )


@pytest.mark.parametrize(
    "text",
    [
        "providers: {openai: {keys: [sk-canary], extra: sk-canary, timeouts: sk-canary, base_url: x}}\n",
        "providers: {openai: {keys: sk-canary}}\n",
        "providers: {openai: {keys: [{key: [sk-canary]}], headers: {a b: sk-canary, X-Y: sk-canary\\n}}}\n",
        "providers: {openai: sk-canary}\n",
        "providers: sk-canary\n",
        "providers: {openai: {keys: ['sk canary'], proxy: 'sk-canary'}}\n",
        "providers: {openai: {keys: [], base_url: 'https://user:canary@host/v1'}}\n",
        "server: {admin_keys: [canary]}\n",
        "server: {admin_keys: [canary], listen: '${env:OPENAI_API_KEY}', drain: '${env:OPENAI_API_KEY}'}\n",
        "tenants: {a: {keys: [canary], opening_balance: '${env:OPENAI_API_KEY}'}}\n",
        "plans: {a: {spend_limit: '${env:OPENAI_API_KEY}', billing: '${env:OPENAI_API_KEY}'}}\n",
    ],
)
def test_no_message_holds_a_secret(folder: Folder, text: str):
    assert "canary" not in "\n".join(folder.problems(text))


MISTAKES = {
    "version: 2": "version: must be 1; this release knows no other format ('2')",
    "tenants: [a]": "tenants: must be a mapping of keys to values",
    "tenants: {a: {keys: x}}": "tenants.a.keys: must be a list, like [a, b]",
    "models: {m: {}}": "models.m: needs endpoints: the catalogue has no such model",
    "models: {m: {alias: claude, kind: chat}}": "models.m: is an alias, which has nothing but `alias`",
    "models: {gpt-4o: {aliases: [a]}, claude: {aliases: [a]}}": "models.claude.aliases[0]: is already the name",
    "models: {gpt-4o: {kind: embedding}}": "models.gpt-4o.kind: is the catalogue's where endpoints are left out",
    "models: {m: {endpoints: [{provider: mock}, {provider: mock}]}}\nproviders: {mock: {}}": "models.m.endpoints[1]:",
    "pricing: {gpt-4o-latest: {input: 1, output: 1}}": "pricing.gpt-4o-latest: is an alias of 'gpt-4o'",
    "policies: {p: {retry: {max: 11}}}": "policies.p.retry.max: must be from 0 to 10 ('11')",
    "policies: {p: {breaker: {error_rate: 101%}}}": "policies.p.breaker.error_rate: must be above 0% and at most 100%",
    "policies: {p: {breaker: {cooldown: 10m}}}": "policies.p.breaker.cooldown: is longer than cooldown_max ('10m')",
    "policies: {p: {on_failure: [gpt-4o, openai/gpt-4o]}}": "policies.p.on_failure[1]: is the same model as 'gpt-4o'",
    "server: {listen: nonsense}": "server.listen: is not host:port; write it like 127.0.0.1:8080 or [::1]:8080 ('nons",
    "server: {listen: '::1:8080'}": "server.listen: is not host:port",
    "server: {listen: '127.0.0.1:70000'}": "server.listen: is not host:port",
    "server: {auth_header: 'a b'}": "server.auth_header: is not the name of a header ('a b')",
    "server: {admin_keys: [short]}": "server.admin_keys[0]: is not an admin key: it needs at least 16 characters",
    "server: {vault_keys: [short]}": "server.vault_keys[0]: is not a vault key: it needs 32 to 512 printable",
    "providers: {azure-openai: {keys: [a]}}": "providers.azure-openai: needs a base_url: every customer of this vendor",
    "providers: {a: {preset: opnai}}": "providers.a.preset: is no preset ('opnai'); did you mean 'openai'?",
    "providers: {a: {base_url: 'ftp://h'}}": "providers.a.base_url: is not an HTTP URL; write it like https://host/v1",
    "providers: {a: {base_url: 'http://u:p@h'}}": "providers.a.base_url: must not hold a user name or a password",
    "providers: {a: {base_url: 'http://h/?a=b'}}": "providers.a.base_url: must not have a query or a fragment",
    "providers: {a: {base_url: 'http://h', dialect: opnai}}": (
        "providers.a.dialect: must be one of openai, responses, anthropic, gemini, ollama ('opnai')"
    ),
    "providers: {a: {base_url: 'http://h', headers: {Host: a}}}": "providers.a.headers.Host: cannot be set",
    'providers: {a: {base_url: "http://h", headers: {A: "b\\r\\nC: d"}}}': "providers.a.headers.A: is not the value of",
    "providers: {a: {base_url: 'http://h', ca_file: no.pem}}": "providers.a.ca_file: is not a file that can be read",
    "providers: {a: {base_url: 'http://h', proxy: proxy}}": "providers.a.proxy: is not an HTTP proxy",
    "providers: {a: {base_url: 'http://h', quirks: [max_toke]}}": "providers.a.quirks[0]: must be one of no_stream",
    "providers: {openai: {keys: ['a b']}}": "providers.openai.keys[0].key: is not a key: a key is one line of ASCII",
    "server: {mode: real}\nproviders: {openai: {keys: ['']}}": "server.mode: the mode is real, but no provider",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_meaning_that_cannot_be_is_refused(folder: Folder, text: str):
    assert folder.problem(text).startswith(f"routerx.yaml:1: {MISTAKES[text]}")


def test_one_key_cannot_open_two_tenants(folder: Folder):
    digest = "sha256:" + "0" * 64
    text = f'tenants:\n  a: {{keys: ["{digest}"]}}\n  b: {{keys: ["{digest}"]}}\n'
    where = f"{folder.path}/routerx.yaml:2".replace(f"{folder.path}/", "")
    assert folder.problem(text) == f"routerx.yaml:3: tenants.b.keys[0]: is also a key of tenant 'a' ({where})"


def test_a_tenant_key_cannot_be_an_admin_key(folder: Folder):
    digest = "sha256:" + "0" * 64
    text = f'server: {{admin_keys: ["{digest}"]}}\ntenants: {{a: {{keys: ["{digest}"]}}}}\n'
    assert folder.problem(text).endswith("is an admin key as well; a tenant needs a key of its own")


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "gateway.example:80"])
def test_auth_off_and_the_demo_key_are_refused_where_others_can_reach(folder: Folder, listen: str):
    demo = f"server: {{listen: '{listen}'}}\ntenants: {{demo: {{keys: [demo_key_fake_123456]}}}}\n"
    assert "is the demo key, which everybody knows" in folder.problem(demo)
    assert "auth is off" in folder.problem(f"server: {{listen: '{listen}', auth: off}}\n")


@pytest.mark.parametrize("listen", ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "localhost:80", "80"])
def test_auth_off_and_the_demo_key_are_fine_on_this_machine(folder: Folder, listen: str):
    demo = f"server: {{listen: '{listen}', auth: off}}\ntenants: {{demo: {{keys: [demo_key_fake_123456]}}}}\n"
    assert len(folder.load(demo).keys) == 1


@pytest.mark.parametrize(
    "text",
    [
        "providers: {openai: {keys: [sk-inline]}}\n",
        "providers: {openai: {keys: [{key: sk-inline}]}}\n",
        "providers: {lab: {base_url: 'http://h', headers: {Authorization: Bearer x}}}\n",
        "providers: {lab: {base_url: 'http://h', proxy: 'http://user:password@proxy:3128'}}\n",
        "server: {admin_keys: [an-admin-key-in-plain-text]}\n",
        "server: {vault_keys: [a-vault-key-of-32-characters-at-least]}\n",
    ],
)
def test_a_secret_written_out_is_refused_where_everybody_can_read_it(folder: Folder, text: str):
    assert folder.load(text)
    loader = folder.loader(text)
    folder.write(text, mode=0o644)
    with pytest.raises(ConfigError, match="is a secret in plain text, and every user of this machine can read"):
        loader.load(1)


def test_references_may_stand_in_a_file_that_everybody_can_read(folder: Folder):
    loader = folder.loader(TWO_LINES)
    folder.write(TWO_LINES, mode=0o644)
    assert loader.load(1).providers["openai"].credentials[0].secret is not None


def test_a_mistake_in_an_included_file_is_told_with_that_files_name(folder: Folder):
    folder.write("tenants:\n  a:\n    plan: gone\n", "tenants.d/a.yaml")
    text = "include: [tenants.d/*.yaml]\nplans: {gold: {}}\n"
    assert folder.problem(text) == "tenants.d/a.yaml:3: tenants.a.plan: no plan has this name ('gone')"
