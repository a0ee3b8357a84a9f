"""What migration 3 adds: what keys may and have spent, each for itself, and an index to find what was done to whom."""

from routerx.ledger.schema.initial import guard

KEY_TERMS = """
CREATE TABLE key_terms(
  key TEXT PRIMARY KEY REFERENCES keys(id),
  allow TEXT NOT NULL,
  rpm INTEGER CHECK(rpm > 0),
  tpm INTEGER CHECK(tpm > 0),
  concurrency INTEGER CHECK(concurrency > 0),
  daily_requests INTEGER CHECK(daily_requests > 0),
  spend_amount INTEGER CHECK(spend_amount >= 0),
  spend_period TEXT CHECK(spend_period IN ('day', 'week', 'month', 'total')),
  expires_ns INTEGER,
  CHECK((spend_amount IS NULL) = (spend_period IS NULL))
) STRICT, WITHOUT ROWID"""
"""The terms of issued keys that have any; `allow` is a JSON array of patterns."""

KEY_DAYS = """
CREATE TABLE key_days(
  tenant INTEGER NOT NULL REFERENCES accounts(id),
  key TEXT NOT NULL,
  day INTEGER NOT NULL,
  requests INTEGER NOT NULL CHECK(requests >= 0),
  charged INTEGER NOT NULL CHECK(charged >= 0),
  PRIMARY KEY(tenant, key, day)
) STRICT, WITHOUT ROWID"""
"""The table `days`, by key; keys declared in YAML are in no other table."""

STATEMENTS = (
    KEY_TERMS,
    KEY_DAYS,
    "INSERT INTO key_days SELECT tenant, key_id, settled_ns / 86400000000000, count(*), sum(charged) "
    "FROM requests GROUP BY 1, 2, 3",
    "CREATE INDEX key_days_by_day ON key_days(day)",
    "CREATE INDEX audit_by_subject ON audit(subject, id)",
    guard("key_terms", "DELETE"),
    guard("key_days", "DELETE"),
)
"""Everything migration 3 does, in order."""
