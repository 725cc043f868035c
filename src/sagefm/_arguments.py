"""Checks of arguments that many functions share."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING

from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

#: Seeds are below 2^32, which all libraries in use take.
_MAX_SEED = 2**32 - 1


def whole_number(value: object, *, name: str, minimum: int) -> int:
    """Return `value` as an int; raise :class:`~sagefm.errors.ArgumentError` unless it is whole and large enough."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ArgumentError(f"{name}={value!r}; expected a whole number of at least {minimum}.")
    return int(value)


def as_seed(rng: int | np.random.Generator, *, name: str = "rng") -> int:
    """Return a seed: `rng` itself if it is a whole number, or one drawn from a generator."""
    if hasattr(rng, "integers"):
        return int(rng.integers(_MAX_SEED, endpoint=True))
    seed = whole_number(rng, name=name, minimum=0)
    if seed > _MAX_SEED:
        raise ArgumentError(f"{name}={seed}; expected a seed below 2**32, or a numpy.random.Generator.")
    return seed


def listed(genes: object, *, argument: str) -> list[str]:
    """Return gene names as a list; one name stands for a list of one."""
    if isinstance(genes, str):
        return [genes]
    if not isinstance(genes, Iterable) or not (names := [str(gene) for gene in genes]):
        raise ArgumentError(f"{argument}={genes!r}; expected gene names.")
    return names
