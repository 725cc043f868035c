"""The variance-stabilising root, of NumPy arrays and of torch tensors alike."""

from __future__ import annotations

from typing import Any, Final, TypeVar

T = TypeVar("T")

#: 4 times the 3/8 of Anscombe (1948): the root of 4 x + 3/2 has a noise of about one for Poisson counts.
_ANSCOMBE: Final = 1.5


def root(x: T) -> T:
    """Return r(x) = 2 sqrt(x + 3/8) - 2 sqrt(3/8), which is 0 at 0 and has noise of about one (Anscombe 1948).

    Parameters
    ----------
    x
        Counts or expected counts, an array or a tensor of any shape.
    """
    result: Any = 4 * x  # type: ignore[operator]
    result += _ANSCOMBE
    result **= 0.5
    result -= _ANSCOMBE**0.5
    return result
