"""Which predictors an imputation is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from sagefm._arguments import key_name
from sagefm._constants import IMPUTED_KEY, UNS_KEY
from sagefm.data._table import entry
from sagefm.errors import MissingKeyError
from sagefm.pl._tissue import get_panels, select_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

#: Colors of the predictors, of the Okabe-Ito palette, from the bottom of a bar; and gray for others.
_COLORS: Final = {
    "network": "#0072B2",
    "factors": "#E69F00",
    "ridge": "#009E73",
    "surroundings": "#56B4E9",
    "neighbors": "#CC79A7",
}
_OTHER: Final = "0.6"


def imputation_weights(
    adata: Any,
    *,
    key: str = IMPUTED_KEY,
    table_key: str | None = None,
    mod: str | None = None,
    axes: Sequence[Axes] | NDArray[Any] | Axes | None = None,
) -> NDArray[Any]:
    """Draw how much each predictor counts in an imputation, by how highly genes are expressed.

    A bar stacks the weights of a bin of genes. They multiply the predictors' log rate ratios, and need not add up to one:
    a bar of no height is the section's profile at the spot's depth. Each library has a panel.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData on which :func:`sagefm.tl.impute` was run.
    key
        The ``key_added`` of :func:`sagefm.tl.impute`.
    axes
        Axes to draw into, one a library.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.

    Returns
    -------
    Array of the Axes.

    Raises
    ------
    sagefm.errors.SagefmError
        There are no weights: nothing was imputed, or by a published network, which is used alone.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.impute(adata, genes=["CD3E", "MS4A1"])
    >>> (ax,) = sagefm.pl.imputation_weights(adata)
    """
    weights = entry(select_table(adata, table_key, mod), UNS_KEY, key_name(key, name="key")).get("weights")
    if not isinstance(weights, pd.DataFrame):
        call = "sagefm.tl.impute(adata)"
        raise MissingKeyError(f"Found no weights in adata.uns[{UNS_KEY!r}][{key!r}]; run {call} first.")
    libraries = list(dict.fromkeys(weights["library"].astype(str)))
    bins = list(dict.fromkeys(weights["bin"].astype(str)))
    present = set(weights["predictor"])
    names = [name for name in _COLORS if name in present] + sorted(present - set(_COLORS))
    panels = get_panels(axes, len(libraries), (3.6, 3.2), argument="axes")
    top = 0.0
    for panel, library in zip(panels, libraries, strict=True):
        rows = weights[weights["library"].astype(str) == library]
        table = rows.pivot(index="bin", columns="predictor", values="weight").loc[bins]
        bottom = np.zeros(len(bins))
        for name in (name for name in names if name in table):
            height = table[name].to_numpy(dtype=float)
            panel.bar(bins, height, bottom=bottom, color=_COLORS.get(name, _OTHER), width=0.75, label=name)
            bottom += height
        top = max(top, float(bottom.max()))
        panel.set(xlabel="mean counts per spot", title=library)
        for label in panel.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels:
        panel.set_ylim(0, 1.05 * top if top > 0 else 1)
    panels[0].set_ylabel("weight")
    handles, labels = panels[-1].get_legend_handles_labels()
    # From the top of a bar to its bottom.
    panels[-1].legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return np.array(panels, dtype=object)
