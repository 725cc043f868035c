"""Measures, each beside its control."""

from __future__ import annotations

from sagefm.metrics._annotation import annotation
from sagefm.metrics._clustering import clustering
from sagefm.metrics._controls import controls
from sagefm.metrics._recovery import Recovery, recovery

__all__ = ["Recovery", "annotation", "clustering", "controls", "recovery"]
