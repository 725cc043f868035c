"""Measures, each beside its control."""

from __future__ import annotations

from sagefm.metrics._annotation import annotation
from sagefm.metrics._ceiling import noise_ceiling
from sagefm.metrics._clustering import clustering
from sagefm.metrics._controls import controls
from sagefm.metrics._couplings import couplings
from sagefm.metrics._intervals import interval_coverage, pit
from sagefm.metrics._predictors import fit_components
from sagefm.metrics._recovery import Recovery, pooled_d2, recovery
from sagefm.metrics._trust import trust

__all__ = [
    "Recovery",
    "annotation",
    "clustering",
    "controls",
    "couplings",
    "fit_components",
    "interval_coverage",
    "noise_ceiling",
    "pit",
    "pooled_d2",
    "recovery",
    "trust",
]
