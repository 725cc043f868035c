"""Labels of spots, and what stands for the lack of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sagefm._arguments import listed
from sagefm._constants import UNLABELLED
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_labels(labels: Any, unlabelled: Sequence[str] = UNLABELLED, *, name: str = "labels") -> pd.Series:
    """Return labels as strings (n_spots,), missing where a value is missing or its name is in `unlabelled`."""
    values = np.asarray(labels, dtype=object)
    if values.ndim != 1:
        raise ArgumentError(f"{name} has shape {values.shape}; expected (n_spots,).")
    column = pd.Series(values, dtype=object)
    names = column.map(str)
    without = listed(unlabelled, argument="unlabelled", what="names", may_be_empty=True)
    return names.where(column.notna() & ~names.isin(without)).astype(object)
