"""What the two genes of a decoy have in common: six kinds of pairs without an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from sagefm._arguments import listed
from sagefm.datasets._array import PITCH, smooth_fields
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Kinds of decoys; :func:`sagefm.datasets.simulate` says what each shares.
KINDS: Final = ("domain", "cell_type", "factor", "white_factor", "field", "absent")
_FACTOR_LENGTH = 2 * PITCH
_N_CELL_TYPES = 6
_COMPOSITION_LENGTH = 4 * PITCH
_SMOOTH_SD, _WHITE_SD = 1.5, 0.5  # of the logarithm of a cell type's abundance
_MARKER_SHARE = 0.04  # of all genes, for each cell type
_FOLD = 8.0  # of a marker, in its cell type


def check_kinds(decoys: Sequence[str]) -> list[str]:
    """Return kinds of decoys as a list; raise unless each is known and named once."""
    kinds = listed(decoys, argument="decoys", what=f"kinds among {list(KINDS)}", may_be_empty=True)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or len(set(kinds)) < len(kinds):
        raise ArgumentError(f"decoys={decoys!r}; expected kinds among {list(KINDS)}, each once.")
    return kinds


def pair_levels(
    kind: NDArray[np.object_],
    coordinates: NDArray[np.float64],
    *,
    factor_sd: float,
    field_length: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log levels of the sources and of the targets beyond domains and cell types, both (n_spots, n_pairs)."""
    n_spots = len(coordinates)
    source = rng.standard_normal((n_spots, len(kind)))
    target = np.zeros_like(source)
    for name in ("factor", "white_factor", "field"):
        pairs = np.flatnonzero(kind == name)
        if name == "white_factor":
            shared = rng.standard_normal((n_spots, len(pairs)))
        else:
            length = _FACTOR_LENGTH if name == "factor" else field_length * PITCH
            shared = smooth_fields(coordinates, len(pairs), length, rng)
        source[:, pairs] += factor_sd * shared
        target[:, pairs] += factor_sd * shared
    absent = np.flatnonzero(kind == "absent")
    target[:, absent] = rng.standard_normal((n_spots, len(absent)))
    return source, target


def draw_markers(
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    kind: NDArray[np.object_],
    n_genes: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the markers of cell types and their types (n_markers,): both genes of a pair, and genes of no pair."""
    pairs = np.flatnonzero(kind == "cell_type")
    if not len(pairs):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    others = np.setdiff1d(np.arange(n_genes), [sources, targets])
    drawn = rng.permutation(others)[: _N_CELL_TYPES * round(_MARKER_SHARE * n_genes)]
    of_pairs = np.arange(len(pairs)) % _N_CELL_TYPES
    types = np.concatenate([of_pairs, of_pairs, np.arange(len(drawn)) % _N_CELL_TYPES])
    return np.concatenate([sources[pairs], targets[pairs], drawn]), types


def draw_composition(coordinates: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the share of each cell type in each spot, smooth with noise (n_spots, n_cell_types)."""
    smooth = smooth_fields(coordinates, _N_CELL_TYPES, _COMPOSITION_LENGTH, rng)
    abundance = np.exp(_SMOOTH_SD * smooth + _WHITE_SD * rng.standard_normal(smooth.shape))
    return abundance / abundance.sum(axis=1, keepdims=True)


def marker_factors(composition: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much a type's markers are raised in each spot, in which they are mixed (n_spots, n_cell_types)."""
    return 1 + (_FOLD - 1) * composition
