"""Checkpoint folders that somebody meant harm with, or that were damaged: one for each generator of random numbers."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BASES = sorted(
    path.parent for path in (Path(__file__).parents[1] / "checkpoint" / "formats").glob("*/*/model.safetensors")
)
#: What is put in the place of a value.
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 1.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**53, 2**63,
    2**64, -(2**63) - 1, 10**400, "", "a", "é", "\ud800", "\x00", "\x1b[31mred", "A" * 300, "A" * 1_000_000, "1e3", "nan",
    "__class__", "../../../etc/passwd", "{0.__class__}", "%s%s%n", [], {}, [[]], [None], ["a"], [1, 2], {"a": 1},
    {"": {}}, list(range(50_000)), [float("nan")], {"a": [{"b": [{"c": [{}]}]}]},
]  # fmt: skip
_HUGE = [0, -1, 1, 2**16, 2**20, 2**31, 2**40, 2**63 - 1, 2**63, 2**64, 10**30, 1.0, True, "8", None, [8], float("nan")]


def _value(rng: np.random.Generator) -> Any:
    return copy.deepcopy(VALUES[rng.integers(len(VALUES))])


def make_folder(rng: np.random.Generator, folder: Path) -> str:
    """Write a hostile folder, and return what was done to it."""
    base = BASES[rng.integers(len(BASES))]
    shutil.copytree(base, folder)
    names = [base.parent.name, base.name]
    config = json.loads((folder / "config.json").read_text())
    header, data = read_safetensors(folder / "model.safetensors")
    for _ in range(1 + rng.integers(2)):
        change = [*CONFIG_CHANGES, *WEIGHT_CHANGES][rng.integers(len(CONFIG_CHANGES) + len(WEIGHT_CHANGES))]
        names.append(change.__name__)
        if change in CONFIG_CHANGES:
            config = change(rng, config)
        else:
            header, data = change(rng, header, data)
    is_signed = rng.random() < 0.75
    if is_signed:
        names.append("signed")
        sign(config, header)
    write_safetensors(folder / "model.safetensors", header, data)
    if is_signed and isinstance(config, dict) and "sha256" in config:
        config["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    if rng.random() < 0.25:
        change = FILE_CHANGES[rng.integers(len(FILE_CHANGES))]
        names.append(change.__name__)
        change(rng, folder)
    return " ".join(names)


def sign(config: Any, header: dict[str, Any]) -> None:
    """Write the hash of architecture and genes that a hostile author would."""
    if isinstance(config, dict) and isinstance(header.get("__metadata__"), dict):
        try:
            covered = {"network": config.get("network"), "genes": config.get("genes")}
            digest = hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
        except (TypeError, ValueError, RecursionError):
            return
        header["__metadata__"]["network_and_genes_sha256"] = digest


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data that follow it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_safetensors(path: Path, header: dict[str, Any], data: bytes) -> None:
    """Write a header, whatever it says, and data."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# config.json


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(inner for key, child in children if len(place) < 6 for inner in _places(child, (*place, key)))]


def _any_place(rng: np.random.Generator, config: Any) -> tuple[Any, Any]:
    """Return an object or list within, and a key of it."""
    places = _places(config)[1:2000]
    if not places:
        return {"": 0}, ""
    *way, last = places[rng.integers(len(places))]
    holder = config
    for key in way:
        holder = holder[key]
    return holder, last


def replace_a_value(rng, config):
    holder, key = _any_place(rng, config)
    holder[key] = _value(rng)
    return config


def delete_a_value(rng, config):
    holder, key = _any_place(rng, config)
    del holder[key]
    return config


def add_a_key(rng, config):
    holder, _ = _any_place(rng, config)
    if isinstance(holder, dict):
        holder[["depth", "before", "", "a\x1b", "__proto__", "A" * 5000][rng.integers(6)]] = _value(rng)
    return config


def replace_all(rng, config):
    return _value(rng)


def nest(rng, config):
    if isinstance(config, dict):
        inner: Any = []
        for _ in range([20, 200, 900][rng.integers(3)]):
            inner = [inner] if rng.random() < 0.5 else {"a": inner}
        config[["training", "history", "extra", "genes"][rng.integers(4)]] = inner
    return config


def change_network(rng, config):
    if isinstance(config, dict) and isinstance(config.get("network"), dict):
        network, value = config["network"], _HUGE[rng.integers(len(_HUGE))]
        kind = rng.integers(8)
        if kind == 0:
            network["n_genes"] = value
        elif kind == 1:
            network["hidden"] = [value] * int(rng.integers(1, 8))
        elif kind == 2:
            network["hidden"] = [1] * int(rng.choice([0, 1, 33, 5000, 200_000]))
        elif kind == 3:
            network["architecture"] = ["default", "published", "center_neighborhood", "x", ["default"], 1][
                rng.integers(6)
            ]
        elif kind == 4:
            network["likelihood"] = ["poisson", "mse", "negative_binomial", {}, None][rng.integers(5)]
        elif kind == 5:
            network["scale"] = value
        elif kind == 6:
            network["dropout"] = value
        else:
            network[["depth", "self", "cls"][rng.integers(3)]] = value
    return config


