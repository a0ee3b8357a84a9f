"""The tables of the books, as first laid (migration 1). What a table may not hold, its constraints refuse.

Money is INTEGER nano-USD in STRICT tables. Transfers, requests, attempts and audit rows are append-only: triggers
refuse UPDATE and DELETE. Transfers and audit rows are hash chains; transfers and requests are numbered without gaps.
A tenant's transfers are linked backwards (`previous`, from the account's `last_transfer`), which spares the busiest
table an index.
"""

APPLICATION_ID = 0x52545852  # "RTXR" in the file's header: what `file` and other tools can know it by.

HOUSE_CASH, HOUSE_REVENUE, HOUSE_WRITEOFF = 1, 2, 3
"""Account ids of the house; tenants come after."""

META = "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID"

MIGRATIONS = """
CREATE TABLE migrations(
  version INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  applied_ns INTEGER NOT NULL
) STRICT"""

ACCOUNTS = """
CREATE TABLE accounts(
  id INTEGER PRIMARY KEY,
  kind TEXT NOT NULL CHECK(kind IN ('tenant', 'house_cash', 'house_revenue', 'house_writeoff')),
  name TEXT NOT NULL,
  balance INTEGER NOT NULL DEFAULT 0,
  floor INTEGER NOT NULL DEFAULT 0,
  last_transfer INTEGER,
  created_ns INTEGER NOT NULL,
  UNIQUE(kind, name),
  CHECK(kind <> 'tenant' OR balance >= floor),
  CHECK((kind = 'tenant') = (id > 3))
) STRICT"""

HOUSE = """
INSERT INTO accounts(id, kind, name, created_ns) VALUES
  (1, 'house_cash', '', 0), (2, 'house_revenue', '', 0), (3, 'house_writeoff', '', 0)"""

REQUESTS = """
CREATE TABLE requests(
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
  billing TEXT NOT NULL CHECK(billing IN ('paid', 'free', 'off', 'void')),
  usage TEXT,
  usage_source TEXT NOT NULL CHECK(usage_source IN ('provider', 'estimated', 'none')),
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
  CHECK(CASE billing WHEN 'paid' THEN charged + written_off = cost ELSE charged + written_off = 0 END)
) STRICT"""

ATTEMPTS = """
CREATE TABLE attempts(
  request INTEGER NOT NULL REFERENCES requests(n),
  n INTEGER NOT NULL CHECK(n > 0),
  endpoint TEXT NOT NULL,
  provider TEXT NOT NULL,
  credential_id TEXT NOT NULL,
  outcome TEXT NOT NULL,
  upstream_status INTEGER,
  dispatched INTEGER NOT NULL CHECK(dispatched IN (0, 1)),
  started_ms INTEGER NOT NULL,
  first_byte_ms INTEGER,
  duration_ms INTEGER NOT NULL,
  won INTEGER NOT NULL CHECK(won IN (0, 1)),
  cost_est INTEGER NOT NULL,
  PRIMARY KEY(request, n)
) STRICT, WITHOUT ROWID"""

TRANSFERS = """
CREATE TABLE transfers(
  id INTEGER PRIMARY KEY,
  ts_ns INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK(kind IN ('opening', 'topup', 'charge', 'writeoff', 'adjustment', 'refund')),
  debit INTEGER NOT NULL REFERENCES accounts(id),
  credit INTEGER NOT NULL REFERENCES accounts(id),
  amount INTEGER NOT NULL CHECK(amount > 0),
  tenant INTEGER NOT NULL REFERENCES accounts(id) CHECK(tenant > 3),
  balance INTEGER NOT NULL,
  previous INTEGER,
  request INTEGER REFERENCES requests(n),
  ext_ref TEXT,
  reverses INTEGER REFERENCES transfers(id),
  actor TEXT,
  note TEXT,
  prev_hash BLOB NOT NULL,
  hash BLOB NOT NULL,
  CHECK(debit <> credit),
  CHECK((kind IN ('charge', 'writeoff')) = (request IS NOT NULL)),
  CHECK((kind = 'refund') = (reverses IS NOT NULL)),
  CHECK(kind NOT IN ('opening', 'topup') OR ext_ref IS NOT NULL),
  CHECK(kind IN ('charge', 'writeoff') OR actor IS NOT NULL)
) STRICT"""

