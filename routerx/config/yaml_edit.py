"""Single changes of a YAML text that leave everything else as it is: comments, order, quotes and line breaks.

A change is spliced in at the place of a node. Afterwards the whole text is read again, and unless it says exactly what
was asked for, and nothing else, the change is refused: anchors and merge keys can make one place speak for several.
"""

import copy
import re
from collections.abc import Mapping

import msgspec
import yaml

from routerx import jsonx
from routerx.config.document import Tree, parse_tree
from routerx.config.problems import Path, dotted
from routerx.errors import Conflict

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")


class Splice(msgspec.Struct, frozen=True):
    """`text` in place of the characters from `start` to `end`."""

    start: int
    end: int
    text: str


def set_field(text: str, path: Path, field: str, value: Tree, short: str | None = None) -> str:
    """The mapping at `path` with `field` set, to text or to a mapping of texts; None unsets it. A value may be written
    as the plain text of its field `short`, and is then written out as a mapping.

    Raises Conflict where this text cannot be changed so, and yaml.YAMLError.
    """
    _, node = _find(text, path)
    wanted = copy.deepcopy(parse_tree(text))
    entry = _at(wanted, path)
    if isinstance(entry, str) and short is not None:
        entry = {short: entry}
    if not isinstance(entry, dict | None):
        raise _refusal(path)
    _at(wanted, path[:-1])[path[-1]] = {**(entry if entry is not None else {}), field: value}
    if isinstance(node, yaml.MappingNode):
        splice = _in_mapping(text, path, field, _flow(value))
    else:
        splice = _in_place_of(text, path, _flow(_at(wanted, path)))
    return _checked(text, splice, wanted, path)


def append_item(text: str, path: Path, item: Mapping[str, str]) -> str:
    """The list at `path`, which need not be there yet, with `item` at its end. Raises as set_field()."""
    wanted = copy.deepcopy(parse_tree(text))
    parent = _at(wanted, path[:-1])
    if parent is None:
        parent = _at(wanted, path[:-2])[path[-2]] = {}
    is_there = isinstance(parent, dict) and path[-1] in parent
    before = parent.get(path[-1]) if isinstance(parent, dict) else None
    if not isinstance(parent, dict) or not isinstance(before, list | None):
        raise _refusal(path)
    parent[path[-1]] = [*(before if before is not None else []), dict(item)]
    if not is_there:
        whole = _flow([dict(item)])
        if _at(parse_tree(text), path[:-1]) is None:
            splice = _in_place_of(text, path[:-1], "{" + f"{path[-1]}: {whole}" + "}")
        else:
            splice = _in_mapping(text, path[:-1], str(path[-1]), whole)
    elif before is None:
        splice = _in_place_of(text, path, _flow([dict(item)]))
    else:
        splice = _after_last(text, path, _flow(dict(item)))
    return _checked(text, splice, wanted, path)


def remove_item(text: str, path: Path, index: int) -> str:
    """The list at `path` without the item at `index`, and without that item's lines. Raises as set_field()."""
    wanted = copy.deepcopy(parse_tree(text))
    del _at(wanted, path)[index]
    _, node = _find(text, path)
    if not isinstance(node, yaml.SequenceNode):
        raise _refusal(path)
    items = node.value
    if node.flow_style:
        start = items[index].start_mark.index
        if len(items) == 1:
            splice = Splice(node.start_mark.index, node.end_mark.index, "[]")
        elif index + 1 < len(items):
            splice = Splice(start, items[index + 1].start_mark.index, "")
        else:
            splice = Splice(_end(items[index - 1]), _end(items[index]), "")
    elif len(items) == 1:
        key, _ = _find(text, path)
        first = _line_start(text, _dash(text, node, items[0]))
        splice = Splice(_after_colon(text, key), _line_end(text, _end(items[0])), " []")
        # Comments between the key and its only item stay where they are.
        between = text[splice.start : first].rstrip("\r\n")
        splice = msgspec.structs.replace(splice, text=" []" + between)
    else:
        start = _line_start(text, _dash(text, node, items[index]))
        splice = Splice(start, _next_line(text, _end(items[index])), "")
    return _checked(text, splice, wanted, path)


# --- places