def change_genes(rng, config):
    if isinstance(config, dict) and isinstance(config.get("genes"), list):
        genes, kind = config["genes"], rng.integers(7)
        if kind == 0:
            config["genes"] = genes * 2
        elif kind == 1:
            config["genes"] = genes[::-1]
        elif kind == 2:
            config["genes"] = genes[:-1]
        elif kind == 3 and genes:
            genes[0] = _value(rng)
        elif kind == 4:
            config["genes"] = [f"G{i}" for i in range(int(rng.choice([100, 20_000, 600_000])))]
            if isinstance(config.get("network"), dict):
                config["network"]["n_genes"] = len(config["genes"])
        elif kind == 5:
            config["genes"] = dict.fromkeys(map(str, genes), 1)
        else:
            config["genes"] = "".join(map(str, genes))
    return config


def change_record(rng, config):
    if isinstance(config, dict):
        records = {
            "training": [
                {"best_epoch": 3}, {"best_epoch": 10**9, "epochs": 1}, {"n_spots": "many"}, {"sections": ["a"]},
                {"sections": {"a": 1}}, {"source": {"license": []}}, {"source": "file"}, {"before": {"a": 1}},
                {"before": [1]}, {"before": [{"n_spots": -1}]}, {"is_trained": "no"}, {"epochs": "3", "lr": {}},
                {"validation_spots": "all"}, {"spots_sha256": "0" * 64}, {"epochs": 1, "rng": {"a": []}},
            ],
            "history": [
                {"validation_loss": []}, {"train_loss": ["a"]}, {"train_loss": 1}, {"a": [[1]]}, {"\x07": [1]},
                {"validation_loss": [float("nan")]},
            ],
            "setup": [
                {"layer": ["a"]}, {"spatial_key": 3}, {"adata": 1}, {"copy": True}, {"spatial_key": None}, {"layer": "x"},
            ],
        }  # fmt: skip
        part = list(records)[rng.integers(3)]
        config[part] = copy.deepcopy(records[part][rng.integers(len(records[part]))])
    return config


def change_version(rng, config):
    if isinstance(config, dict):
        config["format_version"] = [0, -1, 1, 2, 3, 10**12, 1.0, True, "2", None, [2]][rng.integers(11)]
        if rng.random() < 0.5:
            config.pop("sha256", None)
    return config


# model.safetensors


def _tensor(rng, header):
    names = [name for name in header if name != "__metadata__"]
    return header[names[rng.integers(len(names))]] if names else {}


def change_shape(rng, header, data):
    shapes = [[], [0], [2**62, 4], [2**63], [2**32, 2**32], [-1], [1.5], "8", [1] * 100, [8], [8, 6, 1], [0, 2**60]]
    _tensor(rng, header)["shape"] = shapes[rng.integers(len(shapes))]
    return header, data


def change_type(rng, header, data):
    types = ["F64", "I8", "U8", "BOOL", "F8_E4M3", "BF16", "I64", "F128", "", None, 3, "C64", "F4"]
    _tensor(rng, header)["dtype"] = types[rng.integers(len(types))]
    return header, data


def change_offsets(rng, header, data):
    offsets = [[0, 0], [0, 2**63], [8, 4], [-8, 8], [0, len(data)], [len(data), 2 * len(data)], [0], "a", [0, 4.0]]
    _tensor(rng, header)["data_offsets"] = offsets[rng.integers(len(offsets))]
    return header, data


def change_names(rng, header, data):
    names = [name for name in header if name != "__metadata__"]
    if names:
        header[["x", "", "A" * 50_000, "conv1.bias", "../x", "\x1b"][rng.integers(6)]] = header.pop(
            names[rng.integers(len(names))]
        )
    return header, data


def add_tensors(rng, header, data):
    start = len(data)
    for i in range(int(rng.choice([1, 100, 30_000]))):
        header[f"extra.{i}"] = {"dtype": "F32", "shape": [0], "data_offsets": [start, start]}
    return header, data


def change_metadata(rng, header, data):
    values = [{}, None, {"a": 1}, {"network_and_genes_sha256": "0" * 64}, {"a": "b" * 200_000}, [], {"a": {"b": "c"}}]
    header["__metadata__"] = values[rng.integers(len(values))]
    return header, data


