"""config.json is checked before anything is built from it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from sagefm.checkpoint._config_file import MAX_CONFIG_BYTES, read_config
from sagefm.errors import CheckpointError
from sagefm.model import load_checkpoint

STORED = Path(__file__).parent / "formats" / "1" / "default"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(STORED, tmp_path / "model")


def _nested(levels):
    return [] if levels == 1 else [_nested(levels - 1)]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("format_version", 0, "format_version is 0"),
        ("format_version", True, "format_version is True"),
        ("format_version", 2.0, "format_version is 2.0"),
        ("sha256", "0", "64 hexadecimal digits"),
        ("genes", ["A", 1, "C", "D", "E", "F", "G", "H"], "gene names"),
        ("genes", ["A", "", "C", "D", "E", "F", "G", "H"], "gene names"),
        ("genes", ["A", "B", "C", "D", "E", "F", "G", "\x1b[31m"], "cannot be printed"),
        ("genes", ["A", "B", "C", "D", "E", "F", "G", "\ud800"], "cannot be printed"),
        ("genes", ["A"] * 8, "twice"),
        ("genes", ["A"], "1 genes for a network of 8"),
        ("network", None, "network is None"),
        ("network", {}, "expected the fields"),
        ("network.depth", 3, "expected the fields"),
        ("network.n_genes", 8.0, "n_genes=8.0"),
        ("network.n_genes", 2**40, "at most 500,000"),
        ("network.hidden", [True, 4], "hidden=True"),
        ("network.hidden", [6.5, 4], "hidden=6.5"),
        ("network.hidden", [6, 2**20], "at most 16,384"),
        ("network.hidden", [1] * 33, "2 to 32 widths"),
        ("network.hidden", "64", "2 to 32 widths"),
        ("network.hidden", [16_384] * 4, "at most 500,000,000"),
        ("network.scale", float("nan"), "scale=nan"),
        ("network.scale", float("inf"), "scale=inf"),
        ("network.dropout", 1, "dropout=1"),
        ("network.architecture", ["default"], "architecture=['default']"),
        ("setup.adata", "x", "setup holds ['adata']"),
        ("setup.layer", ["counts"], "layer is ['counts']"),
        ("history", {"train_loss": ["low"]}, "lists of numbers"),
        ("training.n_spots", "many", "n_spots is 'many'"),
        ("training.sections", ["a"], "sections is ['a']"),
        ("training.source", {"license": []}, "source is"),
        ("training.best_epoch", -1, "best_epoch is -1"),
        ("training.before", {}, "before is {}"),
        ("training.before", [3], "a record of training is 3"),
        ("training.notes", _nested(20), "16 levels deep"),
        ("training.notes", 10**30, "64 bits"),
    ],
)
def test_values_that_are_refused(place, value, words, folder):
    config = json.loads((folder / "config.json").read_text())
    *way, last = place.split(".")
    holder = config[way[0]] if way else config
    holder[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(folder)
    assert words in str(raised.value)
    assert str(folder / "config.json") in str(raised.value)


def test_best_epoch_that_is_not_in_the_history(folder):
    config = json.loads((folder / "config.json").read_text())
    config["history"] = {"validation_loss": [1.0, float("nan")]}
    for epoch, is_there in [(1, True), (2, False)]:
        config["training"]["best_epoch"] = epoch
        (folder / "config.json").write_text(json.dumps(config))
        if is_there:
            assert read_config(folder / "config.json").training["best_epoch"] == 1
        else:
            with pytest.raises(CheckpointError, match="best_epoch is 2, and the history"):
                read_config(folder / "config.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b" " * (MAX_CONFIG_BYTES + 1), "16,777,217 bytes"),
        (b"[" * 100_001, "100,001 lists"),
        (b"[" * 50_000 + b"]" * 50_000, "recursion"),
        ("{}".encode("utf-16"), "codec"),
        (b"", "0 bytes"),
    ],
)
def test_texts_that_are_refused(content, words, folder):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_pipes_and_devices_are_no_files(name, folder):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(CheckpointError, match=f"it has no {name}"):
            load_checkpoint(folder)


def test_a_header_is_not_believed(folder):
    path = folder / "model.safetensors"
    for length in (200_000, 2**62):
        path.write_bytes(struct.pack("<Q", length) + b"{" * 300_000)
        with pytest.raises(CheckpointError, match=f"its header has {length:,} bytes"):
            load_checkpoint(folder)


def test_names_that_no_file_can_have():
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(CheckpointError):
            load_checkpoint(name)
