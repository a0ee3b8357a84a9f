"""Writing configuration: a new tenant goes to a file of its own, which the main file includes."""

import fnmatch
import os
import re
import tempfile

import msgspec
import yaml

from routerx.config.document import include_globs
from routerx.config.schema import TENANT_PATTERN
from routerx.errors import ConfigError, Conflict, OperatorError
from routerx.secrets import DIGEST_PREFIX

TENANTS_FOLDER = "tenants.d"


class TenantFile(msgspec.Struct, frozen=True):
    """What a tenant's file says; None and () are left out, so that the defaults hold."""

    name: str
    plan: str | None = None
    policy: str | None = None
    allow: tuple[str, ...] = ()
    key_digests: tuple[str, ...] = ()
    """SHA-256 in hex."""
    opening_balance: str | None = None
    """An amount like `$25`."""


def tenant_file_text(tenant: TenantFile) -> str:
    """YAML that declares `tenant` and nothing else. Raises ConfigError when the name is none."""
    _check_name(tenant.name)
    entry: dict[str, object] = {}
    if tenant.plan is not None:
        entry["plan"] = tenant.plan
    if tenant.policy is not None:
        entry["policy"] = tenant.policy
    if tenant.allow:
        entry["allow"] = list(tenant.allow)
    if tenant.key_digests:
        entry["keys"] = [DIGEST_PREFIX + digest for digest in tenant.key_digests]
    if tenant.opening_balance is not None:
        entry["opening_balance"] = tenant.opening_balance
    # References in a value would be resolved on reading: a name from the API must stay what it is.
    text = yaml.safe_dump({"tenants": {tenant.name: entry}}, sort_keys=False, default_flow_style=False)
    return text.replace("${", "$${")


def write_tenant_file(config_path: str | None, name: str, text: str) -> str:
    """Write `tenants.d/<name>.yaml` beside the main file, whole or not at all (0600), and return its path.

    Raises Conflict when the file exists, ConfigError when the main file does not include the folder or there is no
    main file, OperatorError when the folder cannot be written.
    """
    _check_name(name)
    path = _tenant_path(config_path, name)
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _link_new(folder, path, text)
        _sync_folder(folder)
    except OSError as error:
        raise OperatorError(
            f"{path!r} cannot be written ({error.strerror}); make the folder writable, or add the tenant by hand."
        ) from None
    return path


def _link_new(folder: str, path: str, text: str) -> None:
    """Give a whole file its name, which must be free: unlike a rename, a link replaces nothing.

    Raises Conflict, OSError.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", suffix=".tmp", dir=folder)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise Conflict(f"{path!r} exists already; edit it, or choose another name for the tenant.") from None
    finally:
        os.unlink(temporary)


def remove_tenant_file(config_path: str | None, name: str) -> None:
    """Take back what write_tenant_file wrote; nothing happens where it is gone. Raises ConfigError, OperatorError."""
    _check_name(name)
    path = _tenant_path(config_path, name)
    try:
        os.unlink(path)
        _sync_folder(os.path.dirname(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OperatorError(f"{path!r} cannot be removed ({error.strerror}); remove it by hand.") from None


def _check_name(name: str) -> None:
    if re.fullmatch(TENANT_PATTERN, name) is None:
        raise ConfigError((f"{name!r} is not a name for a tenant; use small letters, digits, '_' and '-', at most 63",))


def _tenant_path(config_path: str | None, name: str) -> str:
    if config_path is None:
        raise ConfigError(
            (
                "this server runs without a configuration file, so a tenant cannot be kept; write a routerx.yaml with "
                f"`include: [{TENANTS_FOLDER}/*.yaml]` and start with it",
            )
        )
    path = os.path.join(os.path.dirname(config_path), TENANTS_FOLDER, f"{name}.yaml")
    if not any(_matches(path, pattern) for pattern in include_globs(config_path)):
        raise ConfigError(
            (f"{config_path}: does not include {TENANTS_FOLDER}; add `include: [{TENANTS_FOLDER}/*.yaml]` to it",)
        )
    return path


def _matches(path: str, pattern: str) -> bool:
    """As glob has it: `*` stays within a folder."""
    parts, wanted = os.path.normpath(path).split(os.sep), os.path.normpath(pattern).split(os.sep)
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
