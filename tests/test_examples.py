"""The example configurations and deployment files are such as RouterX would accept."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from routerx.config.load import Loader
from routerx.config.settings import Flags
from routerx.providers.presets import PRESETS

ROOT = Path(__file__).parent.parent
EXAMPLES = ("routerx.yaml.example", "configs/cheap-first.yaml", "configs/resilient.yaml")
VARIABLES = re.compile(r"\$\{env:([A-Z_]+)")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_starts_without_a_key_and_the_mock_or_a_server_of_ones_own_answers(name: str):
    snapshot = Loader(path=str(ROOT / name), env={}, flags=Flags()).load(1)
    assert set(snapshot.providers) & {"mock", "lab"}
    assert snapshot.tenants


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_with_all_its_keys_leaves_nothing_out(name: str):
    variables = VARIABLES.findall((ROOT / name).read_text("utf-8"))
    env = {variable: f"test-{variable}-{'0123456789abcdef' * 3}" for variable in variables if variable != "LAB_URL"}
    snapshot = Loader(path=str(ROOT / name), env=env, flags=Flags()).load(1)
    assert not snapshot.notices
    assert "mock" not in snapshot.providers


def test_the_compose_file_passes_on_what_switches_providers_on():
    compose = yaml.load((ROOT / "configs/compose.yaml").read_text("utf-8"), Loader=yaml.CSafeLoader)
    service = compose["services"]["routerx"]
    known = {name for preset in PRESETS.values() for name in preset.env_keys} | {"AUTH_KEY", "ROUTERX_ADMIN_KEY"}
    assert set(service["environment"]) <= known
    assert set(compose["volumes"]) == {"data"}


def test_the_image_takes_only_what_exists_and_what_the_build_may_see():
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    sources = {name for line in re.findall(r"(?m)^COPY (?!--)(.+) \S+$", dockerfile) for name in line.split()}
    visible = set(re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8")))
    assert sources == visible
    assert all((ROOT / name).exists() for name in sources)


def test_what_the_image_and_the_unit_start_is_the_command_that_the_project_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert list(project["scripts"]) == ["routerx"]
    assert 'ENTRYPOINT ["routerx"]' in (ROOT / "Dockerfile").read_text("utf-8")
    assert "ExecStart=/opt/routerx/.venv/bin/routerx serve -c" in (ROOT / "configs/routerx.service").read_text("utf-8")
