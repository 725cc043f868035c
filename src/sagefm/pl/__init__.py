"""Pictures of a section and of what was computed on it.

Every function draws into ``ax`` or makes a figure, returns the Axes, and changes nothing in its input.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sagefm.pl._embedding import embedding
    from sagefm.pl._history import history
    from sagefm.pl._imputation import imputation
    from sagefm.pl._neighborhood import neighborhood
    from sagefm.pl._perturbation import perturbation, perturbation_heatmap

__all__ = ["embedding", "history", "imputation", "neighborhood", "perturbation", "perturbation_heatmap"]

# perturbation_heatmap stands in _perturbation.
_MODULES = {name: f"sagefm.pl._{name.partition('_')[0]}" for name in __all__}


def __getattr__(name: str) -> object:
    # matplotlib is imported with the first picture.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'sagefm.pl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
