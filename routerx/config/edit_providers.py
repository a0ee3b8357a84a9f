"""Changing what the files say of a provider: whether it is on, and its keys.

The file that declares the provider is changed in that one place (yaml_edit.py) and replaced whole or not at all.
Keys that come through here are kept in files of their own under `data_dir`/secrets, and the YAML refers to them.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping

import msgspec
import yaml

from routerx.config.document import FILE_BYTES_MAX, Tree, include_files, parse_tree, read_document
from routerx.config.problems import Problems
from routerx.config.yaml_edit import append_item, remove_item, set_field
from routerx.errors import Conflict, NotFound
from routerx.secrets import Secret, fingerprint

SECRETS_FOLDER = "secrets"
_REFERENCE = re.compile(r"\$\{file:([^{}]+)\}")


class SwitchProvider(msgspec.Struct, frozen=True):
    """Call a provider, or do not."""

    provider: str
    enabled: bool


class AddKey(msgspec.Struct, frozen=True):
    """One more key of a provider; it is put into `folder`."""

    provider: str
    secret: Secret
    folder: str
    rpm: int | None = None
    tpm: int | None = None


class ChangeKey(msgspec.Struct, frozen=True):
    """Fields of the key at `index`; a value of None unsets the field."""

    provider: str
    index: int
    fields: tuple[tuple[str, str | None], ...]


class RemoveKey(msgspec.Struct, frozen=True):
    """A provider without its key at `index`."""

    provider: str
    index: int


ProviderEdit = SwitchProvider | AddKey | ChangeKey | RemoveKey


class DeclaredKey(msgspec.Struct, frozen=True):
    """One entry of `keys`, as the files have it."""

    index: int
    id: str
    """Of the credential it becomes."""
    file: str | None
    """The file that the entry refers to, and that holds the key alone."""


class Written(msgspec.Struct, frozen=True):
    """A file that was changed, and a key file that was made."""

    path: str
    before: str
    after: str
    key_file: str | None = None


def declared_keys(config_path: str | None, env: Mapping[str, str], provider: str) -> tuple[DeclaredKey, ...]:
    """The keys of a provider in the order of the file. Raises Conflict where no file declares the provider."""
    path, text = declaring(config_path, "providers", provider)
    assert config_path is not None, "a file declares it"
    entries = _keys_of(parse_tree(text), provider)
    read = _keys_of(read_document(config_path, env, Problems()).data, provider)
    found = []
    for index, (entry, resolved) in enumerate(zip(entries, read, strict=False)):
        written = entry.get("key") if isinstance(entry, dict) else entry
        key = resolved.get("key") if isinstance(resolved, dict) else resolved
        if isinstance(written, str) and isinstance(key, str) and key:
            reference = _REFERENCE.fullmatch(written)
            file = None if reference is None else os.path.join(os.path.dirname(path), reference[1])
            found.append(DeclaredKey(index, f"{provider}-{fingerprint(Secret(key.strip()))}", file))
    return tuple(found)


def apply_edit(config_path: str | None, edit: ProviderEdit) -> Written | None:
    """Change the file that declares the provider; None where it says so already. Raises Conflict where it must not or
    cannot be changed; then nothing has changed."""
    path, text = declaring(config_path, "providers", edit.provider)
    if not isinstance(edit, AddKey):
        changed = _changed(text, edit)
        if changed == text:
            return None
        replace_file(path, text, changed)
        return Written(path, text, changed)
    key_file = _key_path(edit)
    changed = _changed_for_key(path, text, edit, key_file)
    _write_key(key_file, edit.secret)
    try:
        replace_file(path, text, changed)
    except BaseException:
        remove_key_file(key_file)
        raise
    return Written(path, text, changed, key_file)


def take_back(written: Written) -> None:
    """Undo apply_edit(), unless somebody has changed the file since. Raises Conflict where it cannot be written."""
    with contextlib.suppress(OSError):
        if _text_of(written.path) == written.after:
            replace_file(written.path, written.after, written.before)
    if written.key_file is not None:
        remove_key_file(written.key_file)


def remove_key_file(path: str) -> None:
    """Remove a key that is no longer referred to; one that cannot be removed stays."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def is_ours(path: str, data_dir: str) -> bool:
    """Whether a key file is one that was made here."""
    folder = os.path.realpath(os.path.join(data_dir, SECRETS_FOLDER))
    return os.path.dirname(os.path.realpath(path)) == folder


