"""What is hidden is not seen: counts of a hidden gene, changed as they may be, change nothing that is predicted of it."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
from scipy import sparse

import sagefm
from sagefm.data._genes import assign_folds
from sagefm.model import load_checkpoint

each_mask = pytest.mark.parametrize("mask", ["center", "neighborhood"])


def imputed_at(section, checkpoint, gene, spot, mask):
    sagefm.tl.impute(section, checkpoint, mask=mask, progress=False)
    return section.layers["sagefm_imputed"][spot, gene]


def with_counts(section, spots, genes, change):
    counts = section.X.toarray()
    counts[np.ix_(spots, genes)] = change(counts[np.ix_(spots, genes)])
    changed = section.copy()
    changed.X = sparse.csr_matrix(counts)
    return changed


# No count that would be taken for an error of the file.
CHANGES = {"more": lambda x: 2 * x + 37, "none": lambda x: 0 * x, "hundreds": lambda x: x + 900}


@each_mask
def test_a_gene_is_not_shown_to_itself(mask, section, checkpoint):
    """A count at a spot, changed as it may be, leaves the prediction of that gene at that spot as it was."""
    sagefm.tl.impute(section, checkpoint, mask=mask, progress=False)
    expected = section.layers["sagefm_imputed"]
    dense = section.X.toarray()
    highest = np.unravel_index(dense.argmax(), dense.shape)
    live = np.argwhere((expected > 0.05) & (dense > 0))[::20_000]
    for (spot, gene), change in zip([highest, *live, (0, 0), (399, 299)], cycle(CHANGES), strict=False):
        changed = with_counts(section, [spot], [gene], CHANGES[change])
        found = imputed_at(changed, checkpoint, gene, spot, mask)
        where = f"spot {spot} gene {gene}, {change}"
        np.testing.assert_allclose(found, expected[spot, gene], rtol=1e-5, atol=1e-7, err_msg=where)


@each_mask
def test_a_fold_is_not_shown_to_its_genes(mask, section, checkpoint):
    """All genes of a fold are hidden together: their counts at a spot change nothing that is predicted for them there."""
    sagefm.tl.impute(section, checkpoint, mask=mask, progress=False)
    expected = section.layers["sagefm_imputed"]
    folds = assign_folds(np.arange(300), 300, 4, 0)
    for fold, spot in zip(range(4), (0, 111, 222, 399), strict=True):
        genes = np.flatnonzero(folds == fold)
        changed = with_counts(section, [spot], genes, lambda x: 10 * x + 37)
        found = imputed_at(changed, checkpoint, genes, spot, mask)
        np.testing.assert_allclose(found, expected[spot, genes], rtol=1e-5, atol=1e-6)


def test_neighborhood_hides_the_gene_at_all_its_spots(section, folders):
    checkpoint = load_checkpoint(folders["published"])
    sagefm.tl.impute(section, checkpoint, mask="neighborhood", progress=False)
    expected = section.layers["sagefm_imputed"]
    graph = section.obsp["sagefm_connectivities"]
    for spot, gene in [(0, int(expected[0].argmax())), (210, int(expected[210].argmax())), (399, 7)]:
        spots = np.append(graph[spot].indices, spot)
        changed = with_counts(section, spots, [gene], lambda x: 10 * x + 37)
        found = imputed_at(changed, checkpoint, gene, spot, "neighborhood")
        np.testing.assert_allclose(found, expected[spot, gene], rtol=1e-5, atol=1e-6)


def test_center_shows_the_gene_at_the_neighbors(section, checkpoint):
    """The counterpart: with the center alone hidden, the neighbors' counts of the gene do matter."""
    sagefm.tl.impute(section, checkpoint, mask="center", progress=False)
    expected = section.layers["sagefm_imputed"]
    spot = 210
    gene = int(expected[spot].argmax())
    neighbors = section.obsp["sagefm_connectivities"][spot].indices
    changed = with_counts(section, neighbors, [gene], lambda x: 10 * x + 37)
    assert abs(imputed_at(changed, checkpoint, gene, spot, "center") / expected[spot, gene] - 1) > 1e-4


def test_an_embedding_does_see_the_count(section, checkpoint):
    sagefm.tl.embed(section, checkpoint)
    changed = with_counts(section, [210], [3], lambda x: 10 * x + 37)
    sagefm.tl.embed(changed, checkpoint)
    assert not np.allclose(changed.obsm["X_sagefm"][210], section.obsm["X_sagefm"][210], rtol=1e-4)
