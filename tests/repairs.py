"""The call that a message ends with, run as a reader would."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import scanpy
import squidpy

import sagefm


def repaired(adata: Any, message: str) -> Any:
    """Return a copy of `adata` after the call at the end of `message`, in a session with the usual imports."""
    names = {
        "adata": adata.copy(),
        "anndata": anndata,
        "np": np,
        "sagefm": sagefm,
        "scanpy": scanpy,
        "squidpy": squidpy,
    }
    _, separator, code = message.rpartition(": ")
    assert separator, f"no call at the end of: {message}"
    exec(code, names)
    return names["adata"]
