"""The command line. `main` is the click group behind the `routerx` command; each group of commands is a module here.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted, and what an OperatorError
says (75: the ledger is in use; 78: the configuration or the ledger cannot be used).
"""

from routerx.cli.root import main

__all__ = ["main"]
