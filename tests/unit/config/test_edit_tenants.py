"""Limits of one tenant, written to its place in the file and to no other."""

from pathlib import Path

import pytest

from routerx.config.edit_tenants import limit_tenant
from routerx.errors import Conflict, NotFound

CHANGES = {"rpm": "60", "spend_limit": "$5/day"}


def file(folder: Path, text: str) -> str:
    path = folder / "routerx.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "tenants:\n  acme:\n    plan: std   # as agreed\n    keys: []\n  rival: {plan: std}\n",
            'tenants:\n  acme:\n    spend_limit: "$5/day"\n    limits: {rpm: 60}\n    plan: std   # as agreed\n'
            "    keys: []\n  rival: {plan: std}\n",
        ),
        (
            "tenants:\n  acme:\n    limits:\n      tpm: 10k # many\n",
            'tenants:\n  acme:\n    spend_limit: "$5/day"\n    limits:\n      rpm: 60\n      tpm: 10k # many\n',
        ),
        (
            'tenants: {"acme": {"limits": {"rpm": 5}, "spend_limit": "$1/day"}}\n',
            'tenants: {"acme": {"limits": {"rpm": 60}, "spend_limit": "$5/day"}}\n',
        ),
        (
            "tenants:\n  acme:\n",
            'tenants:\n  acme: {spend_limit: "$5/day", limits: {rpm: 60}}\n',
        ),
        (
            "tenants: {acme: {limits: null}}\n",
            'tenants: {acme: {spend_limit: "$5/day", limits: {rpm: 60}}}\n',
        ),
    ],
)
def test_a_change_leaves_the_rest_of_the_file_as_it_is(tmp_path: Path, before: str, after: str) -> None:
    path = file(tmp_path, before)
    written = limit_tenant(path, "acme", CHANGES)
    assert Path(path).read_text() == after
    assert written is not None
    assert (written.before, written.after) == (before, after)
    assert limit_tenant(path, "acme", CHANGES) is None


def test_a_limit_that_is_taken_away_lets_the_plans_hold(tmp_path: Path) -> None:
    path = file(tmp_path, "tenants: {acme: {limits: {rpm: 5, tpm: 7}, spend_limit: $1/day}}\n")
    limit_tenant(path, "acme", {"rpm": None, "spend_limit": None, "concurrency": None})
    assert Path(path).read_text() == "tenants: {acme: {limits: {rpm: null, tpm: 7}, spend_limit: null}}\n"
    assert limit_tenant(path, "acme", {"rpm": None}) is None


def test_the_file_of_tenants_d_is_the_one_that_is_changed(tmp_path: Path) -> None:
    path = file(tmp_path, "include: [tenants.d/*.yaml]\n")
    folder = tmp_path / "tenants.d"
    folder.mkdir()
    own = folder / "acme.yaml"
    own.write_text("tenants:\n  acme:\n    plan: std\n")
    written = limit_tenant(path, "acme", {"tpm": "10000"})
    assert written is not None
    assert written.path == str(own)
    assert own.read_text() == "tenants:\n  acme:\n    limits: {tpm: 10000}\n    plan: std\n"


@pytest.mark.parametrize(
    ("text", "refusal", "says"),
    [
        ("tenants: {rival: {}}\n", NotFound, "No file of the configuration declares the tenant 'acme'"),
        ("plans: {}\n", NotFound, "add it under `tenants`"),
        ("x: &x {plan: std}\ntenants: {acme: *x, rival: *x}\n", Conflict, "by hand"),
        ("tenants: {acme: [}\n", Conflict, "refused"),
    ],
)
def test_what_cannot_be_changed_is_left_as_it_is(
    tmp_path: Path, text: str, refusal: type[Exception], says: str
) -> None:
    path = file(tmp_path, text)
    with pytest.raises(refusal, match=says):
        limit_tenant(path, "acme", CHANGES)
    assert Path(path).read_text() == text


def test_without_a_file_nothing_can_be_written() -> None:
    with pytest.raises(Conflict, match="environment alone"):
        limit_tenant(None, "acme", CHANGES)
