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


def count_or_none(text: str) -> int | str:
    """A count like 60 or 10k; `none` stays as it is."""
    if text == "none":
        return text
    from routerx.config.scalars import parse_count  # Loads pydantic: only where a count is given.

    try:
        return parse_count(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
