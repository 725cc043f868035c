"""Names, order and memory of what imputation and perturbation return."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

import sagefm
from sagefm.errors import ArgumentError
from sagefm.inference import _perturb


@pytest.fixture
def model(section, checkpoint):
    sagefm.model.SAGEFM.setup_anndata(section)
    return sagefm.model.SAGEFM.from_pretrained(checkpoint, section)


def test_one_gene_by_name_is_one_gene(model, section):
    """ "CD3E" was taken for the genes C, D, 3 and E."""
    gene = section.var_names[7]
    assert list(model.impute(genes=gene).columns) == [gene]


def test_columns_come_in_the_order_asked(model, section):
    genes = list(section.var_names[[40, 3, 99, 12]])
    found = model.impute(genes=genes)
    assert list(found.columns) == genes
    alone = model.impute(genes=genes[2:3])
    np.testing.assert_allclose(found[genes[2]], alone[genes[2]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("key", ["sagefm", "sagefm_neighbors"])
def test_perturbation_does_not_replace_provenance_or_graph(section, checkpoint, key):
    sagefm.tl.embed(section, checkpoint)
    before = dict(section.uns["sagefm"])
    genes = section.var_names
    with pytest.raises(ArgumentError, match="key_added"):
        sagefm.tl.perturb(section, checkpoint, sources=[genes[0]], targets=[genes[1]], key_added=key)
    assert section.uns["sagefm"] == before


def test_perturbing_all_genes_takes_memory_for_some_of_them_at_a_time(section, checkpoint, monkeypatch):
    """It took 14 times spots x levels x targets."""
    genes = list(section.var_names)
    arguments = {"sources": genes[:1], "targets": genes[1:], "levels": 20}
    expected = sagefm.tl.perturb(section, checkpoint, **arguments, copy=True).uns["sagefm_perturb"]["scores"]
    whole = section.n_obs * 20 * len(genes) * 4
    monkeypatch.setattr(_perturb, "_TARGET_BYTES", whole // 20)
    tracemalloc.start()
    sagefm.tl.perturb(section, checkpoint, **arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * whole
    found = section.uns["sagefm_perturb"]["scores"]
    np.testing.assert_allclose(found["effect"], expected["effect"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["rho"], expected["rho"], atol=0.02)


def test_embedding_makes_no_transformed_counts_that_it_does_not_read(section, checkpoint, monkeypatch):
    """Transforms were computed for all sections at once; the products make theirs block by block."""

    def values(self):
        raise AssertionError("transformed counts were made")

    monkeypatch.setattr("sagefm.data._input.SectionInput.values", property(values))
    sagefm.tl.embed(section, checkpoint)
    assert np.isfinite(section.obsm["X_sagefm"]).all()


def test_embedding_leaves_counts_in_the_order_of_the_table(section, checkpoint, monkeypatch):
    """Sorting all counts into the order of the vocabulary took a third of the time of the product."""
    section = section[:, np.random.default_rng(0).permutation(section.n_vars)].copy()
    section.X.sort_indices()
    sagefm.pp.spatial_neighbors(section)
    unsorted = []
    sort_indices = sparse.csr_matrix.sort_indices

    def record(matrix):
        unsorted.append(not matrix.has_sorted_indices)
        sort_indices(matrix)

    monkeypatch.setattr(sparse.csr_matrix, "sort_indices", record)
    sagefm.tl.embed(section, checkpoint)
    assert not any(unsorted)
    # The other verbs do sort.
    sagefm.tl.perturb(section, checkpoint, sources=["DBI"], targets=["MVP"], progress=False)
    assert any(unsorted)
