"""Whether imputed values of a gene can be trusted on a section: a rule in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from sagefm._arguments import whole_number
from sagefm.metrics._recovery import check_table, least_reliability

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRUST: Final = ("good", "weak", "none")
#: False discovery rate above which a gene is not recovered.
_MAX_Q: Final = 0.05
#: Share of the noise ceiling from which a gene is well recovered.
_GOOD_SHARE: Final = 0.5


def trust(table: pd.DataFrame, n_spots: int) -> pd.Series:
    """Return how far imputed values of each gene can be trusted, by how well its measured counts are recovered.

    - ``"none"``: the gene is not recovered (``qval`` of 0.05 or more, or not tested), or its counts are predicted no
      better than by depth and the section's profile (``d2`` of 0 or less);
    - ``"good"``: recovered, and ``r`` is at least half of the noise ceiling, the r of a perfect prediction. The ceiling is
      taken to be at least what so many spots can tell from noise (:meth:`Recovery.result`);
    - ``"weak"``: recovered, but less than that: fit for averages over many spots or genes, not for single spots.

    Parameters
    ----------
    table
        Result of :func:`recovery` or of :meth:`Recovery.result`.
    n_spots
        Number of spots that it was computed on.

    Returns
    -------
    Categories by gene, ordered as above, missing where a gene was not predicted.

    Raises
    ------
    MissingKeyError
        `table` lacks a column.
    ArgumentError
        `table` is no DataFrame, or `n_spots` no whole number of at least 1.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> recovered = sagefm.metrics.recovery(adata.X, adata.layers["rate"], coordinates=adata.obsm["spatial"])
    >>> list(sagefm.metrics.trust(recovered, 300).cat.categories)
    ['good', 'weak', 'none']
    """
    check_table(table, ("r", "qval", "d2", "ceiling"))
    n_spots = whole_number(n_spots, name="n_spots", minimum=1)
    r, ceiling = (table[name].to_numpy(dtype=np.float64) for name in ("r", "ceiling"))
    is_recovered = ((table["qval"] < _MAX_Q) & (table["d2"] > 0)).to_numpy()
    bound: NDArray[np.float64] = np.maximum(np.nan_to_num(ceiling), np.sqrt(least_reliability(n_spots)))
    codes = np.where(is_recovered, np.where(r >= _GOOD_SHARE * bound, 0, 1), 2)
    codes[table["d2"].isna().to_numpy() & np.isnan(r)] = -1
    return pd.Series(pd.Categorical.from_codes(codes, list(TRUST)), index=table.index, name="trust")