def _find(text: str, path: Path) -> tuple[yaml.Node, yaml.Node]:
    """The key (of a mapping's entry; else the node itself) and the node at `path`."""
    node = key = yaml.compose(text, Loader=yaml.CSafeLoader)
    if node is None or key is None:
        raise _refusal(path)
    for part in path:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((name, value) for name, value in node.value if name.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        if found is None:
            raise _refusal(path)
        key, node = found
    return key, node


def _at(tree: Tree, path: Path) -> Tree:
    for part in path:
        tree = tree[part]
    return tree


def _in_mapping(text: str, path: Path, field: str, value: str) -> Splice:
    """Where `field: value` goes in the mapping at `path`."""
    key, node = _find(text, path)
    if not isinstance(node, yaml.MappingNode):
        raise _refusal(path)
    for name, _ in node.value:
        if name.value == field:
            return _in_place_of(text, (*path, field), value)
    entry = f"{field}: {value}"
    if node.flow_style:
        start = node.start_mark.index + text[node.start_mark.index :].index("{") + 1
        return Splice(start, start, entry + (", " if node.value else ""))
    first = node.value[0][0].start_mark
    indent = _newline(text) + " " * first.column
    # Below the line of its name, so that a comment above the first entry stays with that; of an item of a list, which
    # has no such line, at the end.
    above = key.end_mark if key is not node and key.end_mark.line < first.line else None
    place = _line_end(text, above.index if above is not None else _end(node))
    return Splice(place, place, indent + entry)


def _in_place_of(text: str, path: Path, value: str) -> Splice:
    """`value` where a plain value, or nothing at all, stands at `path`."""
    key, node = _find(text, path)
    if not isinstance(node, yaml.ScalarNode):
        raise _refusal(path)
    start, end = node.start_mark.index, node.end_mark.index
    if start == end:
        start = end = _after_colon(text, key)
        return Splice(start, end, " " + value)
    return Splice(start, end, value)


def _after_last(text: str, path: Path, value: str) -> Splice:
    """Behind the last item of the list at `path`."""
    _, node = _find(text, path)
    if not isinstance(node, yaml.SequenceNode):
        raise _refusal(path)
    if not node.value:
        start = node.start_mark.index + text[node.start_mark.index :].index("[") + 1
        return Splice(start, start, value)
    last = _end(node.value[-1])
    if node.flow_style:
        return Splice(last, last, ", " + value)
    dash = _dash(text, node, node.value[-1])
    place = _line_end(text, last)
    return Splice(place, place, _newline(text) + " " * (dash - _line_start(text, dash)) + "- " + value)


def _end(node: yaml.Node) -> int:
    """Where a node's text ends. A block's own mark is where the next thing begins, so its last part is asked."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _dash(text: str, node: yaml.SequenceNode, item: yaml.Node) -> int:
    """The place of the `-` of an item of a block list."""
    column = node.start_mark.column
    start = _line_start(text, item.start_mark.index)
    while text[start + column : start + column + 1] != "-" and start > 0:
        start = _line_start(text, start - 1)
    return int(start + column)


def _after_colon(text: str, key: yaml.Node) -> int:
    return text.index(":", key.end_mark.index) + 1


def _line_start(text: str, place: int) -> int:
    return text.rfind("\n", 0, max(place, 0)) + 1


def _line_end(text: str, place: int) -> int:
    """Before the line break."""
    end = text.find("\n", place)
    if end < 0:
        return len(text)
    return end - 1 if text[end - 1 : end] == "\r" and end > place else end


def _next_line(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end + 1


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


# --- text


def _flow(value: Tree) -> str:
    """A value on one line."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    text = str(value)
    # Of what JSON can say as text YAML says the same, in double quotes.
    return text if _PLAIN.fullmatch(text) and text.lower() != "null" else jsonx.encode(text).decode()


def _checked(text: str, splice: Splice, wanted: Tree, path: Path) -> str:
    changed = text[: splice.start] + splice.text + text[splice.end :]
    try:
        is_right = parse_tree(changed) == wanted
    except yaml.YAMLError:
        is_right = False
    if not is_right:
        raise _refusal(path)
    return changed


def _refusal(path: Path) -> Conflict:
    return Conflict(
        f"The configuration is not changed: {dotted(path)} is written in a way that cannot be changed by itself "
        "(an anchor, an alias or a merge?). Change it by hand."
    )
