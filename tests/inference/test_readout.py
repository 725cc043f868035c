"""The read-out of a section against its definition, spot by spot and gene by gene."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sagefm
from sagefm.data._reader import read_table
from sagefm.inference._impute_table import impute_table
from sagefm.inference._readout import N_COMPONENTS, N_PARTS, PRECISION, SectionDecoder, SectionFactors, draw_parts
from sagefm.metrics._predictors import FactorModel, SectionCounts
from sagefm.module._factors import fit_factors
from sagefm.module._reading import null_rates

CPU = torch.device("cpu")
N_SPOTS, N_LATENT, N_GENES = 60, 3, 7


@pytest.fixture
def case() -> dict[str, torch.Tensor]:
    """Embedding, counts, sizes and rate ratios of some spots."""
    rng = np.random.default_rng(0)
    z = rng.normal(1.0, 2.0, (N_SPOTS, N_LATENT))
    ratio = np.exp(rng.normal(0, 0.2, (N_SPOTS, N_GENES)))
    counts = rng.poisson(3 * np.exp(0.3 * z @ rng.normal(0, 0.3, (N_LATENT, N_GENES))))
    sizes = rng.gamma(9.0, 1 / 9, (N_SPOTS, 1)) / N_SPOTS
    names = {"z0": z, "counts": counts, "sizes": sizes, "ratio": ratio}
    return {name: torch.from_numpy(values).float() for name, values in names.items()}


def test_equals_the_definition(case: dict[str, torch.Tensor]) -> None:
    names = pd.Index([f"spot{i}" for i in range(N_SPOTS)])
    part = draw_parts(names, 0)
    assert np.bincount(part.numpy()).min() > 0
    decoder = SectionDecoder(part, (N_LATENT,), N_GENES, CPU)
    for start in (0, 25):
        rows = slice(start, 25 if start == 0 else N_SPOTS)
        decoder.add(rows, *(case[name][rows] for name in ("z0", "counts", "sizes", "ratio")))
    found = decoder.log_ratio(slice(0, N_SPOTS), case["z0"]).numpy()
    z, x, s, ratio = (case[name].double().numpy() for name in ("z0", "counts", "sizes", "ratio"))
    for spot in range(0, N_SPOTS, 7):
        others = (part != part[spot]).numpy()
        mean = z[others].mean(axis=0)
        scale = np.sqrt(((z[others] - mean) ** 2).sum(axis=1).mean())
        u = (z - mean) / scale
        gram = (u[others] * s[others]).T @ u[others]
        for gene in range(N_GENES):
            total = x[others, gene].sum()
            weight = 1 / np.maximum(ratio[others, gene], 0.25)
            residual = weight * (x[others, gene] - total * s[others, 0] * ratio[others, gene])
            weights = np.linalg.solve(total * gram + PRECISION * np.eye(N_LATENT), u[others].T @ residual)
            step = u[spot] @ weights
            expected = np.log1p(step) if step > 0 else max(step, -3)
            assert found[spot, gene] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_part_does_not_read_its_own_counts(case: dict[str, torch.Tensor]) -> None:
    part = torch.arange(N_SPOTS) % N_PARTS
    found = []
    for extra in (0.0, 50.0):
        decoder = SectionDecoder(part, (N_LATENT,), N_GENES, CPU)
        counts = case["counts"] + extra * (part == 2)[:, None]
        decoder.add(slice(0, N_SPOTS), case["z0"], counts, case["sizes"], case["ratio"])
        found.append(decoder.log_ratio(slice(0, N_SPOTS), case["z0"]))
    assert torch.equal(found[0][part == 2], found[1][part == 2])
    assert not torch.allclose(found[0][part == 1], found[1][part == 1])


@pytest.fixture
def tissue() -> np.ndarray:
    return sagefm.datasets.simulate(90, n_genes=80, rng=3).X.toarray().astype(np.float32)


def test_factors_equal_the_control(tissue: np.ndarray) -> None:
    """Spots of a part are predicted as the control predicts them from a fit on the others."""
    part = torch.arange(len(tissue)) % N_PARTS
    sample = np.random.default_rng(0).permutation(len(tissue))[:70]
    made = SectionFactors(part, sample, torch.from_numpy(tissue[sample]), rng=0)
    section = SectionCounts(sparse.csr_matrix(tissue), sparse.csr_matrix((len(tissue), len(tissue))))
    folds, every = np.arange(tissue.shape[1]) % 3, slice(0, len(tissue))
    totals = torch.from_numpy(tissue.sum(axis=0))[None]
    for view, _ in section.views(np.arange(len(tissue)), folds, 1, len(tissue)):
        hidden = torch.from_numpy(view.counts.sum(axis=0) == 0)[None]
        hidden[:, view.shown] = False
        counts = torch.from_numpy(tissue)
        depth = null_rates(counts, totals, hidden).sum(dim=1, keepdim=True)
        found = made.log_ratio(every, counts, depth, hidden, torch.from_numpy(view.wanted))
        for i in range(N_PARTS):
            model = FactorModel(fit_factors(tissue[sample][part[sample] != i], N_COMPONENTS, 0))
            at = np.flatnonzero(part == i)
            np.testing.assert_allclose(found[at].exp().numpy(), model(view)[at], rtol=1e-4)


def test_factors_of_a_part_do_not_read_its_hidden_counts(tissue: np.ndarray) -> None:
    part, every = torch.arange(len(tissue)) % N_PARTS, np.arange(len(tissue))
    hidden = torch.arange(tissue.shape[1])[None] % 3 == 0
    columns = torch.nonzero(hidden[0])[:, 0]
    found = []
    for extra in (0.0, 50.0):
        counts = torch.from_numpy(tissue) + extra * (part == 2)[:, None] * hidden
        made = SectionFactors(part, every, counts, rng=0)
        depth = null_rates(counts, counts.sum(dim=0)[None], hidden).sum(dim=1, keepdim=True)
        found.append(made.log_ratio(slice(0, len(tissue)), counts, depth, hidden, columns))
    # The profile that ratios are to holds the other spots of the part, and its sum the depth.
    shift = (found[1] - found[0])[part == 2]
    assert shift.abs().max() < 0.1
    assert (found[1] - found[0])[part == 1].abs().max() > 0.1


def test_factors_of_a_section_in_one_part(tissue: np.ndarray) -> None:
    """Nothing was fitted on other spots: the section's profile."""
    counts, hidden = torch.from_numpy(tissue[:3]), torch.arange(tissue.shape[1])[None] < 20
    made = SectionFactors(torch.full((3,), 4), np.arange(3), counts, rng=0)
    depth = null_rates(counts, counts.sum(dim=0)[None], hidden).sum(dim=1, keepdim=True)
    found = made.log_ratio(slice(0, 3), counts, depth, hidden, torch.arange(20))
    assert torch.equal(found, torch.zeros(3, 20))


