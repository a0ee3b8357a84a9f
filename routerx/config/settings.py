"""What comes from flags and from the environment: flag > ROUTERX_* > the predecessors' names > file > default.

Reads the environment as a value, never os.environ. What the environment says about providers, tenants and keys becomes
a tree of the same shape as a file's, so that one schema and one set of rules judge both.
"""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from routerx.config.document import Tree
from routerx.config.problems import Mark, Problems
from routerx.config.scalars import Flag, SecretText, Text, parse_deadline, parse_duration
from routerx.errors import ConfigError
from routerx.providers.spec import Preset

ENVIRONMENT = Mark("environment", 0)
DEFAULT_TENANT = "default"
CONFIG_FILE = "routerx.yaml"
SERVICES_MAX = 100

_AUTH_KEY = re.compile(r"^AUTH_KEY(_[0-9]{1,2})?$")
_BARE_NUMBER = re.compile(r"^[0-9]+(\.[0-9]+)?$")
_LEVELS = {"warn": "warning", "critical": "error", "fatal": "error", "trace": "debug"}
_UNUSED = {
    "REDIS_URL": "limits are kept in this process",
    "JWT_SECRET": "there is no login by token",
    "OTEL_ENDPOINT": "traces are not exported",
    "ROUTERX_SEED": "demo data is not generated",
}


def _seconds(value: object) -> float:
    """`30` or `30s`."""
    text = str(value).strip()
    return parse_deadline(f"{text}s" if _BARE_NUMBER.match(text) else text)


def _milliseconds(value: object) -> float:
    """`30000` or `30s`, as seconds; 0 is allowed."""
    text = str(value).strip()
    return parse_duration(f"{text}ms" if _BARE_NUMBER.match(text) else text)


def _port(value: object) -> int:
    text = str(value).strip()
    if not text.isascii() or not text.isdecimal() or int(text) > 65_535:
        raise ValueError("is not a port; write a number from 0 to 65535")
    return int(text)


def _level(value: object) -> str:
    text = str(value).strip().lower()
    level = _LEVELS.get(text, text)
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError("is not a log level; write debug, info, warning or error")
    return level


def _mode(value: object) -> str:
    text = str(value).strip().lower()
    if text not in ("real", "mock"):
        raise ValueError("must be real or mock")
    return text


def _names(*names: str) -> Any:
    """The environment names of one setting, the first one set wins."""
    return Field(validation_alias=AliasChoices(*names))


class Settings(BaseSettings):
    """Flags and environment; None is not said."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        validate_default=False,
        populate_by_name=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    host: Annotated[Text | None, _names("ROUTERX_HOST", "HOST")] = None
    port: Annotated[int | None, BeforeValidator(_port), _names("ROUTERX_PORT", "PORT")] = None
    data_dir: Annotated[Text | None, _names("ROUTERX_DATA_DIR")] = None
    log_level: Annotated[str | None, BeforeValidator(_level), _names("ROUTERX_LOG_LEVEL", "LOG_LEVEL")] = None
    database_url: Annotated[Text | None, _names("ROUTERX_DATABASE_URL", "DATABASE_URL")] = None
    request_timeout_s: Annotated[
        float | None, BeforeValidator(_seconds), _names("ROUTERX_REQUEST_TIMEOUT", "REQUEST_TIMEOUT")
    ] = None
    health_interval_s: Annotated[
        float | None, BeforeValidator(_milliseconds), _names("ROUTERX_HEALTH_INTERVAL", "HEALTH_CHECK_INTERVAL")
    ] = None
    auth: Annotated[Flag | None, _names("ROUTERX_AUTH", "ENABLE_AUTH")] = None
    auth_header: Annotated[Text | None, _names("ROUTERX_AUTH_HEADER", "AUTH_HEADER_NAME")] = None
    public_models: Annotated[Flag | None, _names("ROUTERX_PUBLIC_MODELS")] = None
    public_metrics: Annotated[Flag | None, _names("ROUTERX_PUBLIC_METRICS")] = None
    mode: Annotated[str | None, BeforeValidator(_mode), _names("ROUTERX_MODE")] = None
    real_calls: Annotated[Flag | None, _names("ENABLE_REAL_CALLS")] = None
    admin_key: Annotated[SecretText | None, _names("ROUTERX_ADMIN_KEY")] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: read_settings() brings the environment."""
        return (init_settings,)

    @property
    def effective_mode(self) -> str | None:
        """real, mock, or None: nobody said."""
        if self.mode is not None or self.real_calls is None:
            return self.mode
        return "real" if self.real_calls else "mock"


class Flags(msgspec.Struct, frozen=True):
    """Command-line flags; None is not given."""

    host: str | None = None
    port: int | None = None
    data_dir: str | None = None
    log_level: str | None = None


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of an environment that is passed in."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        super().__init__(Settings, case_sensitive=True, env_ignore_empty=True)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in self._env.items() if value}


def read_environment(environ: Mapping[str, str], folder: str = ".") -> dict[str, str]:
    """`environ` over the `.env` file of `folder`, if there is one. Raises ConfigError when it cannot be read."""
    path = os.path.join(folder, ".env")
    if not os.path.isfile(path):
        return dict(environ)
    try:
        source = DotEnvSettingsSource(Settings, env_file=path, env_file_encoding="utf-8", case_sensitive=True)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror}",)) from None
    except UnicodeDecodeError:
        raise ConfigError((f"{path}: is not UTF-8 text",)) from None
    return {**{name: value for name, value in source.env_vars.items() if value is not None}, **environ}


