"""Tool calls whose arguments come in pieces: paths into the object and values for them (Google's reference of
FunctionCall: `partialArgs`, `willContinue`)."""

import re
from typing import Any

from routerx import jsonx

_STEP = re.compile(r"\.([^.\[\]]+)|\[(?:'([^']*)'|\"([^\"]*)\"|(\d+))\]")
_DEPTH_MAX = 32
_ITEMS_MAX = 10_000


class PartialArguments:
    """The object that the pieces add up to."""

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}

    def take(self, piece: Any) -> None:
        """One piece; a string goes on where an earlier one at its path left off. What makes no sense is left out."""
        if not isinstance(piece, dict) or not isinstance(piece.get("jsonPath"), str):
            return
        steps = [
            int(found[4]) if found[4] else found[1] or found[2] or found[3] or ""
            for found in _STEP.finditer(piece["jsonPath"])
        ]
        for key in ("stringValue", "numberValue", "boolValue", "nullValue"):
            if key in piece:
                value = None if key == "nullValue" else piece[key]
                if 0 < len(steps) <= _DEPTH_MAX:
                    _put(self._root, steps, value)
                return

    def text(self) -> str:
        return jsonx.encode(self._root).decode()


def _put(node: Any, steps: list[str | int], value: Any) -> None:
    for place, step in enumerate(steps):
        if isinstance(step, int):
            if not isinstance(node, list) or step > _ITEMS_MAX:
                return
            node.extend([None] * (step + 1 - len(node)))
        elif not isinstance(node, dict):
            return
        before = node[step] if isinstance(step, int) else node.get(step)
        if place == len(steps) - 1:
            node[step] = before + value if isinstance(before, str) and isinstance(value, str) else value
            return
        if not isinstance(before, dict | list):
            before = node[step] = [] if isinstance(steps[place + 1], int) else {}
        node = before
