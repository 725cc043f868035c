"""``sagefm.pp.spatial_neighbors``."""

from __future__ import annotations

from typing import Any

from sagefm._constants import N_SPOTS, NEIGHBORS_KEY, SPATIAL_KEY


def spatial_neighbors(
    adata: Any,
    *,
    n_spots: int = N_SPOTS,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = NEIGHBORS_KEY,
    copy: bool = False,
) -> Any:
    """Store the neighborhood of every spot: itself and its nearest spots of the same section.

    squidpy finds the nearest spots. Of spots at the same distance (4 % of the spots of a Visium section have
    several for the last place) those of lower second, then first coordinate are taken, so that a neighborhood
    does not depend on the order of the spots.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with spot coordinates.
    n_spots
        Spots of a neighborhood, the center included (paper: 15).
    spatial_key
        Coordinates in ``obsm`` (n_spots, 2), any unit; full-resolution pixels for Visium.
    library_key
        Column of ``obs`` that names the section of each spot.
    table_key
        Table of a SpatialData object.
    mod
        Modality of a MuData object.
    key_added
        Prefix of the entries that are written; pass it as `neighbors_key` elsewhere if it is not the default.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.obsp[f"{key_added}_connectivities"]``, ``adata.obsp[f"{key_added}_distances"]``
        Ones, and distances in the unit of the coordinates, CSR (n_spots, n_spots), ``n_spots - 1`` entries a row.
    ``adata.uns[f"{key_added}_neighbors"]``
        Parameters, as squidpy writes them.

    Raises
    ------
    MissingKeyError
        Coordinates or library column do not exist.
    CoordinatesError
        Coordinates are not finite, libraries are missing, or a library has fewer than `n_spots` spots.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.pp.spatial_neighbors(adata)
    >>> adata.obsp["sagefm_connectivities"].nnz / adata.n_obs  # neighbors of a spot, itself not counted
    14.0
    """
    from sagefm.data._graph import build_neighbors
    from sagefm.data._table import coordinates_in_table, copy_data, get_table

    data = copy_data(adata) if copy else adata
    table = get_table(data, table_key=table_key, mod=mod)
    with coordinates_in_table(data, table, spatial_key):
        build_neighbors(table, n_spots=n_spots, spatial_key=spatial_key, library_key=library_key, key_added=key_added)
    return data if copy else None
