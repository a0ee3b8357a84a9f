"""What migration 4 adds: provider keys that are tenants' own, sealed (routerx/keyring.py)."""

OWN_KEYS = """
CREATE TABLE own_keys(
  tenant INTEGER NOT NULL REFERENCES accounts(id),
  provider TEXT NOT NULL CHECK(provider <> ''),
  sealed BLOB NOT NULL,
  fingerprint TEXT NOT NULL,
  created_ns INTEGER NOT NULL,
  PRIMARY KEY(tenant, provider)
) STRICT, WITHOUT ROWID"""
"""One key per tenant and provider. Rows are replaced and removed; what was done to them is in the audit trail."""

STATEMENTS = (OWN_KEYS,)
"""Everything migration 4 does, in order."""
