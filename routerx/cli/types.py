"""Argument types: what is malformed is misuse (exit 2) before anything is opened."""

import click

from routerx.money import parse_usd


def amount(text: str) -> str:
    """An amount of USD, kept as the text it was given."""
    try:
        parse_usd(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
    return text
