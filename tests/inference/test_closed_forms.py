"""Imputation and perturbation against literal forward passes, spot by spot, on a real section."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import sagefm
from sagefm.data._genes import Vocabulary, assign_folds
from sagefm.data._reader import read_table
from sagefm.data._section import Section
from sagefm.inference._embed import embed_table
from sagefm.inference._impute_table import impute_table
from sagefm.inference._intervention import Intervention
from sagefm.inference._pairs import check_pairs
from sagefm.inference._perturb_table import perturb_table
from sagefm.model import Checkpoint
from sagefm.module._center import CenterNeighborhoodNetwork
from sagefm.module._config import NetworkConfig
from sagefm.module._gcn import PublishedNetwork
from tests.inference import reference

CPU = torch.device("cpu")
SPOTS = (0, 17, 151, 301)
N_FOLDS = 4
#: Positions of the subunits of a source, and of a target.
SUBUNITS, COMPLEX = (7, 300), range(100, 110)


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


@pytest.fixture(scope="module")
def sensitive(model: tuple[Checkpoint, torch.nn.Module]) -> tuple[Checkpoint, torch.nn.Module]:
    """The same, but that two genes move predictions far enough for the least abundant subunit to change."""
    checkpoint, definition = model
    # At once: the published network shares its parameters with its definition.
    network, definition = copy.deepcopy((checkpoint.network, definition))
    with torch.no_grad():
        for weight in {id(weight): weight for weight in network.first_layer()[:2]}.values():
            weight[:, list(SUBUNITS)] *= 20
        network.fc_gene.weight *= 4
        network.fc_gene.bias += 3
    return replace(checkpoint, network=network), definition


def test_embedding_is_what_the_network_decodes(adata: AnnData, model: tuple[Checkpoint, torch.nn.Module]) -> None:
    checkpoint, definition = model
    reader = read_table(adata, checkpoint.vocabulary)
    (section,) = reader.sections()
    embedding = torch.from_numpy(embed_table(reader, checkpoint, device=CPU, batch_size=100))
    with torch.no_grad():
        decoded = checkpoint.network.decode(embedding, torch.from_numpy(section.genes)).numpy()
    for spot in SPOTS:
        if checkpoint.name == "published":
            expected = reference.published(definition, section, spot, hidden=np.array([], int))[section.genes]
        else:
            expected, _ = reference.default(definition, section, spot, hidden=np.array([], int))
        np.testing.assert_allclose(decoded[spot], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


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


def changed_counts(
    section: Section, columns: np.ndarray, checkpoint: Checkpoint, scale: str, numbers: np.ndarray
) -> list[np.ndarray]:
    """What the counts of some genes become at every spot (n_spots, n_columns), level by level."""
    counts = section.counts.toarray().astype(np.float64)
    per_count = np.ones((section.n_spots, 1))
    if checkpoint.name != "published":
        per_count = checkpoint.config.scale / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    x = counts[:, columns]
    if scale == "fold":
        return [factor * x for factor in numbers]
    u = np.log1p(per_count * x)
    shares = [low + number * (high - low) for number in numbers for low, high in [(u.min(axis=0), u.max(axis=0))]]
    levels = shares if scale == "range" else np.quantile(u, numbers, axis=0)
    return [np.expm1(level) / per_count for level in levels]


def respond(
    model: tuple[Checkpoint, torch.nn.Module],
    section: Section,
    spot: int,
    targets: list[list[str]],
    changed: tuple[np.ndarray, np.ndarray],
    where: str,
) -> list[float]:
    """Predictions of targets at a spot, each that of its least abundant subunit, all hidden there (n_targets,)."""
    checkpoint, definition = model
    position = checkpoint.vocabulary.position
    genes = [gene for target in targets for gene in target]
    hidden = np.flatnonzero(np.isin(section.genes, [position[gene] for gene in genes]))
    if checkpoint.name == "published":
        whole = reference.published(definition, section, spot, hidden=hidden, changed=changed, where=where)
        predicted = dict(zip(checkpoint.vocabulary.symbols, whole, strict=True))
        return [min(predicted[gene] for gene in target) for target in targets]
    everything = np.arange(len(checkpoint.vocabulary))
    ratio, measured = reference.default(
        definition, section, spot, hidden=hidden, changed=changed, where=where, size_from_visible=False, read=everything
    )
    # A gene that the section did not measure has the profile of the training sections.
    prior = definition.prior.numpy()
    rates = measured.sum() * prior / prior[section.genes].sum()
    rates[section.genes] = measured
    log_rate = dict(zip(checkpoint.vocabulary.symbols, np.log(rates), strict=True))
    log_ratio = dict(zip(checkpoint.vocabulary.symbols, ratio, strict=True))
    # Relative to the first subunit: what a target alone responds with is a log rate ratio.
    return [min(log_ratio[gene] + log_rate[gene] - log_rate[target[0]] for gene in target) for target in targets]


def columns_of(section: Section, vocabulary: Vocabulary, genes: list[str]) -> np.ndarray:
    return np.searchsorted(section.genes, [vocabulary.position[gene] for gene in genes])


def test_perturbation_equals_forward_passes(adata: AnnData, model: tuple[Checkpoint, torch.nn.Module]) -> None:
    """As in the paper, at all spots."""
    checkpoint, _ = model
    vocabulary = checkpoint.vocabulary
    reader = read_table(adata, vocabulary)
    (section,) = reader.sections()
    source, targets = vocabulary.symbols[7], [vocabulary.symbols[i] for i in (20, 400, 90)]
    pairs = check_pairs(reader, checkpoint, None, [source], targets)
    result = perturb_table(reader, checkpoint, pairs, intervention=Intervention.of(levels=4), per_spot=True, device=CPU)

    columns = columns_of(section, vocabulary, [source])
    levels = changed_counts(section, columns, checkpoint, "range", np.linspace(0, 1, 4))
    effects, curves = np.empty((adata.n_obs, 3)), np.zeros((4, 3))
    for spot in range(adata.n_obs):
        values = [
            respond(model, section, spot, [[target] for target in targets], (columns, counts), "neighborhood")
            for counts in levels
        ]
        change = np.array(values) - values[0]
        effects[spot], curves = change[-1], curves + change / adata.n_obs
    scale = np.abs(effects).max()
    assert scale > 1e-2
    found = result.per_spot[[f"{source}^{target}" for target in targets]].to_numpy()
    np.testing.assert_allclose(found, effects, atol=1e-5 * max(scale, 1))
    np.testing.assert_allclose(result.curves["mean"].to_numpy().reshape(3, 4).T, curves, atol=1e-5 * max(scale, 1))
    np.testing.assert_allclose(result.scores["effect"], effects.mean(axis=0), atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize(
    ("where", "levels", "scale", "numbers"),
    [
        ("neighborhood", 3, "range", (0, 0.5, 1)),
        ("center", 3, "range", (0, 0.5, 1)),
        ("both", 3, "quantile", (0.05, 0.5, 0.95)),
        ("neighborhood", (0.9, 0.2), "quantile", (0.9, 0.2)),
        ("neighborhood", (1, 2.5), "fold", (1, 2.5)),
        ("center", "knockout", "fold", (1, 0)),
        ("both", (1, 0.5, 3), "fold", (1, 0.5, 3)),
    ],
)
def test_interventions_on_complexes_equal_forward_passes(
    adata: AnnData,
    sensitive: tuple[Checkpoint, torch.nn.Module],
    where: str,
    levels: object,
    scale: str,
    numbers: tuple[float, ...],
) -> None:
    """Each subunit of the source has its own levels; targets are a gene, and complexes that the least abundant limits."""
    checkpoint, _ = sensitive
    vocabulary = checkpoint.vocabulary
    reader = read_table(adata, vocabulary)
    (section,) = reader.sections()
    symbols = vocabulary.symbols
    source = [symbols[i] for i in SUBUNITS]
    targets = [[symbols[20]], [symbols[i] for i in COMPLEX], [symbols[50], "ABSENT3"]]
    pairs = check_pairs(reader, checkpoint, None, "_".join(source), ["_".join(target) for target in targets])
    intervention = Intervention.of(where, levels, scale)
    result = perturb_table(reader, checkpoint, pairs, intervention=intervention, per_spot=True, device=CPU)

    columns = columns_of(section, vocabulary, source)
    changed = changed_counts(section, columns, checkpoint, scale, np.array(numbers))
    spots = [*SPOTS, *range(30, 60)]
    values = np.array(
        [[respond(sensitive, section, spot, targets, (columns, counts), where) for counts in changed] for spot in spots]
    )
    expected = values[:, -1] - values[:, 0]
    largest = np.abs(expected).max(axis=0)
    assert (largest > 5e-3).all()
    np.testing.assert_allclose(result.per_spot.to_numpy()[spots], expected, atol=1e-5 * max(largest.max(), 1))
    np.testing.assert_allclose(result.scores["effect"], result.per_spot.mean(), atol=1e-5)


def test_no_subunit_is_the_least_abundant_everywhere(
    adata: AnnData, sensitive: tuple[Checkpoint, torch.nn.Module]
) -> None:
    """The complex of the tests above follows none of its subunits at all spots."""
    checkpoint, _ = sensitive
    reader = read_table(adata, checkpoint.vocabulary)
    symbols = checkpoint.vocabulary.symbols
    subunits = [symbols[i] for i in COMPLEX]
    pairs = check_pairs(reader, checkpoint, None, symbols[SUBUNITS[0]], ["_".join(subunits), *subunits])
    result = perturb_table(reader, checkpoint, pairs, intervention=Intervention.of(), per_spot=True, device=CPU)
    of_complex, *of_subunits = result.per_spot.to_numpy().T
    for effects in of_subunits:
        assert np.isclose(of_complex, effects, atol=1e-5).mean() < 0.9