KEYS = """
CREATE TABLE keys(
  id TEXT PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE,
  tenant INTEGER NOT NULL REFERENCES accounts(id),
  label TEXT,
  source TEXT NOT NULL CHECK(source IN ('issued', 'yaml')),
  created_ns INTEGER NOT NULL,
  revoked_ns INTEGER,
  CHECK(source <> 'yaml' OR revoked_ns IS NOT NULL)
) STRICT"""

SUSPENSIONS = """
CREATE TABLE suspensions(
  tenant INTEGER PRIMARY KEY REFERENCES accounts(id),
  since_ns INTEGER NOT NULL,
  actor TEXT NOT NULL,
  reason TEXT
) STRICT"""

DAYS = """
CREATE TABLE days(
  tenant INTEGER NOT NULL REFERENCES accounts(id),
  day INTEGER NOT NULL,
  requests INTEGER NOT NULL CHECK(requests >= 0),
  charged INTEGER NOT NULL CHECK(charged >= 0),
  PRIMARY KEY(tenant, day)
) STRICT, WITHOUT ROWID"""

AUDIT = """
CREATE TABLE audit(
  id INTEGER PRIMARY KEY,
  ts_ns INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL,
  prev_hash BLOB NOT NULL,
  hash BLOB NOT NULL
) STRICT"""

INDEXES = (
    "CREATE UNIQUE INDEX one_charge ON transfers(request, kind) WHERE request IS NOT NULL",
    "CREATE UNIQUE INDEX one_reference ON transfers(ext_ref) WHERE ext_ref IS NOT NULL",
    "CREATE INDEX refunds ON transfers(reverses) WHERE reverses IS NOT NULL",
)


def one_of(column: str, *values: str) -> str:
    """SQL for `column IN (values)`, the most frequent first: SQLite builds a table of more than two literals anew for
    every row that a CHECK looks at, which costs more than the row."""
    return "(" + " OR ".join(f"{column} = '{value}'" for value in values) + ")"


def guard(table: str, event: str, condition: str = "") -> str:
    """A trigger that refuses `event` (DELETE, UPDATE, UPDATE OF …) on `table`."""
    name = f"{table}_no_{event.split()[0].lower()}"
    return (
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} {condition}"
        f"BEGIN SELECT RAISE(ABORT, '{table}: rows are not changed or removed'); END"
    )


GUARDS = (
    *(
        guard(table, event)
        for table in ("transfers", "requests", "attempts", "audit")
        for event in ("UPDATE", "DELETE")
    ),
    *(guard(table, "DELETE") for table in ("accounts", "keys", "days")),
    guard("accounts", "UPDATE OF id, kind, name, created_ns"),
    guard(
        "keys",
        "UPDATE",
        "WHEN OLD.revoked_ns IS NOT NULL OR NEW.digest IS NOT OLD.digest OR NEW.tenant IS NOT OLD.tenant ",
    ),
)

INITIAL = (
    META,
    MIGRATIONS,
    ACCOUNTS,
    REQUESTS,
    ATTEMPTS,
    TRANSFERS,
    KEYS,
    SUSPENSIONS,
    DAYS,
    AUDIT,
    *INDEXES,
    *GUARDS,
    HOUSE,
)
"""Everything migration 1 makes, in order."""

TABLES = ("accounts", "requests", "attempts", "transfers", "keys", "suspensions", "days", "audit")
"""The tables whose types `ledger verify` expects to be enforced, in every version."""
