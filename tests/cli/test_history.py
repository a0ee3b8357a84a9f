"""The audit trail in words."""

import pytest

from routerx.cli.history import about
from routerx.control.values import AuditView


@pytest.mark.parametrize(
    ("action", "detail", "words"),
    [
        ("account.open", "4", "account 4"),
        ("money.topup", '{"transfer":7,"amount_nano":-2500000000}', "transfer 7, amount -$2.50"),
        ("tenant.suspend", "unpaid", "unpaid"),
        ("tenant.suspend", "{unpaid}", "{unpaid}"),
        ("tenant.unsuspend", "", None),
        ("key.revoke", "acme", "acme"),
        ("tenant.limit", '{"rpm":5,"spend_limit":null}', "rpm 5, spend_limit none"),
        ("key.limit", '{"tenant":"acme","terms":null}', "acme"),
        (
            "key.issue",
            '{"tenant":"acme","terms":{"allow":["gpt-*","o1"],"limits":{"rpm":60,"tpm":null},'
            '"spend_limit":{"amount_nano":5000000000,"period":"day"},"expires_ns":1798761600000000000}}',
            "acme, allow gpt-* o1, rpm 60, amount $5.00, period day, expires 2027-01-01 00:00",
        ),
    ],
)
def test_what_is_json_is_told_in_words(action: str, detail: str, words: str | None) -> None:
    assert about(AuditView(1, "2026-01-02T03:04:05.678Z", "op", action, "acme", detail)) == words
