"""Says in one line what pydantic found wrong with a recipe, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..connectors.errors import nearest
from ..connectors.settings import AtKeyError

_MESSAGES = {
    "missing": "is missing; add it",
    "model_type": "needs a mapping of keys",
    "dict_type": "needs a mapping of keys",
    "list_type": "needs a list; for example [a, b]",
    "string_type": "needs text; quote it if it looks like a number",
    "int_type": "needs a whole number",
    "int_parsing": "needs a whole number",
    "int_from_float": "needs a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "needs a number",
    "float_parsing": "needs a number",
    "finite_number": "needs a finite number",
    "bool_type": "needs true or false",
    "bool_parsing": "needs true or false",
}
_BOUNDS: Mapping[str, Callable[[Any], str]] = {
    "greater_than": lambda context: f"must be above {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']:g}",
    "less_than": lambda context: f"must be below {context['lt']:g}",
    "less_than_equal": lambda context: f"must be at most {context['le']:g}",
    "string_too_short": lambda context: f"needs at least {context['min_length']} character(s)",
    "string_too_long": lambda context: f"takes at most {context['max_length']} character(s)",
    "too_short": lambda context: f"needs at least {context['min_length']} item(s)",
    "too_long": lambda context: f"takes at most {context['max_length']} item(s)",
}


def first_mistake(error: ValidationError, content: Any) -> tuple[str, str]:
    """Return (place of the key to look at, line of what is wrong there) for the first mistake; others are counted.

    content: what was validated.
    """
    found = [(_place(one, content), one) for one in error.errors(include_url=False)]
    first = found[0][0]
    # a union reports each of its members: the one that got furthest is meant
    alike = [(place, one) for place, one in found if place[: len(first)] == first]
    deepest = max((place for place, _ in alike), key=len)
    deep = [one for place, one in alike if place == deepest]
    messages = dict.fromkeys(_message(one) for one in deep if _is_of_name(one) == _is_of_name(deep[0]))
    more = len({place for place, _ in found if place[: len(first)] != first})
    key = (alike[0][1].get("ctx") or {}).get("error")
    place = ".".join(deepest)
    message = next(iter(messages)) if len(messages) == 1 else " or ".join(m.partition("; ")[0] for m in messages)
    line = f"{place}: {message}" if place else message
    exact = [*deepest, key.key] if isinstance(key, AtKeyError) and place == ".".join(first) else deepest
    return ".".join(exact), line + (f" (and {more} more)" if more else "")


def _place(one: ErrorDetails, content: Any) -> tuple[str, ...]:
    """Return the key path without what pydantic adds: names of types, `[key]`, and keys that have a default."""
    place: list[str] = []
    node = content
    for number, part in enumerate(one["loc"]):
        known = part in node if isinstance(node, dict) else isinstance(node, list) and part in range(len(node))
        if known:
            node = node[part]
        if known or (one["type"] == "missing" and number == len(one["loc"]) - 1):
            place.append(str(part))
    return tuple(place)


def _is_of_name(one: ErrorDetails) -> bool:
    """Whether a key of a mapping is wrong, not its value."""
    return bool(one["loc"]) and one["loc"][-1] == "[key]"


def _message(one: ErrorDetails) -> str:
    kind, context, value = one["type"], one.get("ctx") or {}, one["input"]
    if kind in _BOUNDS:
        return _BOUNDS[kind](context)
    if kind == "literal_error":
        expected = str(context["expected"])
        known = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
        close = nearest(value, known) if isinstance(value, str) else ""
        return f"takes {expected}" + (close if "nearest" in close else "")
    if kind == "union_tag_invalid":
        key = str(context["discriminator"]).strip("'")
        known = [word.strip(" '") for word in str(context["expected_tags"]).split(",")]
        return f"there is no {key} `{context['tag']}`{nearest(str(context['tag']), known)}"
    if kind == "union_tag_not_found":
        return f"a mapping with `{str(context['discriminator']).strip(chr(39))}` is needed"
    if kind == "string_type" and _is_of_name(one):
        return "a name must be text; quote it"
    return _MESSAGES.get(kind, one["msg"].removeprefix("Value error, "))
