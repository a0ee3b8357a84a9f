"""The layers of the architecture, as import-linter's contracts in pyproject.toml say them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_package_keeps_its_layers():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("domain/low.py", "import routerx.gateway.high"),
        ("config/left.py", "from routerx.ledger import right"),
        ("gateway/left.py", "from routerx.control import right"),
    ],
)
def test_an_import_upwards_or_sideways_is_found(module: str, text: str, tmp_path: Path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = [
        name for layer in project["tool"]["importlinter"]["contracts"][0]["layers"] for name in layer.split(" | ")
    ]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in layers:
        folder = tmp_path / name.replace(".", "/")
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (tmp_path / "routerx/__init__.py").touch()
    for name in ("gateway/high.py", "ledger/right.py", "control/right.py"):
        (tmp_path / "routerx" / name).touch()
    assert lint_imports(tmp_path).returncode == 0
    (tmp_path / "routerx" / module).write_text(text)
    assert lint_imports(tmp_path).returncode == 1
