"""Checks of arguments that many functions share."""

from __future__ import annotations

from numbers import Integral

from sagefm.errors import ArgumentError


def whole_number(value: object, *, name: str, minimum: int) -> int:
    """Return `value` as an int; raise :class:`~sagefm.errors.ArgumentError` unless it is whole and large enough."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ArgumentError(f"{name}={value!r}; expected a whole number of at least {minimum}.")
    return int(value)
