"""Files that are small and ask for much are refused before torch reads them."""

from __future__ import annotations

import io
import os
import zipfile

import pytest
import torch

from sagefm.checkpoint._archive import check_pickle
from sagefm.errors import ArgumentError, CheckpointError
from sagefm.model import load_published
from tests.checkpoint.published.conftest import make_dictionary


class _Call:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "name"), [((bytearray, 10**10), "bytearray"), ((torch.Tensor, 10**10), "Tensor"), ((set, [1]), "set")]
)
def test_calls_that_take_memory(call, name, network, tmp_path):
    torch.save({"model_state_dict": network.state_dict(), "epoch": _Call(*call)}, tmp_path / "f.pt")
    with pytest.raises(CheckpointError, match=f"needs code to load .*{name}"):
        load_published(tmp_path / "f.pt")


def test_few_numbers_that_stand_for_many(network, tmp_path):
    few = torch.zeros(1)
    torch.save(
        {
            name: tensor if tensor.ndim == 1 else few.expand(tensor.shape)
            for name, tensor in network.state_dict().items()
        },
        tmp_path / "f.pt",
    )
    assert (tmp_path / "f.pt").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"conv1\.lin\.weight repeats few numbers to 153,600 bytes"):
        load_published(tmp_path / "f.pt")


def test_a_network_that_is_too_wide(network, tmp_path):
    state = {**network.state_dict(), "conv3.bias": torch.zeros(1).expand(10**10)}
    torch.save({"model_state_dict": state}, tmp_path / "f.pt")
    with pytest.raises(CheckpointError, match="at most 16,384"):
        load_published(tmp_path / "f.pt")


def test_meta_tensors(network, tmp_path):
    torch.save({**network.state_dict(), "conv3.bias": torch.zeros(64, device="meta")}, tmp_path / "f.pt")
    with pytest.raises(CheckpointError, match="_rebuild_meta_tensor_no_storage"):
        load_published(tmp_path / "f.pt")


def _nested(kind, levels):
    value = kind([0])
    for _ in range(levels):
        value = kind([value, value])
    return value


def test_tuples_that_grow_with_each_other(network, tmp_path):
    """Their hash would never be done."""
    torch.save({"model_state_dict": network.state_dict(), "epoch": _nested(tuple, 60)}, tmp_path / "f.pt")
    with pytest.raises(CheckpointError, match="a tuple of more than 1,000 items"):
        load_published(tmp_path / "f.pt")


def test_settings_are_kept_short(network, tmp_path):
    settings = {"epoch": _nested(list, 60), "batch_size": "A" * 100_000, "learning_rate": 10**40, "best_val_loss": 1e9}
    settings |= {"hidden_channels": [8, torch.tensor(3), None, [1]], "mask_percentage": "\x1b[31m"}
    torch.save({"model_state_dict": network.state_dict(), **settings}, tmp_path / "f.pt")
    training = load_published(tmp_path / "f.pt").training
    assert training["epoch"] == ["list", "list"]
    assert len(training["batch_size"]) == 200
    assert training["hidden_channels"] == [8, 3, None, "list"]
    assert (training["learning_rate"], training["best_val_loss"]) == ("int", 1e9)
    assert training["mask_percentage"] == r"'\x1b[31m'"


def test_methods_that_a_dictionary_brings_along(network, tmp_path):
    state = network.state_dict()
    state.__dict__.update({"get": 1, "keys": 2})
    torch.save(state, tmp_path / "f.pt")
    assert load_published(tmp_path / "f.pt").config.hidden == network.config.hidden


def _members(network):
    content = io.BytesIO()
    torch.save(make_dictionary(network), content)
    with zipfile.ZipFile(content) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda names: {}, "directory does not fit", id="empty"),
        pytest.param(lambda names: {k: v for k, v in names.items() if "pkl" not in k}, "0 members", id="no pickle"),
        pytest.param(lambda names: names | {"b/data.pkl": b"N."}, "2 members", id="two pickles"),
        pytest.param(lambda names: names | {"archive/notes": bytes(300_000)}, "more than 262,144 bytes", id="notes"),
        pytest.param(lambda names: names | {f"a/data/{i}": b"" for i in range(30_000)}, "1,048,576", id="many members"),
    ],
)
def test_members(change, words, network, tmp_path):
    with zipfile.ZipFile(tmp_path / "f.pt", "w") as archive:
        for name, data in change(_members(network)).items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match=words):
        load_published(tmp_path / "f.pt")


def test_compressed_members(network, tmp_path):
    with zipfile.ZipFile(tmp_path / "f.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _members(network).items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        load_published(tmp_path / "f.pt")


def test_something_before_and_after(file):
    content = file.read_bytes()
    for damaged in (b"#!/bin/sh\n" + content, content + content[:50_000]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="no complete file"):
            load_published(file)


def test_no_files(tmp_path, cache):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "great").open("wb") as file:
        file.truncate(2**33)
    for name in ("pipe", "zero"):
        with pytest.raises(CheckpointError, match="a pipe or a device"):
            load_published(tmp_path / name)
    with pytest.raises(CheckpointError, match="more than 4,294,967,296 bytes"):
        load_published(tmp_path / "great")
    with pytest.raises(ArgumentError, match="path=3"):
        load_published(3)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02(\x85.", "take what is not there"),
        (b"\x80\x02NN\x81.", "it calls 1"),
        (b"\x80\x02ctorch\nFloatStorage\n(tR.", "it calls torch FloatStorage"),
    ],
)
def test_instructions(pickled, words):
    with pytest.raises(ValueError, match=words):
        check_pickle(pickled)