def write_numbers(rng, header, data):
    damaged = bytearray(data)
    value = struct.pack("<f", [float("nan"), float("inf"), -float("inf"), 3e38][rng.integers(4)])
    for _ in range(rng.integers(1, 5)):
        place = 4 * int(rng.integers(max(len(damaged) // 4, 1)))
        damaged[place : place + 4] = value
    return header, bytes(damaged)


def cut_data(rng, header, data):
    return header, data[: rng.integers(len(data) + 1)]


def append_data(rng, header, data):
    return header, data + bytes(int(rng.choice([1, 8, 1_000_000])))


def one_great_tensor(rng, header, data):
    """The file is extended to that size afterwards, without taking room on the disk."""
    n_bytes = int(rng.choice([2**31, 2**33]))
    header = {
        name: {"dtype": "F32", "shape": [n_bytes // 4], "data_offsets": [0, n_bytes]}
        for name in list(header)[:3]
        if name != "__metadata__"
    }
    return header, data


# Files


def _file(rng, folder):
    return folder / ["config.json", "model.safetensors"][rng.integers(2)]


def cut_file(rng, folder):
    path = _file(rng, folder)
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content) + 1)])


def flip_bytes(rng, folder):
    path = _file(rng, folder)
    content = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 9) if content else 0):
        content[rng.integers(len(content))] = rng.integers(256)
    path.write_bytes(bytes(content))


def insert_bytes(rng, folder):
    path = _file(rng, folder)
    content, place = path.read_bytes(), None
    place = rng.integers(len(content) + 1)
    path.write_bytes(content[:place] + rng.bytes(rng.integers(1, 50)) + content[place:])


def random_bytes(rng, folder):
    _file(rng, folder).write_bytes(rng.bytes(rng.integers(5000)))


def other_encoding(rng, folder):
    path = folder / "config.json"
    encodings = ["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"]
    path.write_bytes(path.read_text().encode(encodings[rng.integers(len(encodings))], errors="replace"))


def long_text(rng, folder):
    texts = [
        "[" * 100_001, "{" * 3_000_000, '{"a":' * 50_000 + "1" + "}" * 50_000, " " * 20_000_000,
        "[" + "[]," * 5_000_000 + "1]", "[" + "0," * 4_000_000 + "0]", "1" * 1_000_000, '"' + "\\u0000" * 1_000_000 + '"',
        '{"format_version": 2, "format_version": 1}', "NaN", "-Infinity", "[1e99999]", "\ufeff{}",
    ]  # fmt: skip
    (folder / "config.json").write_text(texts[rng.integers(len(texts))])


def header_length(rng, folder):
    path = folder / "model.safetensors"
    lengths = [0, 1, 2**16, 2**20, 10**8, 2**31, 2**63 - 1, 2**64 - 1]
    path.write_bytes(struct.pack("<Q", lengths[rng.integers(len(lengths))]) + path.read_bytes()[8:])


def great_header(rng, folder):
    n_bytes = int(rng.choice([200_000, 20_000_000]))
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", n_bytes) + b'{"a":' + b" " * (n_bytes - 7) + b"0}")


def extend(rng, folder):
    """Without taking room on the disk."""
    os.truncate(_file(rng, folder), int(rng.choice([2**20, 2**31, 2**34])))


def no_file(rng, folder):
    _file(rng, folder).unlink()


def folder_for_file(rng, folder):
    path = _file(rng, folder)
    path.unlink()
    path.mkdir()


def link(rng, folder):
    path = _file(rng, folder)
    path.unlink()
    targets = [
        "/dev/zero",
        "/dev/full",
        "/dev/stdin",
        path.name,
        "/proc/self/mem",
        "/proc/kmsg",
        "/",
        "nowhere",
        "a" * 250,
    ]
    path.symlink_to(targets[rng.integers(len(targets))])


def pipe(rng, folder):
    path = _file(rng, folder)
    path.unlink()
    os.mkfifo(path)


def swap(rng, folder):
    (folder / "config.json").rename(folder / "other")
    (folder / "model.safetensors").rename(folder / "config.json")
    (folder / "other").rename(folder / "model.safetensors")


CONFIG_CHANGES: list[Callable[..., Any]] = [
    replace_a_value, replace_a_value, replace_a_value, delete_a_value, add_a_key, replace_all, nest, change_network,
    change_network, change_genes, change_record, change_record, change_version,
]  # fmt: skip
WEIGHT_CHANGES: list[Callable[..., Any]] = [
    change_shape, change_type, change_offsets, change_names, add_tensors, change_metadata, write_numbers, cut_data,
    append_data, one_great_tensor,
]  # fmt: skip
FILE_CHANGES: list[Callable[..., Any]] = [
    cut_file, flip_bytes, flip_bytes, insert_bytes, random_bytes, other_encoding, long_text, header_length, great_header,
    extend, no_file, folder_for_file, link, pipe, swap,
]  # fmt: skip
