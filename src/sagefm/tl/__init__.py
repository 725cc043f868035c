"""Tools: embed, impute, perturb."""

from __future__ import annotations

from sagefm.tl._embed import embed
from sagefm.tl._impute import impute
from sagefm.tl._perturb import perturb

__all__ = ["embed", "impute", "perturb"]
