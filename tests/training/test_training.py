"""Training: what is held out, what is kept, and that something is learned."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import sagefm
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.model import SAGEFM


def fitted(adata: AnnData, *, library_key: str | None = None, max_epochs: int = 5, **kwargs: object) -> SAGEFM:
    """A model with small layers, trained."""
    SAGEFM.setup_anndata(adata, library_key=library_key)
    model = SAGEFM(adata, hidden=(32, 16), **kwargs)
    model.train(max_epochs=max_epochs, batch_size=64, progress=False)
    return model


@pytest.fixture(scope="module")
def sections() -> AnnData:
    """Four small simulated sections."""
    return sagefm.datasets.simulate(200, n_genes=120, n_sections=4, rng=0)


def test_history_is_as_in_scvi_tools(sections: AnnData) -> None:
    model = fitted(sections.copy(), library_key="library")
    assert {"train_loss", "validation_loss", "validation_d2", "learning_rate"} <= set(model.history)
    for name, frame in model.history.items():
        assert list(frame.columns) == [name]
        assert frame.index.name == "epoch"
        assert len(frame) == 5
    assert model.is_trained
    assert model.history["train_loss"].iloc[-1, 0] < model.history["train_loss"].iloc[0, 0]


def test_set_up_says_nothing(sections: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("scvi")
    logger.addHandler(caplog.handler)
    try:
        SAGEFM.setup_anndata(sections.copy(), library_key="library")
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_whole_sections_are_held_out(sections: AnnData) -> None:
    adata = sections.copy()
    model = fitted(adata, library_key="library", max_epochs=1)
    trained = set(adata.obs["library"].iloc[model.train_indices])
    held = set(adata.obs["library"].iloc[model.validation_indices])
    assert len(held) == 1
    assert not trained & held
    assert len(trained | held) == 4
    everything = np.sort(np.concatenate([model.train_indices, model.validation_indices]))
    np.testing.assert_array_equal(everything, np.arange(adata.n_obs))


def test_tiles_of_one_section_are_held_out() -> None:
    adata = sagefm.datasets.dlpfc()[:, :50].copy()
    model = fitted(adata, max_epochs=1)
    held = np.isin(np.arange(adata.n_obs), model.validation_indices)
    assert 0.05 < held.mean() < 0.25
    graph = adata.obsp["sagefm_connectivities"]
    # Most neighbors of a held-out spot are held out too; of a random tenth of the spots, a tenth would be.
    assert (graph[held] @ held.astype(float)).mean() / 14 > 0.6


def test_best_epoch_is_kept(sections: AnnData) -> None:
    adata = sections.copy()
    model = fitted(adata, library_key="library", max_epochs=12)
    best = model.to_checkpoint().training["best_epoch"]
    assert best == model.history["validation_loss"].iloc[:, 0].argmin()
    # The same run stopped there has the same parameters.
    SAGEFM.setup_anndata(adata, library_key="library")
    stopped = SAGEFM(adata, hidden=(32, 16))
    stopped.train(max_epochs=best + 1, batch_size=64, progress=False)
    np.testing.assert_array_equal(stopped.get_latent_representation(), model.get_latent_representation())


def test_early_stopping_stops(sections: AnnData) -> None:
    adata = sections.copy()
    SAGEFM.setup_anndata(adata, library_key="library")
    model = SAGEFM(adata, hidden=(32, 16))
    model.train(max_epochs=200, lr=0.03, patience=2, batch_size=64, progress=False)
    assert len(model.history["train_loss"]) < 200
    lr = model.history["learning_rate"].iloc[:, 0]
    assert lr.iloc[0] == 0.03


@pytest.mark.parametrize(
    "kwargs", [{"likelihood": "negative_binomial"}, {"architecture": "published"}, {"dropout": 0.4}]
)
def test_every_variant_learns(sections: AnnData, kwargs: dict[str, object]) -> None:
    model = fitted(sections.copy(), library_key="library", max_epochs=8, **kwargs)
    loss = model.history["validation_loss"].iloc[:, 0]
    assert loss.iloc[-1] < loss.iloc[0]
    assert np.isfinite(model.get_latent_representation()).all()


def test_held_out_section_is_explained_beyond_its_profile(sections: AnnData) -> None:
    model = fitted(sections.copy(), library_key="library", max_epochs=30)
    assert model.history["validation_d2"].iloc[:, 0].max() > 0.05


def test_without_validation_no_warning(sections: AnnData) -> None:
    adata = sections.copy()
    SAGEFM.setup_anndata(adata, library_key="library")
    model = SAGEFM(adata, hidden=(32, 16))
    model.train(max_epochs=2, validation_size=0, progress=False)
    assert len(model.validation_indices) == 0
    assert "validation_loss" not in model.history


def test_bad_hyperparameters_are_named(sections: AnnData) -> None:
    adata = sections.copy()
    with pytest.raises(MissingKeyError, match="setup_anndata"):
        SAGEFM(adata)
    SAGEFM.setup_anndata(adata, library_key="library")
    for kwargs in ({"architecture": "gat"}, {"likelihood": "normal"}, {"hidden": (5,)}, {"dropout": 1.0}, {"scale": 0}):
        with pytest.raises(ArgumentError):
            SAGEFM(adata, **kwargs)
    model = SAGEFM(adata, hidden=(8, 4))
    for kwargs in ({"max_epochs": 0}, {"batch_size": 2.5}, {"mask_fraction": 0.0}, {"validation_size": 1.0}):
        with pytest.raises(ArgumentError):
            model.train(**kwargs)


def test_perturbation_finds_the_sign_of_planted_effects() -> None:
    adata = sagefm.datasets.simulate(1500, n_genes=200, n_sections=2, strength=1.0, rng=1)
    SAGEFM.setup_anndata(adata, library_key="library")
    model = SAGEFM(adata, hidden=(128, 32))
    model.train(max_epochs=30, progress=False)
    truth: pd.DataFrame = adata.uns["truth"]
    planted = truth[truth["kind"] == "planted"].reset_index(drop=True)
    scores = model.perturb(pairs=planted[["source", "target"]])
    agree = np.sign(scores["effect"]) == np.sign(planted["strength"])
    assert agree.mean() >= 0.9


@pytest.mark.parametrize("architecture", ["default", "published"])
def test_bfloat16(sections: AnnData, architecture: str) -> None:
    """Lightning's mixed precision: products in bfloat16, to a percent of the loss in float32."""
    found = []
    for precision in ("32-true", "bf16-mixed"):
        adata = sections.copy()
        SAGEFM.setup_anndata(adata, library_key="library")
        hidden = (32, 16) if architecture == "default" else (32, 16, 16, 16, 16)
        model = SAGEFM(adata, architecture=architecture, hidden=hidden, dropout=0.0)
        model.train(max_epochs=4, batch_size=64, lr=1e-3, precision=precision, accelerator="cpu", progress=False)
        assert all(parameter.dtype == torch.float32 for parameter in model.module.parameters())
        found.append(model.history["validation_loss"].iloc[-1, 0])
    assert found[1] == pytest.approx(found[0], rel=0.01)
    assert found[1] != found[0]
