"""A gene as measured, beside the gene as imputed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from sagefm._arguments import key_name
from sagefm._constants import IMPUTED_KEY, SPATIAL_KEY, UNS_KEY
from sagefm.data._table import TableKeys, entry
from sagefm.errors import GenesError, MissingKeyError
from sagefm.pl._tissue import (
    COLORBAR_WIDTH,
    add_colorbar,
    check_size,
    draw_spots,
    get_panels,
    select_section,
    select_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def imputation(
    adata: Any,
    gene: str,
    *,
    key: str = IMPUTED_KEY,
    layer: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    library: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    axes: Sequence[Axes] | NDArray[Any] | Axes | None = None,
    size: float = 1.0,
    img: bool = False,
    cmap: str = "magma",
) -> NDArray[Any]:
    """Draw a gene's measured counts next to its imputed counts, both as log1p.

    The title says how well the gene is recovered on the section, and how far its map can be trusted
    (:func:`sagefm.metrics.trust`).

    Each panel has its own color limits, the 1 % and 99 % quantiles of its values, because expected counts
    vary less than measured ones.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section on which :func:`sagefm.tl.impute` was run.
    gene
        Name in ``adata.var_names``; or, for a gene that was not measured, a column of ``adata.obsm[key]``,
        for which only the imputed panel is drawn.
    key
        The ``key_added`` of :func:`sagefm.tl.impute`.
    layer
        Layer of the measured counts. Default: the one that was imputed, or else ``adata.X``.
    axes
        Two Axes to draw into; one for a gene that was not measured.
    cmap
        Colormap of both panels.
    spatial_key, library_key, library, table_key, mod, size, img
        As in :func:`sagefm.pl.embedding`.

    Returns
    -------
    Array of the Axes: measured and imputed, or only imputed.

    Raises
    ------
    sagefm.errors.SagefmError
        The gene was not imputed, or has its name several times in ``adata.var_names``; the layer or coordinates do not
        exist; there are several libraries and none was chosen.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.impute(adata, genes=["MS4A1"])
    >>> measured, imputed = sagefm.pl.imputation(adata, "MS4A1")
    """
    table = select_table(adata, table_key, mod)
    keys = TableKeys(spatial_key=spatial_key, library_key=library_key)
    section = select_section(adata, table, keys, library, img=img)
    check_size(size)
    key_name(gene, name="gene")
    params = entry(table, UNS_KEY, key_name(key, name="key"))
    if not params:
        raise MissingKeyError(f"Found no {key!r} in adata.uns[{UNS_KEY!r}]; run sagefm.tl.impute(adata) first.")
    values, name, unit = _imputed(table, gene, key)[section.rows], "imputed", "expected log1p of counts"
    if params.get("scale", "counts") == "counts":
        values, unit = np.log1p(values), "log1p of expected counts"
    shown = []
    if gene in table.var_names:
        counts = _measured(table, gene, params.get("layer") if layer is None else layer)[section.rows]
        shown.append(("measured", np.log1p(counts), "log1p of counts"))
        name = f"imputed{_quality(table, gene, key)}"
    shown.append((name, values, unit))

    panels = get_panels(axes, len(shown), section.figsize(beside=COLORBAR_WIDTH), argument="axes")
    for panel, (name, values, unit) in zip(panels, shown, strict=True):
        add_colorbar(panel, draw_spots(panel, section, values=values, cmap=cmap, size=size), unit)
        panel.set_title(f"{gene}, {name}")
    return np.array(panels, dtype=object)


def _quality(adata: AnnData, gene: str, key: str) -> str:
    """Return how well a gene is recovered, for a title: its r, and how far to trust its map."""
    row = adata.var.iloc[_column(adata, gene)]
    r, trust = row.get(f"{key}_r", np.nan), row.get(f"{key}_trust")
    parts = [f"r = {r:.2f}"] if np.isfinite(r) else []
    parts += [f"trust: {trust}"] if isinstance(trust, str) else []
    return f" ({', '.join(parts)})" if parts else ""


def _imputed(adata: AnnData, gene: str, key: str) -> NDArray[np.float64]:
    """Return the imputed values of a gene (n_spots,): of the layer, or of the table in `obsm`."""
    # A sparse layer holds the requested genes alone: zeros elsewhere are no predictions.
    if gene in adata.var_names and key in adata.layers and key in adata.var:
        column = _column(adata, gene)
        if adata.var[key].iloc[column]:
            return _dense(adata.layers[key][:, column])
    table = adata.obsm.get(key)
    if isinstance(table, pd.DataFrame) and gene in table:
        return _dense(table[gene])
    raise MissingKeyError(
        f"Found no imputed values of {gene!r} under {key!r}; run sagefm.tl.impute(adata, genes=[{gene!r}]) first."
    )


def _measured(adata: AnnData, gene: str, layer: str | None) -> NDArray[np.float64]:
    """Return the measured counts of a gene (n_spots,)."""
    if layer is not None and key_name(layer, name="layer") not in adata.layers:
        names = [name for name in adata.layers if name is not None]
        raise MissingKeyError(f"layer={layer!r} is not in adata.layers; found {names}. Pass layer=... .")
    counts = adata.X if layer is None else adata.layers[layer]
    if counts is None:
        raise MissingKeyError("adata.X is empty; pass layer=..., the layer of the measured counts.")
    return _dense(counts[:, _column(adata, gene)])


def _column(adata: AnnData, gene: str) -> int:
    """Return the column of a gene, which must be unique."""
    column = adata.var_names.get_loc(gene)
    if not isinstance(column, int):
        raise GenesError(f"{gene!r} stands several times in adata.var_names; run adata.var_names_make_unique() first.")
    return column


def _dense(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.toarray() if issparse(column) else column, dtype=np.float64).ravel()
