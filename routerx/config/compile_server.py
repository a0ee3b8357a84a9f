"""`server:` and `ledger:` with flags and environment over them → ServerConfig."""

import ipaddress
import os
import re

from routerx.config.compilation import Compilation
from routerx.config.problems import Path
from routerx.config.settings import ENVIRONMENT, ledger_path_of
from routerx.config.snapshot import ServerConfig
from routerx.domain.egress import EgressPolicy
from routerx.keyring import KEY_CHARS_MAX, KEY_CHARS_MIN
from routerx.secrets import DIGEST_PREFIX, Secret, key_digest

ADMIN_KEY_CHARS_MIN = 16
_DIGEST = re.compile(r"sha256:[0-9a-fA-F]{64}")
_DEFAULTS = ServerConfig()


def compile_server(run: Compilation) -> ServerConfig:
    """The effective server settings."""
    block, settings = run.config.server, run.settings
    host, port = _listen(run)
    folder = data_dir(run)
    level = settings.log_level if settings.log_level is not None else block.log_level
    server = ServerConfig(
        host=host,
        port=port,
        data_dir=folder,
        admin_key_digests=_admin_digests(run),
        vault_keys=_vault_keys(run),
        auth=settings.auth if settings.auth is not None else block.auth,
        auth_header=settings.auth_header if settings.auth_header is not None else block.auth_header,
        public_models=settings.public_models if settings.public_models is not None else block.public_models,
        public_metrics=settings.public_metrics if settings.public_metrics is not None else block.public_metrics,
        body_bytes_max=block.body_max,
        connections_max=block.connections_max,
        concurrency_max=block.concurrency_max,
        header_timeout_s=block.header_timeout,
        body_timeout_s=block.body_timeout,
        body_idle_timeout_s=block.body_idle_timeout,
        keepalive_timeout_s=block.keepalive_timeout,
        write_timeout_s=block.write_timeout,
        drain_s=block.drain,
        log_level=level if level is not None else _DEFAULTS.log_level,
        ledger_path=_ledger_path(run, folder),
        ledger_synchronous=run.config.ledger.synchronous,
        log_retention_days=run.config.ledger.log_retention,
        retention_days=run.config.ledger.retention,
        ledger_ballast_bytes=run.config.ledger.ballast,
        egress=_egress(run),
        keep_alive_s=block.keep_alive,
        health_interval_s=(
            settings.health_interval_s if settings.health_interval_s is not None else block.health_interval
        ),
        metadata_always=block.routing_metadata == "always",
        cache_ttl_s=block.cache.ttl,
        cache_bytes_max=block.cache.size_max,
        answers_disk_bytes_max=block.idempotency.disk_max if block.idempotency.on_disk else None,
    )
    if not server.auth and (place := exposed_at(run, server)) is not None:
        run.problems.add(
            ("server", "auth"),
            f"auth is off, so everybody who reaches {place} could call; turn it on, or listen on 127.0.0.1",
            value=False,
        )
    if server.auth_header is not None and not re.fullmatch(r"[A-Za-z0-9-]{1,64}", server.auth_header):
        run.problems.add(("server", "auth_header"), "is not the name of a header")
    return server


def _egress(run: Compilation) -> EgressPolicy:
    block = run.config.server.egress
    for index, port in enumerate(block.ports):
        if not 1 <= port <= 65_535:
            run.problems.add(("server", "egress", "ports", index), "is not a port")
    return EgressPolicy(
        enabled=block.enabled,
        allow_http=block.allow_http,
        ports=frozenset(block.ports),
        allow_hosts=frozenset(host.lower() for host in block.allow_hosts),
        bytes_max=block.size_max,
        timeout_s=block.timeout,
    )


