"""The authors' file from disk: what is read, converted, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from torch_geometric.data import Batch, Data

import sagefm
from sagefm.checkpoint import _authors as published
from sagefm.checkpoint._checkpoint import save_checkpoint
from sagefm.data._genes import published_vocabulary
from sagefm.errors import CheckpointError, OutputExistsError
from sagefm.model import SAGEFM, load_checkpoint, load_published
from sagefm.module._config import PUBLISHED_HIDDEN, NetworkConfig
from sagefm.module._gcn import PublishedNetwork
from tests.checkpoint.published.conftest import (
    HIDDEN,
    kept,
    make_dictionary,
    make_network,
    same_bits,
)


def test_record_is_the_reference() -> None:
    record = published.PUBLISHED
    assert record.sha256 == "7b2e7ec1e4609f047afb3dc7cd308a2f839fcaea2215e5a3e7da10898bfe4288"
    assert record.size_bytes == 376_893_782
    assert record.url.startswith("https://")
    assert "not to be redistributed" in record.license
    with pytest.raises(AttributeError):
        record.url = ""


def test_own_copy(file, network, genes, cache, caplog):
    file.chmod(0o444)
    checkpoint = load_published(file)
    assert same_bits(checkpoint, network)
    assert not checkpoint.network.training
    assert checkpoint.name == "published"
    assert checkpoint.vocabulary.symbols == genes
    assert checkpoint.config == NetworkConfig("published", 300, HIDDEN, "mse")
    facts = {key: value for key, value in checkpoint.training.items() if key != "source"}
    assert facts == {
        "epoch": 126,
        "best_val_loss": 0.125,
        "hidden_channels": list(HIDDEN),
        "learning_rate": 5e-5,
        "weight_decay": 1e-4,
        "mask_percentage": 0.3,
        "batch_size": 64,
    }
    source = checkpoint.training["source"]
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert source["repository"] == "https://github.com/dayenai/SAGE-FM"
    assert "not to be redistributed" in source["license"]
    assert not caplog.records
    assert kept(cache) == [published.PUBLISHED.sha256]
    # From here on neither the file nor a network is needed.
    file.unlink()
    again = load_published()
    assert same_bits(again, network)
    assert (again.name, again.sha256, again.training) == ("published", checkpoint.sha256, checkpoint.training)


def test_training_of_ones_own(file, network, genes, cache, tmp_path, caplog):
    other = make_network(300, (32, 24, 24, 24, 20), seed=1)
    path = tmp_path / "mine.pt"
    torch.save({**make_dictionary(other), "in_channels": 300, "num_gene_features": torch.tensor(300)}, path)
    for _ in range(2):
        caplog.clear()
        checkpoint = load_published(path)
        assert same_bits(checkpoint, other)
        assert checkpoint.name == str(path)
        assert checkpoint.training["num_gene_features"] == 300
        assert "sha256 differs from the published file" in checkpoint.training["source"]["note"]
        assert "url" not in checkpoint.training["source"]
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "training of your own" in caplog.text
    assert kept(cache) == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert load_published(file).sha256 != checkpoint.sha256


def test_parameters_alone(network, tmp_path):
    path = tmp_path / "state.pt"
    torch.save(network.state_dict(), path)
    checkpoint = load_published(path)
    assert same_bits(checkpoint, network)
    assert set(checkpoint.training) == {"source"}


def test_parameters_that_share_memory(network, tmp_path):
    state = network.state_dict()
    state["conv3.lin.weight"] = state["conv4.lin.weight"]
    state["conv2.lin.weight"] = torch.nn.Parameter(state["conv5.lin.weight"].T)
    torch.save(state, tmp_path / "state.pt")
    found = load_published(tmp_path / "state.pt").network.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_convert(file, network, section, tmp_path, cache):
    folder = published.convert_published(file, tmp_path / "converted")
    assert folder == tmp_path / "converted"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert same_bits(load_checkpoint(folder), network)
    assert load_checkpoint(folder).sha256 == load_published(file).sha256
    assert json.loads((folder / "config.json").read_text())["training"]["epoch"] == 126
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        published.convert_published(file, folder)
    published.convert_published(file, folder, overwrite=True)
    model = SAGEFM.from_pretrained(folder)
    assert model.get_latent_representation(section).shape == (section.n_obs, 128)


def expected_embedding(network: PublishedNetwork, counts: np.ndarray, graph, spots: np.ndarray) -> np.ndarray:
    """The published pipeline: complete 15-spot subgraphs through PyG, read at the center."""
    edges = torch.combinations(torch.arange(15)).T
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    x = torch.log1p(torch.from_numpy(counts))
    graphs = Batch.from_data_list([Data(x=x[np.append(i, graph[i].indices)], edge_index=edges) for i in spots])
    with torch.no_grad():
        return network(graphs.x, graphs.edge_index)[0][::15].numpy()


@pytest.mark.parametrize("model", ["folder", "published"])
def test_embedding_equals_pyg(model, file, server, network, section, tmp_path):
    if model == "folder":
        model = published.convert_published(file, tmp_path / "converted")
    sagefm.tl.embed(section, model=model)
    spots = np.arange(0, section.n_obs, 57)
    expected = expected_embedding(network, section.X.toarray(), section.obsp["sagefm_connectivities"], spots)
    found = section.obsm["X_sagefm"][spots]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert section.uns["sagefm"]["X_sagefm"]["model"] == str(model)


def test_full_size(synovium, tmp_path):
    """The published widths and 14,558 genes: 126 MB."""
    network = make_network(14_558, PUBLISHED_HIDDEN)
    torch.save(
        {"model_state_dict": network.state_dict(), "hidden_channels": [1024, 512, 512, 512, 1024]}, tmp_path / "f"
    )
    checkpoint = load_published(tmp_path / "f")
    assert same_bits(checkpoint, network)
    assert sum(parameter.numel() for parameter in checkpoint.network.parameters()) == 31_405_790
    vocabulary = published_vocabulary()
    assert checkpoint.vocabulary == vocabulary
    sagefm.tl.embed(synovium, model=checkpoint)
    # Genes that were renamed are those of the vocabulary.
    report = sagefm.pp.match_genes(synovium, checkpoint)
    named = synovium.to_df().loc[:, report["matched"].to_numpy()].set_axis(report["gene"][report["matched"]], axis=1)
    counts = named.reindex(columns=vocabulary.symbols, fill_value=0).to_numpy(np.float32)
    spots = np.array([0, 100, 300])
    expected = expected_embedding(network, counts, synovium.obsp["sagefm_connectivities"], spots)
    assert np.abs(synovium.obsm["X_sagefm"][spots] - expected).max() < 1e-5 * np.abs(expected).max()


def test_another_process_was_first(file, network, cache, monkeypatch):
    writing = published.writing

    @contextmanager
    def wait(folder):
        with writing(folder):
            save_checkpoint(published.read_published(file, sha256=published.PUBLISHED.sha256), folder)
            yield

    monkeypatch.setattr(published, "writing", wait)
    assert same_bits(load_published(file), network)
    assert kept(cache) == [published.PUBLISHED.sha256]


def test_cache_that_cannot_be_written(file, cache):
    cache.write_text("a file where the folder should be")
    for call in (lambda: load_published(file), load_published):
        with pytest.raises(CheckpointError, match="SAGEFM_CACHE_DIR"):
            call()


def test_damaged_cache(file, network, cache):
    load_published(file)
    weights = cache / "published" / published.PUBLISHED.sha256 / "model.safetensors"
    weights.unlink()
    with pytest.raises(CheckpointError, match=f"delete {weights.parent} and call again"):
        load_published(file)


def test_cache_of_the_operating_system(monkeypatch):
    monkeypatch.delenv("SAGEFM_CACHE_DIR")
    assert published.cache_folder() == pooch.os_cache("sagefm")
    monkeypatch.setenv("SAGEFM_CACHE_DIR", "~/elsewhere")
    assert published.cache_folder() == Path.home() / "elsewhere"
