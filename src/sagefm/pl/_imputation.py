"""A gene as measured, beside the gene as imputed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.sparse import issparse

from sagefm._constants import IMPUTED_KEY, SPATIAL_KEY, UNS_KEY
from sagefm.data._table import get_table
from sagefm.errors import GenesError, MissingKeyError
from sagefm.pl._tissue import COLORBAR_WIDTH, add_colorbar, draw_spots, get_panels, get_section


def imputation(
    adata: Any,
    gene: str,
    *,
    key: str = IMPUTED_KEY,
    layer: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    library: str | None = None,
    axes: Sequence[Axes] | NDArray[Any] | Axes | None = None,
    size: float = 1.0,
    cmap: str = "magma",
    table_key: str | None = None,
    mod: str | None = None,
) -> NDArray[Any]:
    """Draw a gene's measured counts next to its imputed counts, both as log1p.

    Each panel has its own color limits, the 1 % and 99 % quantiles of its values, because expected counts
    vary less than measured ones.

    Parameters
    ----------
    adata
        A section on which :func:`sagefm.tl.impute` was run.
    gene
        Name in ``adata.var_names``; or, for a gene that was not measured, a column of ``adata.obsm[key]``,
        for which only the imputed panel is drawn.
    key
        The ``key_added`` of :func:`sagefm.tl.impute`.
    layer
        Layer with the measured counts. Default: the one that was passed to :func:`sagefm.tl.impute`, or else ``adata.X``.
    axes
        Two Axes to draw into, or one for a gene that was not measured.
    cmap
        Colormap of both panels.
    spatial_key, library_key, library, size, table_key, mod
        As in :func:`sagefm.pl.embedding`.

    Returns
    -------
    Array of the Axes: measured and imputed, or only imputed.

    Raises
    ------
    sagefm.errors.SagefmError
        The gene was not imputed, a key does not exist, or there are several libraries and none was chosen.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.impute(adata, genes=["MS4A1"])
    >>> measured, imputed = sagefm.pl.imputation(adata, "MS4A1")
    """
    adata = get_table(adata, table_key=table_key, mod=mod)
    section = get_section(adata, spatial_key=spatial_key, library_key=library_key, library=library)
    params = adata.uns.get(UNS_KEY, {}).get(key)
    if params is None:
        raise MissingKeyError(f"Found no {key!r} in adata.uns[{UNS_KEY!r}]; run sagefm.tl.impute(adata) first.")
    column = _column(adata, gene)
    name, values, unit = "imputed", _imputed(adata, gene, column, key)[section.rows], "expected log1p of counts"
    if params.get("scale", "counts") == "counts":
        values, unit = np.log1p(values), "log1p of expected counts"
    shown = []
    if column is not None:
        counts = _measured(adata, column, params.get("layer") if layer is None else layer)
        shown.append(("measured", np.log1p(counts[section.rows]), "log1p of counts"))
        if f"{key}_r" in adata.var and np.isfinite(r := adata.var[f"{key}_r"].iloc[column]):
            name = f"imputed (r = {r:.2f})"
    shown.append((name, values, unit))

    panels = get_panels(axes, len(shown), section.figsize(beside=COLORBAR_WIDTH))
    for panel, (name, values, unit) in zip(panels, shown, strict=True):
        add_colorbar(panel, draw_spots(panel, section, values=values, cmap=cmap, size=size), unit)
        panel.set_title(f"{gene}, {name}")
    return np.array(panels, dtype=object)


def _column(adata: AnnData, gene: str) -> int | None:
    """Return the column of a gene, None if it was not measured."""
    columns = np.flatnonzero(adata.var_names == gene)
    if len(columns) > 1:
        raise GenesError(f"{gene!r} stands several times in adata.var_names; run adata.var_names_make_unique() first.")
    return int(columns[0]) if len(columns) else None


def _imputed(adata: AnnData, gene: str, column: int | None, key: str) -> NDArray[np.float64]:
    # A sparse layer holds the requested genes alone: zeros elsewhere are no predictions.
    if column is not None and key in adata.layers and key in adata.var and adata.var[key].iloc[column]:
        return _dense(adata.layers[key][:, column])
    table = adata.obsm.get(key)
    if isinstance(table, pd.DataFrame) and gene in table:
        return _dense(table[gene])
    raise MissingKeyError(
        f"Found no imputed values of {gene!r} under {key!r}; run sagefm.tl.impute(adata, genes=[{gene!r}]) first."
    )


def _measured(adata: AnnData, column: int, layer: str | None) -> NDArray[np.float64]:
    if layer is not None and layer not in adata.layers:
        names = [name for name in adata.layers if name is not None]
        raise MissingKeyError(f"layer={layer!r} is not in adata.layers; found {names}. Pass layer=... .")
    counts = adata.X if layer is None else adata.layers[layer]
    if counts is None:
        raise MissingKeyError("adata.X is empty; pass layer=..., the layer of the measured counts.")
    return _dense(counts[:, column])


def _dense(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.toarray() if issparse(column) else column, dtype=np.float64).ravel()