def config_path(flag: str | None, env: Mapping[str, str], folder: str = ".") -> str | None:
    """The file to read: the flag, ROUTERX_CONFIG, routerx.yaml in `folder` if it is there; None: environment only."""
    if flag:
        return flag
    if env.get("ROUTERX_CONFIG"):
        return env["ROUTERX_CONFIG"]
    path = os.path.normpath(os.path.join(folder, CONFIG_FILE))
    return path if os.path.lexists(path) else None


def read_settings(env: Mapping[str, str], flags: Flags, problems: Problems) -> Settings:
    """Flags over the environment; values that cannot be read are problems and then taken as not said."""
    given = {name: value for name, value in msgspec.structs.asdict(flags).items() if value is not None}
    values = _by_field(_Environment(env)())
    try:
        return Settings(**{**values, **given})
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            field = _field_of(str(detail["loc"][0]))
            reason = detail["ctx"]["error"] if detail["type"] == "value_error" else detail["msg"]
            origin = f"the flag --{field.replace('_', '-')}" if field in given else _set_name(field, env)
            problems.at(ENVIRONMENT, f"{origin}: {reason}")
            values.pop(field, None)
            given.pop(field, None)
        return Settings(**{**values, **given})


def _by_field(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_field_of(name): value for name, value in values.items()}


def _field_of(name: str) -> str:
    """The field that an environment name belongs to."""
    return next((field for field in Settings.model_fields if name in (field, *_choices(field))), name)


def _choices(field: str) -> tuple[str, ...]:
    alias = Settings.model_fields[field].validation_alias
    return tuple(str(choice) for choice in alias.choices) if isinstance(alias, AliasChoices) else ()


def _set_name(field: str, env: Mapping[str, str]) -> str:
    return next((name for name in _choices(field) if env.get(name)), field)


def unused_notices(env: Mapping[str, str]) -> list[str]:
    """One notice for each variable that other systems had and this version does not use."""
    return [
        f"{name} is set but not used: {reason} in this version" for name, reason in _UNUSED.items() if env.get(name)
    ]


def ledger_path_of(url: str, problems: Problems) -> str | None:
    """DATABASE_URL → the ledger's file; a problem for any other kind of database. The URL is never shown."""
    scheme, _, rest = url.partition("://")
    kind = scheme.split("+")[0].lower()
    if kind == "sqlite" and rest.startswith("/"):
        path = rest.removeprefix("/").split("?")[0]
        if path and path != ":memory:":
            return path
        problems.at(ENVIRONMENT, "DATABASE_URL: names no file; write sqlite:///path/to/ledger.db")
    elif kind in ("postgres", "postgresql"):
        problems.at(
            ENVIRONMENT,
            "DATABASE_URL: is a PostgreSQL URL, but this version keeps its ledger in SQLite only; unset it, or write "
            "sqlite:///path/to/ledger.db",
        )
    else:
        problems.at(ENVIRONMENT, "DATABASE_URL: is not an SQLite URL; write sqlite:///path/to/ledger.db")
    return None


# --- the environment as a configuration ------------------------------------------------------------------------------


class _Service(msgspec.Struct):
    """One entry of ROUTER_SERVICES."""

    name: str
    backend_type: str = ""
    base_url: str | None = None
    api_key: str | None = None
    priority: int = 0
    rate_limit_requests: int | None = None
    rate_limit_window: float | None = None
    """Seconds; 60 when it is left out."""


def environment_providers(env: Mapping[str, str], presets: Mapping[str, Preset], problems: Problems) -> dict[str, Tree]:
    """`providers:` as the environment has it: vendors whose key is set, and ROUTER_SERVICES."""
    providers: dict[str, Tree] = {}
    for name, preset in presets.items():
        key = next((env[variable] for variable in preset.env_keys if env.get(variable)), None)
        url = env.get(preset.env_base_url) if preset.env_base_url is not None else None
        if key is not None or url:
            providers[name] = {"keys": [key] if key is not None else [], "base_url": url or None}
    for service in _services(env.get("ROUTER_SERVICES", ""), problems):
        providers[service.name] = _service_tree(service)
    return providers


def _services(text: str, problems: Problems) -> list[_Service]:
    if not text.strip():
        return []
    try:
        services = msgspec.json.decode(text, type=list[_Service], strict=False)
    except msgspec.DecodeError as error:  # Its text says what was expected and where, and quotes no value.
        problems.at(ENVIRONMENT, f"ROUTER_SERVICES: is not a JSON list of services: {error}")
        return []
    names = [service.name for service in services]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.at(ENVIRONMENT, f"ROUTER_SERVICES: names {name!r} more than once")
    if len(services) > SERVICES_MAX:
        problems.at(ENVIRONMENT, f"ROUTER_SERVICES: has more than {SERVICES_MAX} services")
    return services


def _service_tree(service: _Service) -> dict[str, Tree]:
    key: dict[str, Tree] = {"key": service.api_key}
    if service.rate_limit_requests is not None:
        window_s = service.rate_limit_window if service.rate_limit_window is not None else 60.0
        per_minute = int(service.rate_limit_requests * 60 / window_s) if window_s > 0 else 0
        key["rpm"] = str(max(per_minute, 1))
    return {
        "preset": service.backend_type or None,
        "base_url": service.base_url or None,
        "keys": [key] if service.api_key else [],
        "priority": str(service.priority),
    }


def auth_keys(env: Mapping[str, str]) -> list[str]:
    """AUTH_KEY and AUTH_KEY_01 … AUTH_KEY_99, empty ones left out."""
    return [env[name] for name in sorted(env) if _AUTH_KEY.match(name) and env[name].strip()]
