"""Training on files: the same as on tables, whatever is in memory; donors apart; panels are not zeros."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import sagefm
from sagefm.datasets import Corpus
from sagefm.errors import ArgumentError, CoordinatesError, CountsError, MissingKeyError
from sagefm.model import SAGEFM, load_checkpoint, pretrain
from sagefm.training._sections import CorpusSections

SMALL = {"hidden": (16, 8), "batch_size": 32, "accelerator": "cpu", "max_epochs": 2, "lr": 3e-3}


@pytest.fixture(scope="module")
def tables():
    whole = sagefm.datasets.simulate(80, n_genes=60, n_sections=5, rng=0)
    return [whole[whole.obs["library"] == name].copy() for name in whole.obs["library"].unique()]


@pytest.fixture
def folder(tables, tmp_path):
    for i, table in enumerate(tables):
        table.write_h5ad(tmp_path / f"s{i}.h5ad")
    facts = {"section": [f"s{i}" for i in range(5)], "donor": ["a", "b", "b", "c", "c"], "organ": ["x"] * 5}
    pd.DataFrame(facts).to_csv(tmp_path / "metadata.tsv", sep="\t", index=False)
    return tmp_path


def test_equals_training_on_one_table(folder, tables):
    """The same sections in the same order: files and table give the same parameters."""
    model = pretrain(Corpus.from_folder(folder), vocabulary=[str(g) for g in tables[0].var_names], **SMALL)
    names = dict(zip([f"s{i}" for i in range(5)], tables, strict=True))
    whole = ad.concat(names, label="library", index_unique="-")
    SAGEFM.setup_anndata(whole, library_key="library")
    expected = SAGEFM(whole, hidden=SMALL["hidden"])
    expected.train(**{k: v for k, v in SMALL.items() if k != "hidden"}, progress=False)
    for a, b in zip(model.module.parameters(), expected.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_few_sections_in_memory(folder, monkeypatch):
    """Sections are read anew in each epoch, and dropped when they are done with."""
    alive, most, read = set(), [], []
    before = CorpusSections.__getitem__

    def getitem(self, i):
        inputs = before(self, i)
        read.append(i)
        alive.add(id(inputs))
        most.append(len(alive))
        weakref.finalize(inputs, alive.discard, id(inputs))
        return inputs

    monkeypatch.setattr(CorpusSections, "__getitem__", getitem)
    model = pretrain(Corpus.from_folder(folder), sections_in_memory=1, validation_size=0, **SMALL)
    assert len(read) == 5 * 3, "the prior, and two epochs"
    assert max(most) <= 3
    assert len(model.history["train_loss"]) == 2


def test_donors_are_held_out_together(folder):
    held = []
    for seed in range(6):
        model = pretrain(Corpus.from_folder(folder), split_by="donor", validation_size=0.4, rng=seed, **SMALL)
        held.append(frozenset(model.to_checkpoint().training["validation_sections"]))
    assert set(held) <= {frozenset({"s0"}), frozenset({"s1", "s2"}), frozenset({"s3", "s4"})}
    assert len(set(held)) > 1
    corpus = Corpus.from_folder(folder)
    with pytest.raises(ArgumentError, match="All 5 sections are of one group, 'x'"):
        pretrain(corpus, split_by="organ", **SMALL)
    with pytest.raises(MissingKeyError, match="split_by='patient'"):
        pretrain(corpus, split_by="patient", **SMALL)
    corpus.metadata["donor"] = [None] * 5
    model = pretrain(corpus, split_by="donor", validation_size=0.3, **SMALL)
    assert len(model.to_checkpoint().training["validation_sections"]) == 1


def test_panels(folder, tables):
    """Sections that measured other genes: what they lack has no part in the loss."""
    half = tables[1][:, :40].copy()
    half.write_h5ad(folder / "s1.h5ad")
    model = pretrain(Corpus.from_folder(folder), validation_size=0, **SMALL)
    assert model.module.config.n_genes == 60
    assert np.isfinite(model.history["train_loss"]).all(axis=None)
    assert np.isfinite(model.get_latent_representation(half)).all()


def test_result(folder, tables, tmp_path):
    corpus = Corpus.from_folder(folder)
    model = pretrain(corpus, validation_size=0.2, **SMALL)
    training = model.to_checkpoint().training
    assert training["sections"] == corpus.hashes
    assert training["n_spots"] == 400
    model.save(tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model")
    sagefm.tl.embed(tables[0], loaded)
    expected = model.get_latent_representation(tables[0])
    np.testing.assert_allclose(tables[0].obsm["X_sagefm"], expected, atol=1e-5)


def test_errors_name_the_file(folder, tables):
    bad = tables[2].copy()
    bad.X = bad.X.astype(np.float32) * 0.5
    bad.write_h5ad(folder / "s2.h5ad")
    with pytest.raises(CountsError, match=r"s2\.h5ad: adata\.X holds fractional values"):
        pretrain(Corpus.from_folder(folder), validation_size=0, **SMALL)


def test_arguments(folder, tables):
    corpus = Corpus.from_folder(folder)
    arguments = {**SMALL, "max_epochs": 4, "lr": 0.5}
    assert len(pretrain(corpus, early_stopping=False, patience=1, **arguments).history["train_loss"]) == 4
    for bad in ({"sections_in_memory": 0}, {"sections_in_memory": 2.5}, {"rng": -1}):
        with pytest.raises(ArgumentError):
            pretrain(corpus, **SMALL, **bad)
    tables[0][:9].copy().write_h5ad(folder / "small.h5ad")
    (folder / "metadata.tsv").unlink()
    with pytest.raises(CoordinatesError, match=r"1 sections have fewer than the 15 spots.*small"):
        pretrain(Corpus.from_folder(folder), **SMALL)


@pytest.mark.slow
def test_processes_read_their_own_sections(folder, tmp_path):
    """Two processes: none reads what another trains on, and the hashes of all are in the result."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = Path(__file__).with_name("corpus_worker.py")
    run = subprocess.run(
        [*launcher, str(worker), str(folder), str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    read = [set(result["read"]) for result in found]
    assert read[0] & read[1] <= set(found[0]["validation_sections"])
    assert all(found[0]["sections"].values())
    expected = pretrain(Corpus.from_folder(folder), n_shards=2, dropout=0.0, **SMALL)
    np.testing.assert_allclose(found[0]["prior"], expected.module.prior.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[0]["losses"], expected.history["train_loss"].iloc[:, 0], rtol=1e-4)
