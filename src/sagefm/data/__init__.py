"""From AnnData, SpatialData or MuData to arrays: counts, genes, neighborhoods, sections.

Knows no network; :mod:`sagefm.module` knows no AnnData; :mod:`sagefm.model` joins them.
"""

from __future__ import annotations
