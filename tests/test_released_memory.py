"""Tables and models that nobody holds any more are let go of."""

from __future__ import annotations

import gc
import weakref

import pytest
from anndata import AnnData

from sagefm.model import SAGEFM


def test_a_table_and_its_model_are_let_go_of(section: AnnData) -> None:
    """scvi-tools keeps both as long as the process lives."""
    adata = section.copy()
    SAGEFM.setup_anndata(adata)
    model = SAGEFM(adata, hidden=(16, 8))
    model.train(max_epochs=1, accelerator="cpu", progress=False)
    fine_tuned = SAGEFM.from_pretrained(model.to_checkpoint(), adata)
    stores = SAGEFM._setup_adata_manager_store, SAGEFM._per_instance_manager_store
    table, id_of_table = weakref.ref(adata), adata.uns["_scvi_uuid"]
    ids = [model.id, fine_tuned.id]
    copy = adata.copy()
    SAGEFM.setup_anndata(copy)
    assert SAGEFM(copy, hidden=(16, 8)).adata is copy
    with pytest.raises(ValueError, match="copy"):
        SAGEFM(adata)
    assert model.get_latent_representation().shape == (400, 8)
    assert id_of_table in stores[0]
    assert set(ids) <= set(stores[1])
    del adata, model, fine_tuned
    gc.collect()
    assert table() is None
    assert not set(ids) & set(stores[1])
    assert SAGEFM(copy, hidden=(16, 8)).adata is copy
    del copy
    gc.collect()
    assert id_of_table not in stores[0]


def test_a_new_setup_of_a_table_counts(section: AnnData) -> None:
    section.layers["counts"] = section.X.copy()
    SAGEFM.setup_anndata(section)
    SAGEFM.setup_anndata(section, layer="counts")
    assert SAGEFM(section, hidden=(16, 8)).to_checkpoint().setup["layer"] == "counts"
