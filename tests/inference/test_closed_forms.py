"""Imputation and perturbation against literal forward passes, spot by spot, on a real section."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import sagefm
from sagefm.data._genes import Vocabulary, assign_folds
from sagefm.data._reader import read_table
from sagefm.inference._impute_table import impute_table
from sagefm.inference._pairs import check_pairs
from sagefm.inference._perturb import draw_null_genes
from sagefm.inference._perturb_table import perturb_table
from sagefm.model import Checkpoint
from sagefm.module._center import CenterNeighborhoodNetwork
from sagefm.module._config import NetworkConfig
from sagefm.module._gcn import PublishedNetwork
from tests.inference import reference

CPU = torch.device("cpu")
SPOTS = (0, 17, 151, 301)
N_FOLDS = 4


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """A real section with its 600 most abundant genes; 560 of them are in the vocabulary."""
    section = sagefm.datasets.synovium()
    top = np.sort(np.argsort(-np.asarray(section.X.sum(axis=0)).ravel(), kind="stable")[:600])
    return section[:, top].copy()


@pytest.fixture(scope="module")
def vocabulary(adata: AnnData) -> Vocabulary:
    """Part of the section's genes in another order, and 20 genes that it does not hold."""
    names = np.random.default_rng(0).permutation(adata.var_names)[:560].tolist()
    return Vocabulary(tuple(names + [f"ABSENT{i}" for i in range(20)]))


@pytest.fixture(scope="module", params=["default", "published"])
def model(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> tuple[Checkpoint, torch.nn.Module]:
    """A checkpoint with random parameters, and the network that defines it."""
    torch.manual_seed(1)
    if request.param == "published":
        definition: torch.nn.Module = PublishedNetwork(NetworkConfig("published", 580, (48, 32, 32, 32, 40), "mse"))
        network = definition.pooled()
    else:
        definition = network = CenterNeighborhoodNetwork(
            NetworkConfig("center_neighborhood", 580, (48, 32, 16), "poisson")
        )
        # Weights at which one gene of the neighborhood moves another visibly.
        torch.nn.init.normal_(network.fc_gene.weight, std=0.3)
        torch.nn.init.normal_(network.conv.lin_l.weight, std=0.3)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return Checkpoint(network=network.eval(), vocabulary=vocabulary, name=request.param), definition


@pytest.mark.parametrize("mask", ["center", "neighborhood"])
def test_imputation_equals_forward_passes(adata: AnnData, model: tuple[Checkpoint, torch.nn.Module], mask: str) -> None:
    checkpoint, definition = model
    reader = read_table(adata, checkpoint.vocabulary)
    (section,) = reader.sections()
    result = impute_table(
        reader, checkpoint, adapt=False, mask=mask, n_folds=N_FOLDS, rng=3, device=CPU, batch_size=100
    )
    columns = reader.match.columns
    assert np.isnan(result.layer[:, np.setdiff1d(np.arange(adata.n_vars), columns)]).all()
    folds = assign_folds(section.genes, len(checkpoint.vocabulary), N_FOLDS, 3)
    assert np.bincount(folds).min() > 0.8 * len(folds) / N_FOLDS
    for spot in SPOTS:
        for fold in range(N_FOLDS):
            hidden = np.flatnonzero(folds == fold)
            found = result.layer[spot, columns[hidden]]
            if checkpoint.name == "published":
                whole = reference.published(definition, section, spot, hidden=hidden, everywhere=mask == "neighborhood")
                expected = whole[section.genes[hidden]]
            else:
                ratio, rates = reference.default(
                    definition, section, spot, hidden=hidden, everywhere=mask == "neighborhood"
                )
                expected = (rates * np.exp(ratio))[hidden]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_requested_genes_equal_those_of_the_whole(adata: AnnData, model: tuple[Checkpoint, torch.nn.Module]) -> None:
    checkpoint, _ = model
    reader = read_table(adata, checkpoint.vocabulary)
    whole = impute_table(reader, checkpoint, device=CPU)
    genes = [checkpoint.vocabulary.symbols[i] for i in (5, 100, 3)]
    some = impute_table(reader, checkpoint, genes=[*genes, "ABSENT7"], device=CPU)
    columns = adata.var_names.get_indexer(genes)
    np.testing.assert_allclose(some.layer[:, columns].toarray(), whole.layer[:, columns], rtol=1e-5, atol=1e-6)
    assert some.layer.nnz == 3 * adata.n_obs
    assert some.recovery["imputed"].sum() == 3
    pd.testing.assert_frame_equal(
        some.recovery.loc[genes, ["r", "d2"]], whole.recovery.loc[genes, ["r", "d2"]], rtol=1e-4
    )
    assert list(some.outside.columns) == ["ABSENT7"]
    assert np.isfinite(some.outside.to_numpy()).all()


def test_perturbation_equals_forward_passes(adata: AnnData, model: tuple[Checkpoint, torch.nn.Module]) -> None:
    checkpoint, definition = model
    vocabulary = checkpoint.vocabulary
    reader = read_table(adata, vocabulary)
    (section,) = reader.sections()
    source, targets = vocabulary.symbols[7], [vocabulary.symbols[i] for i in (20, 400, 90)]
    pairs = check_pairs(reader, checkpoint, None, [source], targets, 4, 10, 5)
    result = perturb_table(reader, checkpoint, pairs, levels=4, n_null=10, rng=5, per_spot=True, device=CPU)

    # Targets and null genes are hidden at the center, together.
    at = {gene: int(np.flatnonzero(section.genes == vocabulary.position[gene])[0]) for gene in [source, *targets]}
    totals = np.zeros(len(vocabulary))
    totals[section.genes] = section.gene_totals
    positions = np.array([vocabulary.position[gene] for gene in targets])
    null = np.unique(np.concatenate(draw_null_genes(totals, vocabulary.position[source], positions, 10, 5)))
    hidden = np.append([at[gene] for gene in targets], np.flatnonzero(np.isin(section.genes, null)))
    levels = result.curves["level"].to_numpy()[:4]
    effects, curves = np.empty((adata.n_obs, 3)), np.zeros((4, 3))
    for spot in range(adata.n_obs):
        values = []
        for level in levels:
            if checkpoint.name == "published":
                whole = reference.published(definition, section, spot, hidden=hidden, source=(at[source], level))
                values.append(whole[positions])
            else:
                ratio, _ = reference.default(
                    definition, section, spot, hidden=hidden, source=(at[source], level), size_from_visible=False
                )
                values.append(ratio[[at[gene] for gene in targets]])
        change = np.array(values) - values[0]
        effects[spot], curves = change[-1], curves + change / adata.n_obs
    scale = np.abs(effects).max()
    assert scale > 1e-2
    found = result.per_spot[[f"{source}^{target}" for target in targets]].to_numpy()
    np.testing.assert_allclose(found, effects, atol=1e-5 * max(scale, 1))
    np.testing.assert_allclose(result.curves["mean"].to_numpy().reshape(3, 4).T, curves, atol=1e-5 * max(scale, 1))
    np.testing.assert_allclose(result.scores["effect"], effects.mean(axis=0), atol=1e-5 * max(scale, 1))
