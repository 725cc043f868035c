"""Preprocessing: checks, neighborhoods, gene matching, and the aggregation of small bins."""

from __future__ import annotations

from sagefm.pp._bins import aggregate_bins
from sagefm.pp._check import check
from sagefm.pp._genes import match_genes
from sagefm.pp._neighbors import spatial_neighbors

__all__ = ["aggregate_bins", "check", "match_genes", "spatial_neighbors"]
