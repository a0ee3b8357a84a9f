"""The folder that configuration tests write to."""

from pathlib import Path

import pytest

from tests.unit.config.config_kit import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
