r"""How much the correlation of two fields varies by chance, where nearby spots are alike.

The correlation of two independent stationary fields a and b over n spots has the variance (Clifford, Richardson and
Hemon 1989), in the frequency domain

    var(r) = sum_m S_a(m) S_b(m) / (sum_m S_a(m) sum_m S_b(m)),

with S(m) the expected square of a field's coefficient on mode m of the tissue. For white fields this is 1 / (n - 1).
Modes are cosines on the box around the tissue, put in order of frequency and made orthonormal over its spots. S is
taken to be level within an octave, and estimated from a sample of its modes: the coefficients of a field are sums over
spots, so that the field itself is never held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Modes of the lowest octave, and modes of an octave that are sampled.
_FIRST: Final = 2
_SAMPLED: Final = 16


@dataclass(frozen=True)
class SpatialModes:
    """Modes of a section.

    Attributes
    ----------
    values
        Orthonormal columns, and orthogonal to a constant (n_spots, n_modes).
    octave
        Octave of each mode (n_modes,).
    sizes
        Number of modes that each octave has, sampled or not (n_octaves,); together one less than there are spots.
    """

    values: NDArray[np.float64]
    octave: NDArray[np.int64]
    sizes: NDArray[np.float64]

    @classmethod
    def of(cls, coordinates: NDArray[np.float64]) -> SpatialModes:
        """Return the modes of spots with coordinates (n_spots, 2)."""
        n_modes = len(coordinates) - 1
        pitch = _pitch(coordinates)
        lengths = np.ptp(coordinates, axis=0) + pitch
        # The lowest n modes fill a quarter of an ellipse.
        longest = np.minimum(2 * np.sqrt(n_modes * lengths / lengths[::-1]), n_modes).astype(int) + 1
        waves = np.stack(np.meshgrid(*(np.arange(n + 1) for n in longest)), axis=-1).reshape(-1, 2)
        waves = waves[np.argsort(((waves / lengths) ** 2).sum(axis=1), kind="stable")][1 : n_modes + 1]
        edges = np.minimum(_FIRST * (2 ** np.arange(n_modes.bit_length() + 1) - 1), n_modes)
        sampled, octave, sizes = [np.arange(0)], [np.arange(0)], np.diff(np.unique(edges))
        for i, (start, size) in enumerate(zip(np.unique(edges), sizes, strict=False)):
            modes = start + np.arange(min(size, _SAMPLED)) * size // min(size, _SAMPLED)
            sampled.append(modes)
            octave.append(np.full(len(modes), i))
        place = np.pi * (coordinates - coordinates.min(axis=0) + pitch / 2) / lengths
        chosen = waves[np.concatenate(sampled)]
        cosines = np.cos(place[:, :1] * chosen[:, 0]) * np.cos(place[:, 1:] * chosen[:, 1])
        values = np.linalg.qr(np.column_stack([np.ones(len(coordinates)), cosines]))[0][:, 1:]
        return cls(values, np.concatenate(octave), sizes.astype(np.float64))

    def levels(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean square of coefficients (n_modes, n_genes) in each octave (n_octaves, n_genes)."""
        squares = coefficients**2
        return np.stack([squares[self.octave == i].mean(axis=0) for i in range(len(self.sizes))])


class Spectra:
    """Coefficients of pairs of fields, a pair a gene, on the modes of one section after the other."""

    def __init__(self, n_genes: int) -> None:
        self._n_genes = n_genes
        #: Of finished sections: the sums of S_a S_b, S_a and S_b over modes.
        self._sums = np.zeros((3, n_genes))
        self._modes: SpatialModes | None = None

    @property
    def is_begun(self) -> bool:
        """Whether a section was begun."""
        return self._modes is not None

    def begin(self, coordinates: NDArray[np.float64]) -> None:
        """Finish the section, and begin one with these spots (n_spots, 2)."""
        self._sums = self._totals()
        self._modes = SpatialModes.of(coordinates)
        self._coefficients = np.zeros((2, len(self._modes.octave), self._n_genes))
        self._seen = np.zeros(len(coordinates), dtype=bool)

    def add(
        self,
        spots: NDArray[np.int64] | slice,
        a: NDArray[np.floating],
        b: NDArray[np.floating],
        genes: NDArray[np.int64],
    ) -> None:
        """Add the fields of `genes` at some spots of the section (n_rows, n_genes)."""
        if self._modes is None:
            return
        modes = self._modes.values[spots].T
        for total, field in zip(self._coefficients, (a, b), strict=True):
            total[:, genes] += modes @ field
        self._seen[spots] = True

    def variance(self) -> NDArray[np.float64]:
        """Return the variance of each gene's correlation (n_genes,), NaN where a field is zero."""
        products, *energies = self._totals()
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(products / (energies[0] * energies[1]))

    def _totals(self) -> NDArray[np.float64]:
        """Return the sums, the open section's included."""
        n_seen = int(self._seen.sum()) if self._modes is not None else 0
        if self._modes is None or n_seen < 2:
            return self._sums
        # Of a section that is scored in part, the sum over modes is that of so many spots.
        sizes = self._modes.sizes * ((n_seen - 1) / self._modes.sizes.sum())
        a, b = (self._modes.levels(values) for values in self._coefficients)
        return np.asarray(self._sums + np.stack([sizes @ (a * b), sizes @ a, sizes @ b]))


def _pitch(coordinates: NDArray[np.float64]) -> float:
    """Return the median distance of nearest spots that do not share a position."""
    if len(coordinates) < 2:
        return 1.0
    nearest = cKDTree(coordinates).query(coordinates, 2)[0][:, 1]
    return float(np.median(nearest[nearest > 0])) if (nearest > 0).any() else 1.0
