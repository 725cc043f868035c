"""What the verbs write, compared with what was read from a file."""

from __future__ import annotations

import numpy as np
import pandas as pd

WRITTEN = {
    "layers": ["sagefm_imputed"],
    "obsm": ["X_sagefm", "sagefm_perturb"],
    "obsp": ["sagefm_connectivities", "sagefm_distances"],
    "uns": ["sagefm", "sagefm_neighbors", "sagefm_perturb"],
}


def assert_equal(found, expected) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_names=False)
    elif hasattr(expected, "nnz"):
        assert type(found).__name__.startswith("csr")
        assert (found != expected).nnz == 0
    else:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def assert_everything_is_there(found, expected) -> None:
    for part, keys in WRITTEN.items():
        for key in keys:
            assert_equal(getattr(found, part)[key], getattr(expected, part)[key])
    for column in ("sagefm_imputed", "sagefm_imputed_r", "sagefm_imputed_q", "sagefm_imputed_trust"):
        np.testing.assert_array_equal(found.var[column], expected.var[column])