def exposed_at(run: Compilation, server: ServerConfig) -> str | None:
    """The address that other machines can reach, as a message names it; None: only this machine can call.

    A changed `listen` waits for a restart, so both the address of the file and the one in use have to be harmless.
    """
    if not is_loopback(server.host):
        return repr(server.host)
    if run.bound_host is not None and not is_loopback(run.bound_host):
        return f"{run.bound_host!r}, where this process listens until it is restarted,"
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost is taken for public."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def data_dir(run: Compilation) -> str:
    """Flags and environment are relative to the working folder, the file to its own."""
    if run.settings.data_dir is not None:
        return run.settings.data_dir
    given = run.config.server.data_dir
    if run.folder is None:
        return _DEFAULTS.data_dir
    return run.beside(given if given is not None else _DEFAULTS.data_dir)


def digest_of(text: str) -> str | None:
    """The hex digest in `sha256:<hex>`; None when the text is not of that form."""
    return text.removeprefix(DIGEST_PREFIX).lower() if _DIGEST.fullmatch(text) else None


def _listen(run: Compilation) -> tuple[str, int]:
    host, port = _DEFAULTS.host, _DEFAULTS.port
    given = run.config.server.listen
    if given is not None:
        before, colon, after = given.rpartition(":")
        if before.startswith("[") != before.endswith("]") or (":" in before and not before.startswith("[")):
            colon = ""
            after = "?"
        if not after.isascii() or not after.isdecimal() or int(after) > 65_535 or (colon and not before):
            run.problems.add(("server", "listen"), "is not host:port; write it like 127.0.0.1:8080 or [::1]:8080")
        else:
            host, port = before.strip("[]") if colon else host, int(after)
    if run.settings.host is not None:
        host = run.settings.host.strip("[]")
    return host, run.settings.port if run.settings.port is not None else port


def _ledger_path(run: Compilation, folder: str) -> str:
    if run.settings.database_url is not None:
        path = ledger_path_of(run.settings.database_url, run.problems)
        if path is not None:
            return path
    given = run.config.ledger.path
    return run.beside(given) if given is not None else os.path.join(folder, "ledger.db")


def _admin_digests(run: Compilation) -> frozenset[str]:
    digests: set[str] = set()
    for index, secret in enumerate(run.config.server.admin_keys):
        path: Path = ("server", "admin_keys", index)
        text = secret.reveal()
        if not text:
            continue  # An unset variable; the API over TCP then has one key less.
        if (digest := digest_of(text)) is not None:
            digests.add(digest)
        elif not _good_admin_key(secret):
            run.problems.add(path, _ADMIN_KEY_RULE, value=False)
        else:
            run.refuse_open_secret(path)
            digests.add(key_digest(text))
    if run.settings.admin_key is not None:
        if not _good_admin_key(run.settings.admin_key):
            run.problems.at(ENVIRONMENT, f"ROUTERX_ADMIN_KEY: {_ADMIN_KEY_RULE}")
        digests.add(key_digest(run.settings.admin_key.reveal()))
    return frozenset(digests)


def _vault_keys(run: Compilation) -> tuple[Secret, ...]:
    keys: list[Secret] = []
    for index, secret in enumerate(run.config.server.vault_keys):
        path: Path = ("server", "vault_keys", index)
        text = secret.reveal()
        if not text:
            continue  # An unset variable that may be.
        if not KEY_CHARS_MIN <= len(text) <= KEY_CHARS_MAX or not text.isprintable():
            run.problems.add(
                path,
                f"is not a vault key: it needs {KEY_CHARS_MIN} to {KEY_CHARS_MAX} printable characters, like those of "
                "'openssl rand -base64 32'",
                value=False,
            )
        else:
            run.refuse_open_secret(path)
            keys.append(secret)
    return tuple(keys)


_ADMIN_KEY_RULE = f"is not an admin key: it needs at least {ADMIN_KEY_CHARS_MIN} characters and no spaces"


def _good_admin_key(secret: Secret) -> bool:
    text = secret.reveal()
    return len(text) >= ADMIN_KEY_CHARS_MIN and text.isascii() and text.isprintable() and " " not in text
