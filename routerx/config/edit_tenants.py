"""Changing the limits that the files say a tenant has in place of its plan's: in that one place, and nothing else."""

from collections.abc import Mapping

from routerx.config.document import parse_tree
from routerx.config.edit_providers import Written, declaring, replace_file
from routerx.config.yaml_edit import set_field

SPEND_LIMIT = "spend_limit"


def limit_tenant(config_path: str | None, tenant: str, changes: Mapping[str, str | None]) -> Written | None:
    """Set `changes` (keys of `limits`, and `spend_limit`) for a tenant; None lets the plan's hold again. The answer is
    None where the file says so already.

    Raises NotFound where no file declares the tenant, and Conflict where its file cannot be changed so.
    """
    path, text = declaring(config_path, "tenants", tenant)
    changed = _changed(text, ("tenants", tenant), changes)
    if changed == text:
        return None
    replace_file(path, text, changed)
    return Written(path, text, changed)


def _changed(text: str, place: tuple[str, str], changes: Mapping[str, str | None]) -> str:
    for name, value in changes.items():
        entry = parse_tree(text)["tenants"][place[1]]
        entry = entry if isinstance(entry, dict) else {}
        limits = entry.get("limits")
        if name == SPEND_LIMIT:
            if value is not None or entry.get(name) is not None:
                text = set_field(text, place, name, value)
        elif isinstance(limits, dict):
            if value is not None or limits.get(name) is not None:
                text = set_field(text, (*place, "limits"), name, value)
        elif value is not None:
            text = set_field(text, place, "limits", {name: value})
    return text
