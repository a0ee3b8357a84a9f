"""`python -m routerx` is `routerx`."""

from routerx.cli import main

main()
