"""Tables of counts of legacy Spatial Transcriptomics, whose spots are named by their places on the array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sagefm._constants import SPATIAL_KEY
from sagefm.errors import ArgumentError
from sagefm.io._find import PLACE, split_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: Distance of neighboring spots of the array, in um.
PITCH_UM = 200.0


def read_st(path: Path) -> AnnData:
    """Return a section (n_spots, n_genes) with nominal coordinates in um; spots may be rows or columns of the file."""
    try:
        table = pd.read_csv(path, sep=split_table(path)[0], index_col=0)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise ArgumentError(f"{path} cannot be read as a table of counts: {error}") from error
    places = _places(table.index)
    if places is None:
        table = table.T
        places = _places(table.index)
    if places is None:
        raise ArgumentError(
            f"{path} names its rows {list(map(str, table.columns[:2]))} and its columns {list(map(str, table.index[:2]))}; "
            f"expected spots named by their place on the array, such as '10x13', in all rows or all columns."
        )
    wrong = [str(name) for name, kind in table.dtypes.items() if kind.kind not in "biuf"]
    if wrong:
        raise ArgumentError(f"{path} holds text where counts are expected, in {wrong[:3]}. Leave these columns out.")
    adata = AnnData(
        sparse.csr_matrix(table.to_numpy(dtype=np.float32)),
        obs=pd.DataFrame(index=table.index.astype(str)),
        var=pd.DataFrame(index=table.columns.astype(str)),
        obsm={SPATIAL_KEY: places * PITCH_UM},
    )
    adata.obs[["array_col", "array_row"]] = np.rint(places).astype(int)
    adata.var_names_make_unique()
    return adata


def _places(names: pd.Index) -> NDArray[np.float64] | None:
    """Return column and row of spots from their names, or None if they are not so named."""
    places = names.astype(str).str.extract(f"^{PLACE}$")
    return None if places.isna().any(axis=None) else places.to_numpy(dtype=float)
