"""Masks and losses against their textbook forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from sagefm._constants import PROFILE_PRIOR
from sagefm.module._losses import (
    masked_mse,
    masked_negative_binomial,
    masked_poisson,
    poisson_deviance,
)
from sagefm.module._reading import draw_mask, null_rates, size_factors

SHAPE = (6, 40)


@pytest.fixture
def case() -> dict[str, torch.Tensor]:
    """Counts, null rates, log ratios and a mask."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 2.0, SHAPE)).astype(np.float64)
    return {
        "counts": torch.from_numpy(counts),
        "rates": torch.from_numpy(rng.gamma(2.0, 1.0, SHAPE)),
        "log_ratio": torch.from_numpy(rng.normal(0, 0.3, SHAPE)),
        "mask": torch.from_numpy(rng.random(SHAPE) < 0.4),
    }


def hidden(case: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Counts and model rates of the hidden entries."""
    rates = (case["rates"] * case["log_ratio"].exp()).numpy()
    return case["counts"].numpy()[case["mask"].numpy()], rates[case["mask"].numpy()]


def test_mask_share_and_seed() -> None:
    shape = torch.Size((200, 500))
    mask = draw_mask(shape, (0.3, 0.3), torch.Generator().manual_seed(0))
    assert abs(mask.float().mean().item() - 0.3) < 0.01
    again = draw_mask(shape, (0.3, 0.3), torch.Generator().manual_seed(0))
    assert torch.equal(mask, again)
    assert not torch.equal(mask, draw_mask(shape, (0.3, 0.3), torch.Generator().manual_seed(1)))
    shares = draw_mask(shape, (0.1, 0.9), torch.Generator().manual_seed(0)).float().mean(dim=1)
    assert shares.min() < 0.15
    assert shares.max() > 0.85


def test_mse_reads_hidden_entries_only(case: dict[str, torch.Tensor]) -> None:
    prediction, target = case["rates"], case["counts"]
    expected = ((prediction - target) ** 2)[case["mask"]].mean()
    torch.testing.assert_close(masked_mse(prediction, target, case["mask"]), expected)
    changed = torch.where(case["mask"], target, target + 100)
    torch.testing.assert_close(masked_mse(prediction, changed, case["mask"]), expected)


def test_poisson_equals_scipy_up_to_a_constant(case: dict[str, torch.Tensor]) -> None:
    counts, rates = hidden(case)
    loss = masked_poisson(case["log_ratio"], case["rates"], case["counts"], case["mask"]).item()
    null = case["rates"].numpy()[case["mask"].numpy()]
    constant = (stats.poisson.logpmf(counts, rates) + rates - counts * np.log(rates / null)).mean()
    assert loss - constant == pytest.approx(-stats.poisson.logpmf(counts, rates).mean())


def test_negative_binomial_equals_scipy_up_to_log_factorial(case: dict[str, torch.Tensor]) -> None:
    log_dispersion = torch.linspace(-1, 2, SHAPE[1], dtype=torch.float64)
    loss = masked_negative_binomial(
        case["log_ratio"], case["rates"], case["counts"], case["mask"], log_dispersion
    ).item()
    counts, rates = hidden(case)
    theta = np.broadcast_to(log_dispersion.exp().numpy(), SHAPE)[case["mask"].numpy()]
    logpmf = stats.nbinom.logpmf(counts, theta, theta / (theta + rates))
    log_factorial = torch.lgamma(torch.from_numpy(counts) + 1).numpy()
    assert loss == pytest.approx(-(logpmf + log_factorial).mean())


def test_negative_binomial_gradient_is_that_of_torch(case: dict[str, torch.Tensor]) -> None:
    log_ratio = case["log_ratio"].clone().requires_grad_()
    log_dispersion = torch.zeros(SHAPE[1], dtype=torch.float64, requires_grad=True)
    loss = masked_negative_binomial(log_ratio, case["rates"], case["counts"], case["mask"], log_dispersion)
    found = torch.autograd.grad(loss, (log_ratio, log_dispersion))
    rate = case["rates"] * log_ratio.exp()
    theta = log_dispersion.exp()
    distribution = torch.distributions.NegativeBinomial(theta.expand_as(rate), logits=(rate / theta).log())
    expected = torch.autograd.grad(
        -distribution.log_prob(case["counts"])[case["mask"]].mean(), (log_ratio, log_dispersion)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_truth_has_no_deviance(case: dict[str, torch.Tensor]) -> None:
    null = poisson_deviance(case["counts"], case["rates"])
    truth = poisson_deviance(case["counts"], case["counts"] + 1e-9)
    assert truth.abs().sum().item() < 1e-4 < null.sum().item()


def test_null_rates_do_not_read_hidden_counts(case: dict[str, torch.Tensor]) -> None:
    counts, mask = case["counts"], case["mask"]
    others = torch.full((SHAPE[1],), 50.0, dtype=torch.float64)
    rates = null_rates(counts, others + counts[0], mask)[0]
    more = torch.where(mask, counts + 30, counts)
    torch.testing.assert_close(null_rates(more, others + more[0], mask)[0], rates)
    # The size factor brings the visible rates to the visible counts.
    assert rates[~mask[0]].sum().item() == pytest.approx(counts[0][~mask[0]].sum().item())
    assert PROFILE_PRIOR > 0


def test_a_spot_that_hides_all_genes_keeps_the_depth_of_all_counts(case: dict[str, torch.Tensor]) -> None:
    """It had a rate of twice the section's whole counts (`train(mask_fraction=1.0)`)."""
    counts = case["counts"]
    totals = counts.sum(dim=0, keepdim=True) + 100
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[1, :20] = False
    rates = null_rates(counts, totals, mask)
    torch.testing.assert_close(rates[0].sum(), counts[0].sum().clamp(min=1))
    torch.testing.assert_close(rates[1, :20].sum(), counts[1, :20].sum().clamp(min=1))


def test_a_spot_without_counts_has_a_depth_of_one_everywhere() -> None:
    counts, totals = torch.zeros(1, 4), torch.full((1, 4), 5.0)
    mask = torch.tensor([[True, False, False, False]])
    assert null_rates(counts, totals, mask)[0, 1:].sum().item() == pytest.approx(1)
    assert (size_factors(counts, totals, mask) * totals)[0, 1:].sum().item() == pytest.approx(1)