def test_it_recovers_what_the_network_does_not_know(default) -> None:
    """In tissue that the network never saw, the section's own spots say more."""
    adata = sagefm.datasets.simulate(600, n_genes=300, strength=1.0, rng=7)
    reader = read_table(adata, default.vocabulary)
    without, with_it = (
        impute_table(reader, default, adapt=adapt, device=CPU).recovery["d2"].median() for adapt in (False, True)
    )
    assert with_it > without + 0.01


def test_nothing_shown_at_the_center(default, section) -> None:
    """With all genes hidden, depth and neighborhood alone speak; which genes the center counts does not matter."""
    reader = read_table(section, default.vocabulary)
    whole = impute_table(reader, default, n_folds=3, n_hidden=3, device=CPU).layer
    spot, counts = 5, section.X.toarray()
    counts[spot] = np.roll(counts[spot], 17)
    section.X = sparse.csr_matrix(counts)
    moved = impute_table(read_table(section, default.vocabulary), default, n_folds=3, n_hidden=3, device=CPU).layer
    np.testing.assert_allclose(moved[spot], whole[spot], rtol=1e-4)
    without = impute_table(reader, default, n_folds=3, n_hidden=3, adapt=False, device=CPU).layer
    np.testing.assert_allclose(whole, without, rtol=1e-3)
