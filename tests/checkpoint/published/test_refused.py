"""Files that are refused, and why."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from sagefm.checkpoint import _authors as published
from sagefm.errors import CheckpointError, ModelNotFoundError
from sagefm.model import load_published
from tests.checkpoint.published.conftest import (
    make_dictionary,
)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_code_is_not_run(kind, network, tmp_path):
    marker, path = tmp_path / "run", tmp_path / "evil.pt"
    stored = {"model_state_dict": network.state_dict(), "epoch": Evil(marker)}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps({"epoch": Evil(marker)}, protocol=int(kind[-1])))
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match=r"nothing of it was\s+run") as raised:
        load_published(path)
    assert "weights_only=False" not in str(raised.value)
    if kind == "zip":
        assert "sagefm never runs code from a file" in str(raised.value)
        assert "mkdir" in str(raised.value)
    assert not marker.exists()
    # The file does run code where it is let.
    if kind == "zip":
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_format_of_before_pytorch_1_6(network, tmp_path):
    """It says how many bytes to take before it has them."""
    path = tmp_path / "state.pt"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before PyTorch 1\.6.*torch\.save\(torch\.load\("):
        load_published(path)


def test_whole_module(network, tmp_path):
    torch.save(network, tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"needs code to load .*PublishedNetwork.*model.state_dict\(\)"):
        load_published(tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty, a pipe or a device", id="empty"),
        pytest.param(b"hello world\n" * 9, "is no complete file of torch.save", id="text"),
        pytest.param(b"<html>Not Found</html>", "is no complete file of torch.save", id="page"),
        pytest.param(b"\x93NUMPY\x01\x00" + b"\0" * 200, "is no complete file of torch.save", id="numpy"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:7b\nsize 3\n", "git lfs pull", id="pointer"
        ),
        pytest.param(b"PK\x03\x04" + b"\0" * 500, "was its download interrupted", id="zip head"),
    ],
)
def test_no_torch_file(content, words, genes, tmp_path):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as raised:
        load_published(tmp_path / "file.pt")
    assert str(tmp_path / "file.pt") in str(raised.value)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_copy(share, file, cache):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=f"the published file {len(content):,}: was its download interrupted"):
        load_published(file)
    assert not cache.exists()


def test_no_file(file, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"nowhere.pt.*load_published\(\) downloads it"):
        load_published(tmp_path / "nowhere.pt")
    folder = published.convert_published(file, tmp_path / "converted")
    with pytest.raises(CheckpointError, match=r"is a folder.*load_checkpoint"):
        load_published(folder)


def state_with(**changes):
    """Return a function that changes the dictionary's parameters; None takes one out."""

    def change(stored):
        state = {**stored["model_state_dict"], **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
        return {**stored, "model_state_dict": {name: tensor for name, tensor in state.items() if tensor is not None}}

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(state_with(conv3__bias=None), ["Missing key", "conv3.bias"], id="missing"),
        pytest.param(state_with(conv6__bias=torch.ones(3)), ["Unexpected key", "conv6.bias"], id="unknown"),
        pytest.param(
            state_with(conv2__lin__weight=torch.ones(128, 64)),
            ["conv2.lin.weight", "[128, 64]", "[64, 128]"],
            id="shape",
        ),
        pytest.param(state_with(conv4__bias=torch.ones(63)), ["conv4", "[63", "[64"], id="bias"),
        pytest.param(state_with(fc_gene__bias=torch.ones(299)), ["fc_gene.bias", "[299]", "[300]"], id="read-out"),
        pytest.param(state_with(conv1__lin__weight=torch.ones(128, 280)), ["280 genes", "300"], id="genes"),
        pytest.param(state_with(conv1__lin__weight=torch.tensor(1.0)), ["conv1.lin.weight", "300"], id="scalar"),
        pytest.param(state_with(conv1__bias=torch.ones(128).half()), ["conv1.bias", "float16", "float32"], id="half"),
        pytest.param(
            state_with(conv1__bias=torch.ones(128).to_sparse()), ["_rebuild_sparse_tensor", "dense"], id="sparse"
        ),
        pytest.param(state_with(conv1__bias=torch.full((128,), torch.nan)), ["conv1.bias", "NaN"], id="NaN"),
        pytest.param(state_with(conv1__bias=torch.ones(128).long()), ["conv1.bias"], id="whole numbers"),
        pytest.param(lambda s: {**s, "model_state_dict": {1: torch.ones(3)}}, ["by name"], id="numbers for names"),
        pytest.param(state_with(conv1__bias="text"), ["model_state_dict", "by name"], id="text"),
        pytest.param(lambda s: {**s, "model_state_dict": [1]}, ["model_state_dict", "by name"], id="list of numbers"),
        pytest.param(lambda s: {**s, "model_state_dict": {}}, ["model_state_dict", "by name"], id="no parameters"),
        pytest.param(
            lambda s: {"weights": s["model_state_dict"]}, ["['weights']", "'model_state_dict'"], id="other key"
        ),
        pytest.param(lambda s: [s["model_state_dict"]], ["list", "'model_state_dict'"], id="list"),
        pytest.param(lambda s: s["model_state_dict"]["conv1.bias"], ["Tensor", "'model_state_dict'"], id="tensor"),
        pytest.param(lambda s: {}, ["'model_state_dict'"], id="empty"),
    ],
)
def test_other_contents(change, words, network, cache, tmp_path):
    path = tmp_path / "file.pt"
    torch.save(change(make_dictionary(network)), path)
    with pytest.raises(CheckpointError) as raised:
        load_published(path)
    assert type(raised.value) is CheckpointError
    assert not [word for word in [str(path), *words] if word not in str(raised.value)], str(raised.value)
    assert not cache.exists(), "nothing is kept of it"
