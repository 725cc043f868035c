"""The bundled model: what it holds, and what it does on donors that it has not seen."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import sagefm
from sagefm.checkpoint._resolve import resolve_model
from sagefm.model import load_checkpoint

FOLDER = Path(str(files("sagefm.checkpoint"))) / "weights" / "default"


def test_it_is_small_and_says_what_it_is() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 40e6
    checkpoint = resolve_model("default")
    assert checkpoint.name == "default"
    assert checkpoint.sha256 == load_checkpoint(FOLDER).sha256
    assert {"GFAP", "MBP", "MOBP", "KRT17", "ERBB2"} <= set(checkpoint.vocabulary.symbols)
    assert all(parameter.dtype.itemsize == 4 for parameter in checkpoint.network.parameters())
    # The bundled sections are of donors that it was not trained on.
    held_out = [name for name in checkpoint.training["sections"] if "Br8325" in name or "_RA1_" in name]
    assert not held_out
    assert len(checkpoint.training["sections"]) == 69


@pytest.mark.parametrize("name", ["dlpfc", "synovium"])
def test_it_recovers_more_than_controls_on_donors_it_has_not_seen(name: str) -> None:
    adata = getattr(sagefm.datasets, name)()
    sagefm.tl.embed(adata)
    assert adata.obsm["X_sagefm"].shape == (adata.n_obs, 64)
    assert np.isfinite(adata.obsm["X_sagefm"]).all()
    sagefm.tl.impute(adata, progress=False)
    imputed = adata.var["sagefm_imputed"].to_numpy()
    detected = (np.asarray((adata.X > 0).mean(axis=0)).ravel() >= 0.1) & imputed
    spots = np.random.default_rng(0).permutation(adata.n_obs)
    test, train = (np.sort(part) for part in np.split(spots, [adata.n_obs // 4]))
    arguments = {"train": train, "test": test, "predicted": "sagefm_imputed"}
    tables = [sagefm.metrics.controls(adata, ridge=ridge, **arguments) for ridge in (1.0, 100.0)]
    found = tables[0]["predicted"]["r"][detected].median()
    for control in (tables[0]["neighborhood"], tables[0]["pca"], tables[1]["pca"]):
        assert found > control["r"][detected].median()
    assert adata.var.loc[detected, "sagefm_imputed_r"].gt(0).mean() > 0.75


def test_fine_tuning_goes_on_from_it() -> None:
    adata = sagefm.datasets.synovium()
    sagefm.model.SAGEFM.setup_anndata(adata)
    model = sagefm.model.SAGEFM.from_pretrained("default", adata)
    before = model.get_latent_representation()
    model.train(max_epochs=2, lr=1e-4, progress=False)
    assert len(model.history["train_loss"]) == 2
    assert not np.allclose(model.get_latent_representation(), before, atol=1e-4)
    assert np.array_equal(resolve_model("default").network.fc_gene.bias.shape, model.module.fc_gene.bias.shape)
