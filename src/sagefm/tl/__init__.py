"""Tools: domains, embed, impute, perturb, regulatory_network, annotate, pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagefm._lazy import lazy

if TYPE_CHECKING:
    from sagefm.tl._annotate import annotate
    from sagefm.tl._domains import domains
    from sagefm.tl._embed import embed
    from sagefm.tl._impute import impute
    from sagefm.tl._perturb import perturb
    from sagefm.tl._pool import pool
    from sagefm.tl._regulatory_network import regulatory_network

__all__ = ["annotate", "domains", "embed", "impute", "perturb", "pool", "regulatory_network"]
# Embedding needs neither the statistics nor the classifiers of the others.
__getattr__, __dir__ = lazy(__name__, **{name: f"sagefm.tl._{name}" for name in __all__})
