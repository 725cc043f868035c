"""``sagefm.pp.spatial_neighbors``."""

from __future__ import annotations

from typing import Any

from sagefm._constants import N_SPOTS, NEIGHBORS_KEY, SPATIAL_KEY
from sagefm.data._graph import build_neighbors
from sagefm.data._table import TableKeys, copy_data, find_spots, get_table, library_column


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
    """Find and store the neighborhood of every spot: the spot itself and the nearest spots of the same section.

    Squidpy finds the nearest spots. Spots at the same distance are taken in the order of their second, then their first
    coordinate, so a neighborhood does not depend on the order of the spots in the table. In a Visium section, 4 % of
    the spots have several candidates for the last place.

    All functions use the stored graph as it was built: with its `n_spots` and, unless you pass a `library_key`, with
    its `library_key`, which then also separates the sections. If coordinates or libraries have changed since, e.g.
    because you subset the spots, the graph is built again with the same `n_spots` and `library_key`. A function that is
    called with another `spatial_key` or `library_key` replaces the graph, with a warning.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with spot coordinates.
    n_spots
        Number of spots in a neighborhood, including the center (15 in the paper).
    spatial_key
        Key of the coordinates in ``obsm`` (n_spots, 2), in any unit, e.g. full-resolution pixels for Visium. For a
        SpatialData table without them: the centroids of the shapes that it annotates, or, if `spatial_key` names a
        coordinate system, the centroids in that system. They are stored in the table with the graph.
    library_key
        Column of ``obs`` that names the section of each spot. Default: the regions, for a SpatialData table that
        annotates several; otherwise, all spots are one section.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.
    key_added
        Prefix of the keys that are written. If you change it, pass it to the other functions as `neighbors_key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.obsp[f"{key_added}_connectivities"]``, ``adata.obsp[f"{key_added}_distances"]``
        Ones, and distances in the unit of the coordinates: CSR matrices with a row and a column for each spot of the
        table, and `n_spots` - 1 entries per row.
    ``adata.uns[f"{key_added}_neighbors"]``
        Parameters, in squidpy's layout.

    Raises
    ------
    sagefm.errors.SagefmError
        A key does not exist, coordinates are not finite, libraries are missing, or a library has fewer than `n_spots`
        spots.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.pp.spatial_neighbors(adata)
    >>> adata.obsp["sagefm_connectivities"].nnz / adata.n_obs  # neighbors of a spot, itself not counted
    14.0
    """
    data = copy_data(adata) if copy else adata
    table = get_table(data, table_key=table_key, mod=mod)
    keys = TableKeys(spatial_key=spatial_key, library_key=library_column(table, library_key))
    build_neighbors(table, keys, find_spots(data, table, keys), n_spots=n_spots, key_added=key_added)
    return data if copy else None
