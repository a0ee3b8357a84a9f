"""`routerx config …`: about the configuration file as such."""

import click

from routerx import jsonx
from routerx.cli.settings import local_options
from routerx.config.schema import json_schema


@click.group(name="config")
def command() -> None:
    """The configuration file's own form."""


@command.command("schema")
@local_options
def schema() -> None:
    """Print the JSON Schema of routerx.yaml, for editors.

    Save it beside the file and put this line on top of it: # yaml-language-server: $schema=./routerx.schema.json
    """
    click.echo(jsonx.pretty(json_schema()))
