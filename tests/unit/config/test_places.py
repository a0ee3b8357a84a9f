"""Where things are declared, for explanations."""

from pathlib import Path

from routerx.config.load import load_config
from routerx.config.snapshot import Places

YAML = """\
server: {data_dir: data}
providers:
  lab:
    base_url: http://lab.invalid/v1
models:
  tiny:
    endpoints:
      - {provider: lab, price: {input: 0, output: 0}}
policies:
  default:
    fence: {never_paid: true}
"""


def test_a_snapshot_knows_the_lines_of_what_decides_about_routing(tmp_path: Path):
    file = tmp_path / "routerx.yaml"
    file.write_text(YAML)
    places = load_config(str(file), {}, generation=1, announce=None).places.by_path
    assert places["providers.lab"] == f"{file}:3"
    assert places["models.tiny.endpoints[0]"] == f"{file}:8"
    assert places["policies.default.fence.never_paid"] == f"{file}:11"
    assert "server.data_dir" not in places
    assert "models.tiny.endpoints[0].price.input" not in places


def test_places_say_nothing_of_what_a_configuration_means():
    assert Places({"providers.lab": "a:1"}) == Places({"providers.lab": "a:2"})
    assert Places() != "a:1"
