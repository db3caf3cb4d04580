"""Whether a chunk of text is a web or mail address, which stays one word."""

from typing import Any

import numba

_AT = 0x40
_COLON = 0x3A
_DIGIT_0 = 0x30
_DIGIT_9 = 0x39
_DOT = 0x2E
_HASH = 0x23
_HYPHEN = 0x2D
_QUESTION = 0x3F
_SLASH = 0x2F
_SMALL_A = 0x61
_SMALL_Z = 0x7A
_UNDERSCORE = 0x5F


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _is_label(byte: Any) -> Any:
    return (
        _SMALL_A <= byte | 0x20 <= _SMALL_Z
        or _DIGIT_0 <= byte <= _DIGIT_9
        or byte in (_UNDERSCORE, _HYPHEN)
        or byte > 0xC1
        or byte & 0xC0 == 0x80
    )


@numba.njit(nogil=True, cache=True, _nrt=False)
def _is_address(doc: Any, start: Any, end: Any) -> Any:
    """Whether the chunk is a web address from this position on: labels with full stops, then a port or a path."""
    position = start
    labels = 0
    while True:
        first = position
        lower = True
        while position < end and _is_label(doc[position]):
            lower = lower and (_SMALL_A <= doc[position] <= _SMALL_Z)
            position += 1
        if position == first or doc[first] in (_UNDERSCORE, _HYPHEN) or doc[position - 1] in (_UNDERSCORE, _HYPHEN):
            return False
        if position == end or doc[position] != _DOT:
            break
        position += 1
        labels += 1
    if not labels or not lower or position - first < 2:
        return False
    if position + 2 < end and doc[position] == _COLON:
        first = position + 1
        position = first
        while position < end and _DIGIT_0 <= doc[position] <= _DIGIT_9:
            position += 1
        if not 2 <= position - first <= 5:
            return False
    return position == end or doc[position] in (_SLASH, _QUESTION, _HASH)


@numba.njit(nogil=True, cache=True, _nrt=False)
def holds_address(doc: Any, start: Any, end: Any) -> Any:
    """Whether the chunk is a web or mail address, after an optional scheme and user; none is without a full stop."""
    first = start
    for position in range(start + 2, end - 3):
        if doc[position] == _COLON and doc[position + 1] == _SLASH and doc[position + 2] == _SLASH:
            first = position + 3
            break
    if _is_address(doc, first, end):
        return True
    for position in range(first + 1, end - 1):  # noqa: SIM110 (a generator is slow in numba)
        if doc[position] == _AT and _is_address(doc, position + 1, end):
            return True
    return False
