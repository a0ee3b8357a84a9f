"""What a model's name says of its generation, where the wire differs from one to the next."""

import re

_VERSION = re.compile(r"gemini-(\d+)")


def is_third_generation(model: str) -> bool:
    """Takes a level of thinking in place of a budget and wants the signatures of its calls back (Google's documentation
    of thinking and of thought signatures). What is not named by a number is taken to be new."""
    found = _VERSION.search(model)
    return found is None or int(found[1]) >= 3
