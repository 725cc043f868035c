"""What people have, read into AnnData, SpatialData or MuData: folders of Space Ranger, stores, tables of counts.

The readers of scanpy, anndata, spatialdata and mudata do the reading; here is only what they lack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagefm._lazy import lazy

if TYPE_CHECKING:
    from sagefm.io._read import read

__all__ = ["read"]

__getattr__, __dir__ = lazy(__name__, read="sagefm.io._read")
