"""Run by test_ledger_migration.py: migrates the ledger at argv[1] and kills itself before statement argv[2]."""

import os
import signal
import sys

from routerx.ledger import database
from routerx.ledger.database import connect, inspect
from routerx.ledger.schema import fees


class Doomed(tuple[str, ...]):
    """Statements that end the process before one of them."""

    def __iter__(self):
        for number, statement in enumerate(super().__iter__()):
            if number == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield statement


if __name__ == "__main__":
    fees.STATEMENTS = Doomed(fees.STATEMENTS)
    path = sys.argv[1]
    database.prepare(database.open_writer(path, "full", 5.0, connect), inspect(path, 5.0), 1)
