"""Predictive intervals of the measured counts of imputed genes; see :mod:`sagefm.metrics._intervals`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sagefm._arguments import number
from sagefm.errors import ArgumentError
from sagefm.metrics._intervals import dispersion, predictive_interval, section_dispersion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sagefm.inference._impute import Predicted
    from sagefm.inference._layout import Layout


class Bounds(NamedTuple):
    """Lower and upper ends of intervals, and what spots are expected to count in all genes, each (n_spots, n_genes)."""

    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    depths: NDArray[np.float32]


class SectionIntervals:
    """Predictions of a section, kept until the dispersion of their genes is known.

    Parameters
    ----------
    layout
        The section, all genes.
    level
        What the intervals are meant to cover.
    n_genes
        Number of genes that are predicted.
    """

    def __init__(self, layout: Layout, level: float, n_genes: int) -> None:
        shape = layout.section.n_spots, n_genes
        self.level = level
        self.counts, self.expected, self.depths = (np.zeros(shape, np.float32) for _ in range(3))
        self.of_section = section_dispersion(layout.counts, layout.fold_depths.sum(axis=1))

    def add(self, predicted: Predicted, genes: NDArray[np.int64]) -> None:
        """Keep predictions; `genes` are the places of their columns among all."""
        own = np.ix_(predicted.rows, genes)
        self.counts[own], self.expected[own] = predicted.counts, predicted.expected
        self.depths[own] = predicted.depths

    def result(self) -> Bounds:
        """Return the intervals."""
        phi = dispersion(self.counts, self.expected, self.of_section)
        return Bounds(*predictive_interval(self.expected, phi, self.level), self.depths)


def check_level(interval: object, *, is_chosen: bool) -> float | None:
    """Return the level of intervals; raise unless it is None, or between 0 and 1 for chosen genes."""
    if interval is None:
        return None
    expected = "a number between 0 and 1, e.g. 0.8, or None"
    level = number(interval, name="interval", is_valid=lambda x: 0 < x < 1, expected=expected)
    if not is_chosen:
        raise ArgumentError(
            "interval= is for chosen genes, whose predictions are kept in memory; pass genes=[...], too."
        )
    return level
