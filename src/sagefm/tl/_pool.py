"""``sagefm.tl.pool``."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from sagefm._arguments import listed, whole_number
from sagefm._constants import EMBEDDING_KEY, UNS_KEY
from sagefm.data._table import entry, get_embedding, get_libraries, get_table
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence


def pool(
    adata: Any,
    *,
    library_key: str,
    use_rep: str = EMBEDDING_KEY,
    statistics: Sequence[Literal["mean", "std"]] = ("mean",),
    min_spots: int = 1,
    table_key: str | None = None,
    mod: str | None = None,
) -> AnnData:
    """Pool the embeddings of each section's spots, to predict properties of samples.

    Zhan et al. (2026) predict the subtype of a sample from the mean embedding of its spots.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with an embedding. It is not changed.
    library_key
        Column of ``obs`` that names the section (or the donor) of each spot.
    use_rep
        Key of the embedding in ``obsm`` (n_spots, n_latent).
    statistics
        ``"mean"``, ``"std"`` (the standard deviation over spots, 0 for a section with one spot), or both.
    min_spots
        Sections with fewer spots are left out.
    table_key
        Table of a SpatialData object.
    mod
        Modality of a MuData object.

    Returns
    -------
    A new AnnData (n_sections, n_statistics x n_latent), float32, with one row per section, named after it.
    ``var_names`` are ``mean_0``, ``mean_1``, ...; ``obs`` holds ``n_spots`` and those columns that have a single value
    within each section; ``uns["sagefm"]`` holds the provenance of the embedding, and the parameters under ``"pool"``.

    Raises
    ------
    sagefm.errors.SagefmError
        A key does not exist, the embedding is not finite, a spot has no section, a statistic is unknown, or no section
        has enough spots.

    Examples
    --------
    >>> import scanpy as sc
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(100, n_genes=100, n_sections=3)
    >>> adata.obsm["X_log"] = sc.pp.log1p(adata.X.toarray())  # in place of sagefm.tl.embed(adata, model)
    >>> pooled = sagefm.tl.pool(adata, library_key="library", use_rep="X_log", statistics=["mean", "std"])
    >>> pooled.shape
    (3, 200)
    """
    wanted = listed(statistics, argument="statistics", what="'mean', 'std', or both")
    if len(set(wanted)) < len(wanted) or set(wanted) - {"mean", "std"}:
        raise ArgumentError(f"statistics={statistics!r}; expected 'mean', 'std', or both.")
    min_spots = whole_number(min_spots, name="min_spots", minimum=1)
    table = get_table(adata, table_key=table_key, mod=mod)
    embedding = get_embedding(table, use_rep)
    sections, names = get_libraries(table, library_key)
    n_spots = np.bincount(sections, minlength=len(names))
    if n_spots.max() < min_spots:
        raise ArgumentError(f"min_spots={min_spots}; the largest of {len(names)} sections has {n_spots.max()} spots.")

    spots = pd.DataFrame(embedding).groupby(sections)
    pooled = np.hstack([spots.mean() if name == "mean" else spots.std(ddof=0) for name in wanted])
    # Objects as text: lists, say, cannot be compared.
    columns = table.obs.apply(lambda column: column.map(str) if column.dtype == object else column)
    n_values = columns.groupby(sections).nunique(dropna=False)
    first = np.unique(sections, return_index=True)[1]
    obs = table.obs.loc[:, (n_values <= 1).all().to_numpy()].iloc[first].assign(n_spots=n_spots)
    obs.index = pd.Index(names, dtype=object)
    width = embedding.shape[1]
    var = pd.DataFrame({"statistic": np.repeat(wanted, width), "dimension": np.tile(np.arange(width), len(wanted))})
    var.index = var["statistic"] + "_" + var["dimension"].astype(str)
    provenance = entry(table, UNS_KEY, use_rep)
    params = {"library_key": library_key, "use_rep": use_rep, "statistics": wanted, "min_spots": min_spots}
    uns = {UNS_KEY: {**({use_rep: deepcopy(dict(provenance))} if provenance else {}), "pool": params}}
    # A part of a table keeps no category that it does not have.
    return AnnData(pooled.astype(np.float32), obs=obs, var=var, uns=uns)[n_spots >= min_spots].copy()
