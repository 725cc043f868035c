"""Pictures of a section and of what was computed on it.

Every function draws into ``ax`` or makes a figure, returns the Axes, and changes nothing in its input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagefm._lazy import lazy

if TYPE_CHECKING:
    from sagefm.pl._calibration import calibration
    from sagefm.pl._coupling import coupling
    from sagefm.pl._domains import domains
    from sagefm.pl._embedding import embedding
    from sagefm.pl._history import history
    from sagefm.pl._imputation import imputation
    from sagefm.pl._neighborhood import neighborhood
    from sagefm.pl._network import network
    from sagefm.pl._perturbation import perturbation, perturbation_heatmap
    from sagefm.pl._weights import imputation_weights

__all__ = [
    "calibration",
    "coupling",
    "domains",
    "embedding",
    "history",
    "imputation",
    "imputation_weights",
    "neighborhood",
    "network",
    "perturbation",
    "perturbation_heatmap",
]

# matplotlib is imported with the first picture.
_MODULES = {"imputation_weights": "_weights", "perturbation_heatmap": "_perturbation"}
__getattr__, __dir__ = lazy(__name__, **{name: f"sagefm.pl.{_MODULES.get(name, f'_{name}')}" for name in __all__})
