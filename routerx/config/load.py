"""The one way from files, flags and environment to a Snapshot: read, check, compile; everything or nothing."""

import os
import sys
from collections.abc import Mapping

import msgspec

from routerx.clock import Clock, SystemClock
from routerx.config.compilation import Compilation, Facts
from routerx.config.compile import compile_snapshot
from routerx.config.compile_tenants import DEFAULT_PLAN
from routerx.config.document import Document, Tree, read_document
from routerx.config.keyfile import Announce, make_key, stored_key
from routerx.config.problems import Problems, Sources
from routerx.config.settings import (
    DEFAULT_TENANT,
    ENVIRONMENT,
    Flags,
    auth_keys,
    environment_providers,
    read_settings,
    unused_notices,
)
from routerx.config.snapshot import Snapshot
from routerx.config.validate import validate
from routerx.domain.tenant import Billing, Principal
from routerx.providers.catalogue import load_catalogue
from routerx.secrets import key_digest, key_id


def tell_operator(text: str) -> None:
    """Talk goes to stderr, apart from logs: what is told here may be a new key."""
    print(text, file=sys.stderr, flush=True)


class Loader(msgspec.Struct, frozen=True):
    """Everything a load needs but the generation; `load` is what a ConfigWatcher calls."""

    path: str | None
    """The main file; None: environment only."""
    env: Mapping[str, str]
    flags: Flags = Flags()
    announce: Announce | None = tell_operator
    """Told a newly made key, once. None: no key is made, as for a mere check."""
    facts: Facts | None = None
    """None: the bundled presets and catalogue."""
    clock: Clock = SystemClock()
    """Of prices that change with time, the ones in force at the time of the load count."""

    def load(self, generation: int, bound_host: str | None = None) -> Snapshot:
        """The configuration as it is now. `bound_host` is what a running process listens on until it is restarted:
        what the file allows on this machine alone is judged by that, too. Raises ConfigError with every problem."""
        problems = Problems()
        document = self._read(problems)
        settings = read_settings(self.env, self.flags, problems)
        facts = self.facts if self.facts is not None else Facts(catalogue=load_catalogue())
        data = dict(document.data)
        if data.get("providers") is None:
            data["providers"] = environment_providers(self.env, facts.presets, problems)
            problems.marks.setdefault(("providers",), ENVIRONMENT)
        own_tenants = bool(data.get("tenants"))
        if not own_tenants:
            _add_default_tenant(data, self.env, problems)
        checked = validate(data, problems)
        run = Compilation(
            config=checked.config,
            declared=checked.declared,
            document=document,
            settings=settings,
            facts=facts,
            problems=problems,
            folder=os.path.dirname(self.path) if self.path is not None else None,
            bound_host=bound_host,
            now_ns=self.clock.now_ns(),
        )
        run.notices.extend(unused_notices(self.env))
        if own_tenants and auth_keys(self.env):
            run.notice("AUTH_KEY is set but not used: the configuration declares tenants, which have keys of their own")
        snapshot = compile_snapshot(run, generation)
        problems.raise_any(document.sources)
        if own_tenants or snapshot.keys or not snapshot.server.auth:
            return snapshot
        return self._with_made_key(snapshot)

    def _read(self, problems: Problems) -> Document:
        if self.path is None:
            return Document(data={}, sources=Sources())
        return read_document(self.path, self.env, problems)

    def _with_made_key(self, snapshot: Snapshot) -> Snapshot:
        """Nobody brought a key for the default tenant: use the one that was made for it, or make it now."""
        folder = snapshot.server.data_dir
        key = stored_key(folder)
        if key is None and self.announce is not None:
            key = make_key(folder, self.announce)
        if key is None:
            notice = f"no key is configured: the first start makes one and keeps it in {folder}"
            return msgspec.structs.replace(snapshot, notices=(*snapshot.notices, notice))
        digest = key_digest(key)
        principal = Principal(tenant=snapshot.tenants[DEFAULT_TENANT], key_id=key_id(digest))
        return msgspec.structs.replace(snapshot, keys={digest: principal})


def load_config(
    path: str | None,
    env: Mapping[str, str],
    *,
    generation: int,
    flags: Flags | None = None,
    announce: Announce | None = tell_operator,
) -> Snapshot:
    """The configuration at `path` (None: environment only) as a Snapshot. Raises ConfigError with every problem."""
    return Loader(path=path, env=env, flags=flags if flags is not None else Flags(), announce=announce).load(generation)


def _add_default_tenant(data: dict[str, Tree], env: Mapping[str, str], problems: Problems) -> None:
    """Where no tenant is declared there is one named default, with the environment's keys and nothing to pay."""
    data["tenants"] = {DEFAULT_TENANT: {"keys": list(auth_keys(env))}}
    problems.marks[("tenants", DEFAULT_TENANT)] = ENVIRONMENT
    plans = data.get("plans")
    if plans is None or isinstance(plans, dict):
        data["plans"] = {DEFAULT_PLAN: {"billing": Billing.OFF.value}, **(plans if plans is not None else {})}
        problems.marks.setdefault(("plans", DEFAULT_PLAN), ENVIRONMENT)
