"""What every test gets: no settings of the developer's shell, a Hypothesis profile that suits two cores."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("routerx", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("routerx")

OUTSIDE = ("ROUTERX_", "ROUTER_", "AUTH_", "ENABLE_")
"""Prefixes of variables that RouterX reads."""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key or setting in the shell must not change what a test sees, nor send traffic to a real provider."""
    for name in list(os.environ):
        if name.startswith(OUTSIDE) or name.endswith(("_API_KEY", "_TOKEN", "_BASE_URL", "_PROXY", "_proxy")):
            monkeypatch.delenv(name)
    for name in ("PORT", "HOST", "LOG_LEVEL", "DATABASE_URL", "REDIS_URL", "JWT_SECRET", "REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
