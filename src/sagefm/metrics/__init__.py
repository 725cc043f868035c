"""Measures, each beside its control."""

from __future__ import annotations

from sagefm.metrics._annotation import annotation
from sagefm.metrics._clustering import clustering
from sagefm.metrics._controls import controls
from sagefm.metrics._couplings import couplings
from sagefm.metrics._predictors import fit_components
from sagefm.metrics._recovery import Recovery, noise_ceiling, pooled_d2, recovery

__all__ = [
    "Recovery",
    "annotation",
    "clustering",
    "controls",
    "couplings",
    "fit_components",
    "noise_ceiling",
    "pooled_d2",
    "recovery",
]
