"""Controls that only the report has: the profile of a corpus, and components that read the neighborhood.

Notation as in ``sagefm/metrics/_predictors.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sagefm.data._graph import averaging
from sagefm.metrics._predictors import Components, SectionCounts, View


@dataclass(frozen=True)
class Profile:
    """Another corpus' profile (n_genes,) times the size factor; genes that it does not hold keep the section's."""

    profile: np.ndarray

    def __call__(self, view: View) -> np.ndarray:
        held = np.nan_to_num(self.profile) > 0
        share = np.where(held, self.profile, 0.0)
        known = held.copy()
        if len(view.shown):
            known[np.setdiff1d(np.arange(len(held)), view.shown)] = False
        of_section = view.profile / view.profile[:, known].sum(axis=1, keepdims=True)
        ratio = share[view.wanted] / share[known].sum() / of_section[:, view.wanted]
        return np.where(held[view.wanted], ratio, 1.0)


@dataclass(frozen=True)
class ComponentsAround(Components):
    """Components whose scores are drawn to what the mean scores of the spot's neighbors predict.

    With ``z ~ N(m, 1)`` and noise of variance `ridge` in d: ``z = (L L' + ridge)^-1 (L d + ridge m)``.
    """

    #: m of every spot of the section (n_spots, n_components).
    prior_mean: np.ndarray

    def scores(self, view: View) -> np.ndarray:
        shown = self.loadings[:, view.shown]
        precision = shown @ shown.T / self.ridge + np.eye(len(shown))
        return super().scores(view) + np.linalg.solve(precision, self.prior_mean[view.spots].T).T


def with_neighbors(components: Components, section: SectionCounts, train: np.ndarray) -> ComponentsAround:
    """Return components with the prior of each spot's scores from the mean scores of its neighbors.

    The regression of scores on the neighbors' is fitted on `train` and their neighbors among `train`.
    """
    loadings, ridge = components.loadings, components.ridge
    unit = np.eye(len(loadings))
    # The mean is of `train` alone: a spot that is predicted must not reach its neighbors' scores through it.
    mean = np.asarray(section.u[train].mean(axis=0)).ravel()
    deviation = section.u @ loadings.T - mean @ loadings.T
    scores = np.linalg.solve(loadings @ loadings.T + ridge * unit, deviation.T).T
    around = averaging(sparse.csr_matrix(section.neighbors[train][:, train]), with_center=False) @ scores[train]
    weights = np.linalg.solve(around.T @ around + unit, around.T @ scores[train])
    return ComponentsAround(
        loadings, ridge, averaging(section.neighbors, with_center=False).astype(float) @ scores @ weights
    )
