"""``sagefm.pp.aggregate_bins``."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from sagefm._arguments import number
from sagefm._constants import SPATIAL_KEY
from sagefm._progress import ProgressBar
from sagefm.data._blocks import iter_blocks
from sagefm.data._counts import get_counts
from sagefm.data._table import TableKeys, find_spots, get_table, library_column, spatial_libraries


def aggregate_bins(
    adata: Any,
    *,
    width: float,
    layer: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    progress: bool = True,
) -> AnnData:
    """Sum the counts of small bins (Visium HD, Stereo-seq, ...) over square tiles, as wide as Visium spots are apart.

    A neighborhood of 15 spots covers about 400 um of tissue. With bins of 8 um, it would be 30 um wide, and a model that
    was trained on spots would see only a handful of counts.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with raw counts and coordinates of bins.
    width
        Width of a tile, in the unit of the coordinates. For a model that was trained on Visium, choose what corresponds
        to 100 um.
    layer
        Layer with raw counts. Default: ``X``.
    spatial_key
        Key of the coordinates in ``obsm`` (n_bins, 2).
    library_key
        Column of ``obs`` that names the section of each bin. No tile spans two sections.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.
    progress
        As in :func:`sagefm.tl.embed`.

    Returns
    -------
    A new AnnData (n_tiles, n_vars) with one row for each tile that contains bins: counts as CSR float32, the mean
    coordinates of the bins in ``obsm[spatial_key]``, ``obs["n_bins"]``, ``obs[library_key]``, ``var``, and
    ``uns["spatial"]`` with the width of the tiles as spot diameter.

    Raises
    ------
    sagefm.errors.SagefmError
        The width is not positive, a key does not exist, or values are not raw counts.

    Examples
    --------
    >>> import sagefm
    >>> bins = sagefm.datasets.simulate(900, rng=0)  # 100 um apart
    >>> sagefm.pp.aggregate_bins(bins, width=300.0).n_obs < bins.n_obs
    True
    """
    expected = "a positive width in the unit of the coordinates"
    width = number(width, name="width", is_valid=lambda x: x > 0, expected=expected)
    keys = TableKeys(layer=layer, spatial_key=spatial_key, library_key=library_key)
    table = get_table(adata, table_key=table_key, mod=mod)
    library_key = library_column(table, library_key)
    spots = find_spots(adata, table, replace(keys, library_key=library_key))
    places = np.floor((spots.coordinates - spots.coordinates.min(axis=0)) / width)
    tiles, tile = np.unique(np.column_stack([spots.libraries, places]), axis=0, return_inverse=True)
    tile = tile.ravel()
    n_bins = np.bincount(tile)
    # Summed within each block of rows, then over blocks: counts may be larger than memory, the sums are not.
    sums, owners = [], []
    with ProgressBar("aggregating bins", table.n_obs, "bin", progress=progress) as bar:
        for rows, block in iter_blocks(get_counts(table, layer)):
            owner, group = np.unique(tile[rows], return_inverse=True)
            sums.append(_summing(group, len(owner)) @ block)
            owners.append(owner)
            bar.update(block.shape[0])
    counts = _summing(np.concatenate(owners), len(tiles)) @ sparse.vstack(sums)
    obs = pd.DataFrame({"n_bins": n_bins}, index=[f"tile{i}" for i in range(len(tiles))])
    if library_key is not None:
        obs[library_key] = pd.Categorical([spots.names[int(code)] for code in tiles[:, 0]])
    means = np.column_stack([np.bincount(tile, weights=axis) / n_bins for axis in spots.coordinates.T])
    libraries = {name: deepcopy(dict(library)) for name, library in spatial_libraries(table).items()}
    for library in libraries.values():
        scale = library.get("scalefactors")
        if isinstance(scale, dict):
            scale.pop("bin_size_um", None)
            if "spot_diameter_fullres" in scale:
                scale["spot_diameter_fullres"] = float(width)
    var = pd.DataFrame(index=table.var_names) if not isinstance(table.var, pd.DataFrame) else table.var.copy()
    return AnnData(
        sparse.csr_matrix(counts),
        obs=obs,
        var=var,
        obsm={spatial_key: means},
        uns={"spatial": libraries} if libraries else {},
    )


def _summing(group: NDArray[np.integer], n_groups: int) -> sparse.csr_matrix:
    """Return the operator that adds up the rows of each group (n_groups, n_rows)."""
    ones = np.ones(len(group), np.float32)
    return sparse.csr_matrix((ones, (group, np.arange(len(group)))), (n_groups, len(group)))
