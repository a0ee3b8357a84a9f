"""The vocabulary of what is dropped and the code that drops say the same."""

import ast
from collections.abc import Iterator
from pathlib import Path

from routerx.domain.dropped import DROPPABLE

DIALECTS = Path(__file__).parents[3] / "routerx" / "dialects"


def names_in(source: Path) -> Iterator[str]:
    """Plain texts that are added to something called `dropped`, and the keys of tables called `missing`."""
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr="add"), args=given) if "dropped" in ast.unparse(owner):
                yield from (one.value for one in given if isinstance(one, ast.Constant))
            case ast.Assign(targets=[ast.Name("missing")], value=ast.Dict(keys=keys)):
                yield from (key.value for key in keys if isinstance(key, ast.Constant))


def test_every_name_that_a_dialect_drops_is_in_the_vocabulary() -> None:
    found = {name for source in DIALECTS.rglob("*.py") for name in names_in(source)}

    assert len(found) > 15
    assert found <= DROPPABLE
