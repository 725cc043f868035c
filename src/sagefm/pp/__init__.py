"""Preprocessing: neighborhoods and gene matching."""

from __future__ import annotations

from sagefm.pp._genes import match_genes
from sagefm.pp._neighbors import spatial_neighbors

__all__ = ["match_genes", "spatial_neighbors"]
