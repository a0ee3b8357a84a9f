"""What migration 2 makes of the tables: fees for own keys, cached answers, re-ratings, refunds and pruning.

SQLite cannot change a CHECK, so the two tables whose rules change are built anew beside the old ones, filled, and put
in their place, in the migration's one transaction. A transfer keeps the number of its request after that row was
pruned, which is why it is no foreign key any more; `ledger verify` proves it instead (I6).
"""

from routerx.ledger.schema.initial import guard, one_of

REQUESTS = f"""
CREATE TABLE requests_2(
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  tenant INTEGER NOT NULL REFERENCES accounts(id),
  key_id TEXT NOT NULL,
  operation TEXT NOT NULL,
  model TEXT NOT NULL,
  endpoint TEXT,
  provider TEXT,
  stream INTEGER NOT NULL CHECK(stream IN (0, 1)),
  outcome TEXT NOT NULL CHECK(outcome <> ''),
  http_status INTEGER NOT NULL,
  billing TEXT NOT NULL CHECK({one_of("billing", "paid", "free", "byok", "cached", "off", "void")}),
  usage TEXT,
  usage_source TEXT NOT NULL CHECK({one_of("usage_source", "provider", "estimated", "none")}),
  price TEXT,
  cost INTEGER NOT NULL CHECK(cost >= 0),
  charged INTEGER NOT NULL CHECK(charged >= 0),
  written_off INTEGER NOT NULL CHECK(written_off >= 0),
  held INTEGER NOT NULL CHECK(held >= 0),
  provider_cost INTEGER NOT NULL CHECK(provider_cost >= 0),
  attempts INTEGER NOT NULL CHECK(attempts >= 0),
  flags TEXT NOT NULL,
  started_ns INTEGER NOT NULL,
  settled_ns INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  CHECK(charged + written_off = CASE WHEN billing IN ('paid', 'byok') THEN cost ELSE 0 END)
) STRICT"""

TRANSFERS = f"""
CREATE TABLE transfers_2(
  id INTEGER PRIMARY KEY,
  ts_ns INTEGER NOT NULL,
  kind TEXT NOT NULL
    CHECK({one_of("kind", "charge", "opening", "topup", "byok_fee", "writeoff", "adjustment", "refund")}),
  debit INTEGER NOT NULL REFERENCES accounts(id),
  credit INTEGER NOT NULL REFERENCES accounts(id),
  amount INTEGER NOT NULL CHECK(amount > 0),
  tenant INTEGER NOT NULL REFERENCES accounts(id) CHECK(tenant > 3),
  balance INTEGER NOT NULL,
  previous INTEGER,
  request INTEGER,
  ext_ref TEXT,
  reverses INTEGER REFERENCES transfers(id),
  actor TEXT,
  note TEXT,
  prev_hash BLOB NOT NULL,
  hash BLOB NOT NULL,
  CHECK(debit <> credit),
  CHECK(request IS NOT NULL OR NOT {one_of("kind", "charge", "byok_fee", "writeoff")}),
  CHECK({one_of("kind", "charge", "byok_fee", "writeoff", "adjustment")} OR request IS NULL),
  CHECK((kind = 'refund') = (reverses IS NOT NULL)),
  CHECK(ext_ref IS NOT NULL OR NOT {one_of("kind", "opening", "topup", "refund")}),
  CHECK(kind <> 'adjustment' OR request IS NULL OR ext_ref IS NOT NULL),
  CHECK({one_of("kind", "charge", "byok_fee", "writeoff")} OR actor IS NOT NULL)
) STRICT"""

WATERMARKS = """
CREATE TABLE watermarks(
  id INTEGER PRIMARY KEY,
  ts_ns INTEGER NOT NULL,
  request INTEGER NOT NULL CHECK(request > 0),
  transfer INTEGER NOT NULL CHECK(transfer >= 0),
  seal BLOB NOT NULL,
  days BLOB NOT NULL
) STRICT"""
"""Up to which request the rows may be pruned, and what proves the rest then (ledger/proof/pruning.py)."""

PRUNED_DAYS = """
CREATE TABLE pruned_days(
  watermark INTEGER NOT NULL REFERENCES watermarks(id),
  tenant INTEGER NOT NULL REFERENCES accounts(id),
  day INTEGER NOT NULL,
  requests INTEGER NOT NULL CHECK(requests > 0),
  charged INTEGER NOT NULL CHECK(charged >= 0),
  PRIMARY KEY(watermark, tenant, day)
) STRICT, WITHOUT ROWID"""

INDEXES = (
    "CREATE UNIQUE INDEX one_charge ON transfers(request) WHERE kind IN ('charge', 'byok_fee')",
    "CREATE UNIQUE INDEX one_writeoff ON transfers(request) WHERE kind = 'writeoff'",
    "CREATE INDEX reratings ON transfers(request) WHERE kind = 'adjustment' AND request IS NOT NULL",
    "CREATE UNIQUE INDEX one_reference ON transfers(ext_ref) WHERE ext_ref IS NOT NULL",
    "CREATE INDEX refunds ON transfers(reverses) WHERE reverses IS NOT NULL",
    "CREATE INDEX days_by_day ON days(day)",
)

REFUND_WITHIN_CHARGE = """
CREATE TRIGGER refund_within_charge BEFORE INSERT ON transfers WHEN NEW.kind = 'refund'
BEGIN SELECT RAISE(ABORT, 'transfers: a refund gives back a charge, and no more than it') WHERE NOT EXISTS (
  SELECT 1 FROM transfers AS c
  WHERE c.id = NEW.reverses AND c.kind IN ('charge', 'byok_fee') AND c.tenant = NEW.tenant
    AND c.debit = NEW.credit AND c.credit = NEW.debit
    AND NEW.amount + (SELECT coalesce(sum(r.amount), 0) FROM transfers AS r WHERE r.reverses = c.id) <= c.amount
); END"""

_PRUNABLE = "WHEN OLD.{} > coalesce((SELECT request FROM watermarks ORDER BY id DESC LIMIT 1), 0) "

GUARDS = (
    *(guard(table, event) for table in ("transfers", "watermarks", "pruned_days") for event in ("UPDATE", "DELETE")),
    guard("requests", "UPDATE"),
    guard("requests", "DELETE", _PRUNABLE.format("n")),
    "DROP TRIGGER attempts_no_delete",
    guard("attempts", "DELETE", _PRUNABLE.format("request")),
)

STATEMENTS = (
    REQUESTS,
    "INSERT INTO requests_2 SELECT * FROM requests ORDER BY n",
    "DROP TABLE requests",
    "ALTER TABLE requests_2 RENAME TO requests",
    TRANSFERS,
    "INSERT INTO transfers_2 SELECT * FROM transfers ORDER BY id",
    "DROP TABLE transfers",
    "ALTER TABLE transfers_2 RENAME TO transfers",
    WATERMARKS,
    PRUNED_DAYS,
    *INDEXES,
    REFUND_WITHIN_CHARGE,
    *GUARDS,
)
"""Everything migration 2 does, in order, with foreign keys off."""
