"""What is done to a source: where it is changed, and to which levels."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, get_args

import numpy as np

from sagefm._arguments import one_of, whole_number
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Where: TypeAlias = Literal["neighborhood", "center", "both"]
Scale: TypeAlias = Literal["range", "quantile", "fold"]

#: First and last of a number of levels: shares of the range, and quantiles.
_ENDS: Final = {"range": (0.0, 1.0), "quantile": (0.05, 0.95)}
#: Most levels: at each, all targets are predicted.
_MAX_LEVELS: Final = 10_000
#: Largest number that a level may be.
_LARGEST: Final = {"quantile": 1.0, "fold": np.inf}


@dataclass(frozen=True)
class Intervention:
    """Where a source is changed, and its levels in order: `numbers` (n_levels,) on a scale.

    They are shares of the way from its lowest to its highest value, quantiles of its values, or factors of its counts
    at each spot. A complex has one number for all subunits, and each subunit its own values.
    """

    where: Where
    scale: Scale
    numbers: NDArray[np.float32]

    @classmethod
    def of(cls, where: Where = "neighborhood", levels: Any = 5, scale: Scale = "range") -> Self:
        """Check the arguments of :func:`sagefm.tl.perturb`."""
        one_of(where, get_args(Where), name="where")
        one_of(scale, get_args(Scale), name="scale")
        if isinstance(levels, str) and levels == "knockout":
            scale, levels = "fold", (1, 0)
        if scale == "range" or (scale == "quantile" and isinstance(levels, Integral)):
            n_levels = whole_number(levels, name="levels", minimum=2, maximum=_MAX_LEVELS)
            return cls(where, scale, np.linspace(*_ENDS[scale], n_levels, dtype=np.float32))
        try:
            numbers = np.asarray(levels, dtype=np.float32)
        except (TypeError, ValueError):
            numbers = np.empty(0, np.float32)
        # NaN is not between 0 and anything.
        is_valid = (numbers >= 0) & (numbers <= _LARGEST[scale]) & np.isfinite(numbers)
        if numbers.ndim != 1 or len(numbers) < 2 or not is_valid.all():
            kind = (
                "quantiles between 0 and 1, or a number of levels" if scale == "quantile" else "factors of at least 0"
            )
            raise ArgumentError(f"levels={levels!r} with scale={scale!r}; expected two or more {kind}.")
        return cls(where, scale, numbers)

    def apply(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the levels of a source (n_levels,), and the values it is set to (n_spots, n_levels, n_subunits).

        `values` are those of its subunits at all spots (n_spots, n_subunits), on the scale of the network's input. The
        level of a complex is that of its lowest subunit.
        """
        if self.scale == "fold":
            factors = self.numbers[None, :, None]
            return self.numbers, np.log1p(factors * np.expm1(values)[:, None, :], dtype=np.float32)
        if self.scale == "range":
            ends = values.min(axis=0), values.max(axis=0)
            levels = np.linspace(*ends, len(self.numbers), dtype=np.float32)
        else:
            levels = np.quantile(values, self.numbers, axis=0).astype(np.float32)
        return levels.min(axis=1), np.broadcast_to(levels, (len(values), *levels.shape))
