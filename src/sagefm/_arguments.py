"""Checks of arguments that many functions share."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from sagefm._text import plain
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Seeds are below 2^32, which all libraries in use take.
_MAX_SEED = 2**32 - 1
#: Characters that the name of a file may have.
_MAX_NAME = 255
#: Characters of a value in an error, and of another library's message.
_MAX_SHOWN = 200
_MAX_MESSAGE = 600


#: Whole numbers are below 2^63, which all libraries in use take.
_MAX_WHOLE = 2**63 - 1


def whole_number(value: object, *, name: str, minimum: int, maximum: int = _MAX_WHOLE) -> int:
    """Return `value` as an int; raise :class:`~sagefm.errors.ArgumentError` unless it is whole and in range."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not minimum <= int(value) <= maximum:
        most = "" if maximum == _MAX_WHOLE else f" and at most {maximum:,}"
        raise ArgumentError(f"{name}={shown(value)}; expected a whole number of at least {minimum}{most}.")
    return int(value)


def number(value: object, *, name: str, is_valid: Callable[[float], bool], expected: str) -> float:
    """Return `value` as a float; raise :class:`~sagefm.errors.ArgumentError` unless it is finite and valid."""
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            converted = float(value)
        except OverflowError:
            converted = float("inf")
        if isfinite(converted) and is_valid(converted):
            return converted
    raise ArgumentError(f"{name}={shown(value)}; expected {expected}.")


def one_of(value: object, choices: Iterable[str], *, name: str) -> str:
    """Return `value`; raise :class:`~sagefm.errors.ArgumentError` unless it is one of the names."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        *others, last = map(repr, names)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ArgumentError(f"{name}={shown(value)}; expected {expected}.")
    return value


def key_name(value: object, *, name: str) -> str:
    """Return `value`; raise :class:`~sagefm.errors.ArgumentError` unless it can be the name of a column or key."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name}={shown(value)}; expected one name, as text.")
    return value


def check_type(value: object, kind: type, *, name: str, expected: str) -> None:
    """Raise :class:`~sagefm.errors.ArgumentError` unless `value` is of a type."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{name}={shown(value)}; expected {expected}.")


def as_path(value: object, *, name: str) -> Path:
    """Return `value` as a path; raise :class:`~sagefm.errors.ArgumentError` unless it can be one."""
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        # No file can have such a name, and some calls do not say so. No name at all would be the working folder.
        if os.fspath(value) and "\0" not in str(path) and max(map(len, path.parts), default=0) <= _MAX_NAME:
            return path
    raise ArgumentError(f"{name}={shown(value)}; expected a path.")


def as_array(values: object, *, name: str, n_dims: int | None = None) -> NDArray[np.float64]:
    """Return numbers as an array (of `n_dims` dimensions); raise :class:`~sagefm.errors.ArgumentError` for others."""
    import numpy as np

    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"{name} is {shown(values)}; expected an array of numbers.") from error
    if n_dims is not None and array.ndim != n_dims:
        raise ArgumentError(f"{name} has shape {array.shape}; expected {n_dims} dimensions.")
    return array


def shown(value: object) -> str:
    """Return how an error shows a value: its representation, shortened."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def printable(error: object) -> str:
    """Return the message of another library's error, shortened, without what a terminal would obey."""
    return plain(textwrap.shorten(str(error), _MAX_MESSAGE))


def as_seed(rng: int | np.random.Generator, *, name: str = "rng") -> int:
    """Return a seed: `rng` itself if it is a whole number, or one drawn from a generator."""
    if hasattr(rng, "integers"):
        return int(rng.integers(_MAX_SEED, endpoint=True))
    seed = whole_number(rng, name=name, minimum=0)
    if seed > _MAX_SEED:
        raise ArgumentError(f"{name}={seed}; expected a seed below 2**32, or a numpy.random.Generator.")
    return seed


def listed(values: object, *, argument: str, what: str = "gene names", may_be_empty: bool = False) -> list[str]:
    """Return names as a list; one name stands for a list of one."""
    if isinstance(values, str):
        return [values]
    if isinstance(values, Iterable) and ((names := [str(value) for value in values]) or may_be_empty):
        return names
    raise ArgumentError(f"{argument}={shown(values)}; expected {what}.")
