"""A line of the log, where no provider was asked."""

import pytest

from routerx.cli.loglines import LogLines
from routerx.control.values import LogEntry


@pytest.mark.parametrize(("billing", "route"), [("cached", "gpt-4o → (cache)"), ("void", "gpt-4o  ")])
def test_a_line_says_that_the_cache_has_answered(billing: str, route: str) -> None:
    entry = LogEntry(
        id="req_1",
        at="2026-01-02T03:04:05Z",
        tenant="acme",
        key_id="key",
        operation="chat",
        model="gpt-4o",
        served_model=None,
        provider=None,
        endpoint=None,
        stream=False,
        outcome="ok",
        http_status=200,
        billing=billing,
        input_tokens=None,
        output_tokens=None,
        usage_source="none",
        cost_usd="0.00",
        cost_nano=0,
        ttft_ms=None,
        duration_ms=1,
        attempts=0,
        user=None,
        app=None,
        flags=(),
    )
    assert route in LogLines(None).line(entry).plain
