"""Checks of arguments that many functions share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    pass

from numbers import Integral


def whole_number(value: object, *, name: str, minimum: int) -> int:
    """Return `value` as an int; raise :class:`~sagefm.errors.ArgumentError` unless it is whole and large enough."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ArgumentError(f"{name}={value!r}; expected a whole number of at least {minimum}.")
    return int(value)


def listed(genes: object, *, argument: str) -> list[str]:
    """Return gene names as a list; one name stands for a list of one."""
    if isinstance(genes, str):
        return [genes]
    if not isinstance(genes, Iterable) or not (names := [str(gene) for gene in genes]):
        raise ArgumentError(f"{argument}={genes!r}; expected gene names.")
    return names