# --- the text


def _changed(text: str, edit: SwitchProvider | ChangeKey | RemoveKey) -> str:
    place = ("providers", edit.provider)
    match edit:
        case SwitchProvider(enabled=enabled):
            # Where it is on by default there is nothing to write.
            if enabled and "enabled" not in _entry(parse_tree(text), edit.provider):
                return text
            return set_field(text, place, "enabled", "true" if enabled else "false")
        case ChangeKey(index=index, fields=fields):
            for field, value in fields:
                text = set_field(text, (*place, "keys", index), field, value, short="key")
            return text
        case RemoveKey(index=index):
            return remove_item(text, (*place, "keys"), index)


def _changed_for_key(path: str, text: str, edit: AddKey, key_file: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    # Relative as long as both move together.
    shown = os.path.relpath(key_file, folder) if _is_below(key_file, folder) else key_file
    if re.search(r"[{}]", shown):
        raise Conflict(f"{shown!r} cannot be referred to, because of its braces; choose another data_dir.")
    item = {"key": f"${{file:{shown}}}"}
    for field, value in (("rpm", edit.rpm), ("tpm", edit.tpm)):
        if value is not None:
            item[field] = str(value)
    return append_item(text, ("providers", edit.provider, "keys"), item)


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def _entry(tree: Tree, provider: str) -> dict[str, Tree]:
    providers = tree.get("providers")
    entry = providers.get(provider) if isinstance(providers, dict) else None
    return entry if isinstance(entry, dict) else {}


def _keys_of(tree: Tree, provider: str) -> list[Tree]:
    keys = _entry(tree, provider).get("keys")
    return keys if isinstance(keys, list) else []


# --- files


def declaring(config_path: str | None, section: str, name: str) -> tuple[str, str]:
    """The file that declares `name` under `section` (providers, tenants), and its text. Raises Conflict, NotFound."""
    if config_path is None:
        raise Conflict(
            "This RouterX runs on the environment alone, so nothing can be changed here. Write a routerx.yaml that "
            f"declares its {section}, and start with it."
        )
    try:
        for path in (config_path, *include_files(config_path)):
            text = _text_of(path)
            declared = parse_tree(text).get(section)
            if isinstance(declared, dict) and name in declared:
                return path, text
    except OSError as error:
        raise Conflict(f"The configuration cannot be read ({error.strerror}); nothing was changed.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise Conflict("The configuration on disk is refused, so nothing was changed; see `routerx check`.") from None
    raise NotFound(
        f"No file of the configuration declares the {section.removesuffix('s')} {name!r}; add it under `{section}`. "
        "What comes from the environment is changed there.",
        param=section.removesuffix("s"),
    )


def _text_of(path: str) -> str:
    """As it is, line breaks included."""
    with open(path, encoding="utf-8", newline="") as file:
        return file.read(FILE_BYTES_MAX + 1)


def replace_file(path: str, before: str, after: str) -> None:
    """Put `after` in the place of `before`, as a file of the same owner and mode. Raises Conflict."""
    target = os.path.realpath(path)  # A link stays one.
    folder = os.path.dirname(target)
    temporary = None
    try:
        status = os.stat(target)
        if not os.access(target, os.W_OK):  # A rename would not ask.
            raise PermissionError(13, "Permission denied")
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", suffix=".tmp", dir=folder)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        if _text_of(target) != before:
            raise Conflict(f"{path!r} was changed by somebody else at the same time; nothing was changed here.")
        os.replace(temporary, target)
        temporary = None
        _sync_folder(folder)
    except OSError as error:
        raise Conflict(
            f"{path!r} cannot be written ({error.strerror}); make the file and its folder writable for RouterX (a file "
            "that is mounted by itself cannot be replaced: mount its folder), or change it by hand."
        ) from None
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _key_path(edit: AddKey) -> str:
    name = f"{edit.provider}-{fingerprint(edit.secret)}.key"
    return os.path.join(os.path.abspath(edit.folder), SECRETS_FOLDER, name)


def _write_key(path: str, secret: Secret) -> None:
    """Raises Conflict."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.chmod(os.path.dirname(path), 0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secret.reveal() + "\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(os.path.dirname(path))
    except OSError as error:
        raise Conflict(f"The key cannot be kept in {path!r} ({error.strerror}); make the folder writable.") from None


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
