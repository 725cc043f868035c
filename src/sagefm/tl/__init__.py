"""Tools: embed, impute, perturb, annotate, pool."""

from __future__ import annotations

from sagefm.tl._annotate import annotate
from sagefm.tl._embed import embed
from sagefm.tl._impute import impute
from sagefm.tl._perturb import perturb
from sagefm.tl._pool import pool

__all__ = ["annotate", "embed", "impute", "perturb", "pool"]
