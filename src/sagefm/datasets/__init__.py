"""Sections: two real ones that ship with the package, simulated and planted ones, HEST-1k, and corpora."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagefm._lazy import lazy

if TYPE_CHECKING:
    from sagefm.data._corpus import Corpus
    from sagefm.datasets._bundled import dlpfc, synovium
    from sagefm.datasets._hest import hest
    from sagefm.datasets._plant import plant
    from sagefm.datasets._simulate import simulate

__all__ = ["Corpus", "dlpfc", "hest", "plant", "simulate", "synovium"]

__getattr__, __dir__ = lazy(
    __name__,
    Corpus="sagefm.data._corpus",
    dlpfc="sagefm.datasets._bundled",
    hest="sagefm.datasets._hest",
    plant="sagefm.datasets._plant",
    simulate="sagefm.datasets._simulate",
    synovium="sagefm.datasets._bundled",
)
