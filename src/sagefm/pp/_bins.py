"""``sagefm.pp.aggregate_bins``."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from sagefm._constants import SPATIAL_KEY

if TYPE_CHECKING:
    from anndata import AnnData


def aggregate_bins(
    adata: Any,
    *,
    width: float,
    layer: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
) -> AnnData:
    """Add up the counts of small bins (Visium HD, Stereo-seq, ...) in square tiles of the width of a Visium spot's pitch.

    A neighborhood of 15 spots stands for about 400 um of tissue: with bins of 8 um it would be 30 um wide, and models
    that were trained on spots would read a handful of counts.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with raw counts and coordinates of bins.
    width
        Width of a tile, in the unit of the coordinates; that of 100 um for Visium.
    layer
        Layer with raw counts; ``X`` if left out.
    spatial_key
        Coordinates in ``obsm`` (n_bins, 2).
    library_key
        Column of ``obs`` that names the section of each bin; tiles are of one section.
    table_key
        Table of a SpatialData object.
    mod
        Modality of a MuData object.

    Returns
    -------
    A new table (n_tiles, n_vars): counts as CSR float32, ``obsm[spatial_key]`` with the mean of the tile's bins,
    ``obs["n_bins"]``, ``obs[library_key]``, ``var``, and ``uns["spatial"]`` with the tiles' diameter. Tiles without
    bins are not there.

    Raises
    ------
    sagefm.errors.SagefmError
        A width that is not positive, a key that does not exist, values that are not raw counts.

    Examples
    --------
    >>> import sagefm
    >>> bins = sagefm.datasets.simulate(900, rng=0)  # 100 um apart
    >>> sagefm.pp.aggregate_bins(bins, width=300.0).n_obs < bins.n_obs
    True
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from sagefm.data._blocks import iter_blocks
    from sagefm.data._counts import get_counts
    from sagefm.data._table import find_coordinates, get_libraries, get_table, library_column
    from sagefm.errors import ArgumentError

    if not np.isfinite(width) or width <= 0:
        raise ArgumentError(f"width={width!r}; expected a positive width in the unit of the coordinates.")
    table = get_table(adata, table_key=table_key, mod=mod)
    coordinates = find_coordinates(adata, table, spatial_key)
    library_key = library_column(table, library_key)
    libraries, names = get_libraries(table, library_key)
    cells = np.column_stack([libraries, np.floor((coordinates - coordinates.min(axis=0)) / width)])
    tiles, tile = np.unique(cells, axis=0, return_inverse=True)
    tile = tile.ravel()
    n_bins = np.bincount(tile)
    sums, owners = [], []
    for rows, block in iter_blocks(get_counts(table, layer)):
        own, at = np.unique(tile[rows], return_inverse=True)
        ones = np.ones(len(at), np.float32)
        sums.append(sparse.csr_matrix((ones, (at, np.arange(len(at)))), (len(own), len(at))) @ block)
        owners.append(own)
    owner = np.concatenate(owners)
    ones = np.ones(len(owner), np.float32)
    counts = sparse.csr_matrix((ones, (owner, np.arange(len(owner)))), (len(tiles), len(owner))) @ sparse.vstack(sums)
    obs = pd.DataFrame({"n_bins": n_bins}, index=[f"tile{i}" for i in range(len(tiles))])
    if library_key is not None:
        obs[library_key] = pd.Categorical([names[int(code)] for code in tiles[:, 0]])
    means = np.column_stack([np.bincount(tile, weights=axis) / n_bins for axis in coordinates.T])
    uns = {"spatial": deepcopy(dict(table.uns["spatial"]))} if "spatial" in table.uns else {}
    for library in uns.get("spatial", {}).values():
        scale = library.get("scalefactors", {})
        scale.pop("bin_size_um", None)
        if "spot_diameter_fullres" in scale:
            scale["spot_diameter_fullres"] = float(width)
    var = pd.DataFrame(index=table.var_names) if not isinstance(table.var, pd.DataFrame) else table.var.copy()
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var, obsm={spatial_key: means}, uns=uns)
