"""Whether p-values of couplings are what they say, where there is no coupling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sagefm._constants import NETWORK_KEY
from sagefm.errors import MissingKeyError
from sagefm.pl._network import network_result
from sagefm.pl._tissue import get_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Vermilion and blue of the Okabe-Ito palette.
_TURNED, _OBSERVED = "#D55E00", "#0072B2"


def calibration(
    adata: Any,
    *,
    key: str = NETWORK_KEY,
    table_key: str | None = None,
    mod: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of pairs with p-values below a level, on turned tissue and as observed, against the level.

    The sources' tissue is turned and mirrored, so that no coupling is left: p-values that are right follow the diagonal,
    those below it are cautious. What is observed above the turned tissue are couplings. With several libraries,
    shares are means over these. A share of zero has no place on a logarithmic axis.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData: a section on which :func:`sagefm.tl.regulatory_network` was run with
        ``null="rotation"``; or what it returned of a corpus.
    key
        The ``key_added`` of :func:`sagefm.tl.regulatory_network`.
    ax
        Axes to draw into.
    table_key, mod
        Table of a SpatialData object; modality of a MuData object.

    Returns
    -------
    The Axes.

    Raises
    ------
    sagefm.errors.SagefmError
        No network was computed, or the tissue was not turned.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> genes = list(adata.var_names[:40])
    >>> sagefm.tl.regulatory_network(adata, sources=genes, targets=genes, null="rotation")
    >>> ax = sagefm.pl.calibration(adata)
    """
    result = network_result(adata, key, table_key, mod)
    if "null" not in result:
        call = 'sagefm.tl.regulatory_network(adata, null="rotation")'
        raise MissingKeyError(f"Found no 'null' in adata.uns[{key!r}]; run {call} first.")
    null = result["null"]
    shares = null.groupby("level", as_index=False)[["turned", "observed"]].mean()
    level = shares["level"].to_numpy()
    n_turns = null.groupby("library")["n_turns"].first().sum() if "library" in null else null["n_turns"].iloc[0]

    (panel,) = get_panels(ax, 1, (3.6, 3.4))
    ends = [level.min(), level.max()]
    panel.plot(ends, ends, color="0.5", linewidth=1, linestyle="--", label="expected without couplings")
    for name, color, label in (
        ("observed", _OBSERVED, "observed"),
        ("turned", _TURNED, f"tissue turned ({n_turns} ways)"),
    ):
        share = shares[name].to_numpy()
        panel.plot(level, np.where(share > 0, share, np.nan), color=color, marker="o", markersize=4, label=label)
    panel.set(xscale="log", yscale="log", xlabel="level", ylabel="share of pairs with p below the level")
    panel.legend(frameon=False, fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    return panel
