"""From sections to a trained network: the order of spots, batches, the Lightning module, the fit and its resumption."""

from __future__ import annotations
