"""Files for ``load_published`` that somebody meant harm with, or that were damaged: one for each generator of numbers.

Pickles are put together from instructions, since no object that pickles like this is ever alive.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sagefm.data._genes import published_vocabulary
from sagefm.module._config import NetworkConfig
from sagefm.module._pooled import PooledNetwork

_HIDDEN = (2, 2, 2, 2, 2)


@functools.cache
def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return PooledNetwork(NetworkConfig("published", len(published_vocabulary()), _HIDDEN, "mse")).state_dict()


def make_file(rng: np.random.Generator, path: Path) -> str:
    """Write a hostile file, and return what it is."""
    change = CHANGES[rng.integers(len(CHANGES))]
    change(rng, path)
    names = [change.__name__]
    if rng.random() < 0.2 and path.is_file() and not path.is_symlink() and path.stat().st_size < 10_000_000:
        damage = [cut, flip, insert][rng.integers(3)]
        path.write_bytes(damage(rng, path.read_bytes()))
        names.append(damage.__name__)
    return " ".join(names)


def _pick(rng: np.random.Generator, values: list[Any]) -> Any:
    return values[rng.integers(len(values))]


def cut(rng, content):
    return content[: rng.integers(len(content) + 1)]


def flip(rng, content):
    damaged = bytearray(content)
    # Most of a file are numbers; what is told about them stands at its ends.
    for _ in range(rng.integers(1, 9) if content else 0):
        place = rng.integers(min(len(damaged), 4000)) * _pick(rng, [1, -1])
        damaged[place] = rng.integers(256)
    return bytes(damaged)


def insert(rng, content):
    place = rng.integers(len(content) + 1)
    return content[:place] + rng.bytes(rng.integers(1, 60)) + content[place:]


# By torch.save


def saved(rng, path):
    """A good file."""
    torch.save(_pick(rng, [dict, lambda state: {"model_state_dict": state, "epoch": 3}])(_state()), path)


def other_tensors(rng, path):
    state = dict(_state())
    name = _pick(rng, list(state))
    tensor = state[name]
    state[name] = _pick(
        rng,
        [
            tensor.double(), tensor.half(), tensor.bool(), tensor.to(torch.complex64), tensor.long(), tensor.to("meta"),
            tensor.to_sparse(), tensor.clone().fill_(torch.nan), tensor.clone().fill_(torch.inf), tensor.T, tensor[:0],
            tensor.flatten()[:1].expand(tensor.shape), torch.zeros(1).expand(10**10), torch.zeros(1).expand(2**40, 2),
            torch.nn.Parameter(tensor), tensor.unsqueeze(0), tensor.to(torch.bfloat16), torch.zeros(()), torch.empty(0),
            torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), tensor.numpy(), tensor.tolist(), 3, None, "text", {},
        ],
    )  # fmt: skip
    torch.save({"model_state_dict": state} if rng.random() < 0.5 else state, path)


def repeated_tensors(rng, path):
    """Two kilobytes that become ten gigabytes."""
    size = _pick(rng, [2, 1024, 2**14, 2**16, 2**20])
    few = torch.zeros(1)
    shapes = {name: [size if n == 2 else n for n in tensor.shape] for name, tensor in _state().items()}
    torch.save({name: few.expand(shape) for name, shape in shapes.items()}, path)


def other_names(rng, path):
    state = dict(_state())
    for _ in range(rng.integers(1, 4)):
        state[_pick(rng, ["x", "", "conv6.bias", "A" * 100_000, "\x1b[31m", "\ud800", "__class__"])] = state.pop(
            _pick(rng, list(state))
        )
    if rng.random() < 0.2:
        state |= {f"extra{i}": torch.zeros(1) for i in range(500)}
    torch.save(state, path)


def other_settings(rng, path):
    shared: Any = [0]
    for _ in range(_pick(rng, [5, 30, 200])):
        shared = [shared, shared]
    itself: list[Any] = []
    itself.append(itself)
    deep: Any = []
    for _ in range(_pick(rng, [50, 150])):
        deep = [deep]
    value = _pick(
        rng,
        [
            shared, itself, deep, tuple([0] * 500), "A" * 100_000, "\x1b]0;", float("nan"), 2**62, 2**70, 2**2000, 1j,
            b"bytes", {1, 2}, {"a": {"b": shared}}, torch.zeros(1).expand(10**9), torch.tensor(3), torch.tensor(1j),
            torch.tensor(True), [torch.zeros(3)] * 3, torch.float32, torch.Size([1]), torch.device("cpu"), range(3), [1] * 1000,
        ],
    )  # fmt: skip
    stored = {"model_state_dict": _state(), _pick(rng, ["epoch", "hidden_channels", "batch_size", "notes"]): value}
    torch.save(stored, path)


def other_objects(rng, path):
    objects = [
        [],
        {},
        None,
        3,
        "text",
        torch.zeros(3),
        [_state()],
        {"weights": _state()},
        {1: torch.zeros(1)},
        {(1,): 2},
    ]
    torch.save(_pick(rng, objects), path)


def old_format(rng, path):
    stored = _pick(rng, [_state(), {"a": 1}, torch.zeros(1).expand(10**9)])
    torch.save(stored, path, _use_new_zipfile_serialization=False)


def torch_script(rng, path):
    path.write_bytes(
        _zip({"a/data.pkl": _pickle("N"), "a/constants.pkl": _pickle("("), "a/version": b"3\n", "a/code/x.py": b"x"})
    )


class _Call:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def code(rng, path):
    calls = [
        _Call(os.getenv, "HOME"), _Call(bytearray, 10**10), _Call(bytearray, 10**12), _Call(set, [1]), _Call(eval, "1"),
        _Call(torch.Tensor, 10**9), _Call(torch.zeros, 10**9), _Call(getattr, "a", "upper"), _Call(bytes, 10**10),
        _Call(torch.Size, [1]), _Call(torch.device, "meta"), _Call(complex, 1, 2), _Call(range, 10**12), os.getenv,
        _Call(zipfile.ZipFile, "x"), _Call(open, "/etc/passwd"), _Call(str, "a"), _Call(np.zeros, 3), np.float64(3),
    ]  # fmt: skip
    call = _pick(rng, calls)
    stored = _pick(rng, [call, {"model_state_dict": _state(), "epoch": call}, {call: 1}])
    protocol = _pick(rng, [0, 1, 2, 2, 2, 3, 4, 5])
    try:
        torch.save(stored, path, pickle_protocol=protocol)
    except (TypeError, pickle.PicklingError):
        path.write_bytes(pickle.dumps(call, protocol=0))


# By instructions


def _pickle(instructions: str | bytes) -> bytes:
    if isinstance(instructions, str):
        instructions = instructions.encode("latin-1")
    return b"\x80\x02" + instructions + b"."


def _number(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True) if value else b""
    return b"\x8a" + bytes([len(data)]) + data


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _tuple(*values: int) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


def _tensor(size: tuple[int, ...], stride: tuple[int, ...], *, n: int, offset: int = 0, key="0", kind="FloatStorage"):
    """Return the instructions for a tensor on a storage of `n` numbers."""
    storage = b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text(key) + _text("cpu") + _number(n) + b"tQ"
    empty = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(offset) + _tuple(*size) + _tuple(*stride) + b"\x89"
        + empty + b"tR"
    )  # fmt: skip


def _state_pickle(tensors: dict[str, bytes]) -> bytes:
    return _pickle(b"}(" + b"".join(_text(name) + tensor for name, tensor in tensors.items()) + b"u")


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def _archive(pickled: bytes, storage: bytes = bytes(64), **others: bytes) -> bytes:
    return _zip(
        {"a/data.pkl": pickled, "a/byteorder": b"little", "a/data/0": storage, "a/version": b"3\n"}
        | {f"a/{name}": data for name, data in others.items()}
    )


def claims(rng, path):
    """Tensors that are not what their storage holds."""
    huge = [0, 1, 3, 16, 17, 2**20, 2**31, 2**40, 2**62, 2**63 - 1, 2**64, 10**30, -1, -(2**40)]
    tensors = {}
    for name, tensor in _state().items():
        shape = tuple(_pick(rng, huge) if rng.random() < 0.5 else n for n in tensor.shape)
        stride = tuple(int(_pick(rng, [0, 0, 1, -1, 2**40, n])) for n in shape)
        kind = _pick(rng, ["FloatStorage", "FloatStorage", "ByteStorage", "QInt8Storage", "UntypedStorage", "XStorage"])
        key = _pick(rng, ["0", "0", "0", "1", "../data.pkl", "", "\x00"])
        tensors[name] = _tensor(shape, stride, n=_pick(rng, huge), offset=_pick(rng, huge), key=key, kind=kind)
    path.write_bytes(_archive(_state_pickle(tensors), bytes(int(_pick(rng, [0, 3, 64, 10**5])))))


def one_claim(rng, path):
    """All tensors are good, but one that nobody asks for."""
    tensor = _tensor(*_pick(rng, [((10**10,), (1,)), ((10**10,), (0,)), ((2**40, 2**20), (1, 1))]), n=16)
    good = _tensor((1,), (1,), n=16)
    path.write_bytes(_archive(_pickle(b"}(" + _text("a") + good + _text("optimizer") + b"]" + tensor + b"au")))


def growing_tuples(rng, path):
    """Each holds the one before twice; as the key of a dictionary, or only there."""
    depth = int(_pick(rng, [3, 25, 60, 500]))
    tuples = b")q\x00" + b"".join(
        b"h" + bytes([i % 256]) + b"h" + bytes([i % 256]) + b"\x86q" + bytes([(i + 1) % 256]) for i in range(depth)
    )
    path.write_bytes(_archive(_pickle(_pick(rng, [b"}" + tuples + b"Ns", b"]" + tuples + b"a", tuples]))))


def deep(rng, path):
    n = int(_pick(rng, [100, 5000, 80_000, 200_000]))
    opening, closing = _pick(rng, [(b"]", b"a"), (b"(", b"t"), (b"}N", b"s"), (b"(", b"l"), (b"N" + b"\x85", b"")])
    if closing:
        instructions = opening * n + b"N" + closing * n
    else:
        instructions = b"N" + b"\x85" * n
    keyed = b"}" + instructions + b"Ns"
    path.write_bytes(_archive(_pickle(_pick(rng, [instructions, keyed]))))


def colliding_keys(rng, path):
    """Whole numbers of one hash: each is compared with all before."""
    n = int(_pick(rng, [100, 15_000, 100_000]))
    keys = b"".join(_number((i + 1) * (2**61 - 1)) + b"N" for i in range(n))
    path.write_bytes(_archive(_pickle(b"}(" + keys + b"u")))


def shadowed_methods(rng, path):
    """A dictionary of attributes with the names of its methods."""
    names = ["get", "items", "keys", "values", "__class__", "__iter__", "copy", "_metadata"]
    attributes = b"}(" + b"".join(_text(name) + _pick(rng, [b"N", b"K\x01", b"]"]) for name in names) + b"u"
    kind = _pick(rng, [b"ccollections\nOrderedDict\n)R", b"ccollections\nCounter\n)R"])
    item = _text("conv1.bias") + _tensor((2,), (1,), n=16)
    stored = kind + item + b"s" + attributes + b"b"
    path.write_bytes(_archive(_pickle(_pick(rng, [stored, b"}" + _text("model_state_dict") + stored + b"s"]))))


def instructions(rng, path):
    """What no program writes."""
    parts = [
        b"(", b")", b"]", b"}", b"N", b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"t", b"R", b"b", b"Q", b"\x81", b"\x85",
        b"\x86", b"\x87", b"h\x00", b"q\x00", b"j\xff\xff\xff\xff", b"r\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"K\x01",
        b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x8f", b"\x90",
        b"I999999\n", b"F1e999\n", b"L" + b"9" * 5000 + b"L\n", b"\x95" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"S'a'\n",
        b"V\\ud800\n", b"ios\nsystem\n", b"\x93", b"\x94", b"\x82\x01", b"P1\n", b"ctorch._utils\n_rebuild_parameter\n",
        b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x80\x63", b".", _tensor((4,), (1,), n=16), _text("storage"),
    ]  # fmt: skip
    path.write_bytes(_archive(_pickle(b"".join(_pick(rng, parts) for _ in range(rng.integers(1, 60))))))


def long_pickle(rng, path):
    n = int(_pick(rng, [1000, 200_000, 5_000_000]))
    path.write_bytes(_archive(_pickle(_pick(rng, [b"]" + b"Na" * n, _text("A" * n), b"N0" * n + b"N"]))))


def rebuilt(rng, path):
    """Calls that are allowed, with other arguments."""
    call = _pick(
        rng, [b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n", b"ctorch._utils\n_rebuild_parameter\n"]
    )
    arguments = _pick(
        rng,
        [
            _tuple(10**9), b"(" + _text("A" * 100_000) + b"t", b"(NNNt", b"(}}}t", b"(" + _tensor((4,), (1,), n=16) + b"\x89Nt",
            b"](N" + b"e\x85", b"((K\x01K\x02ttt",
        ],
    )  # fmt: skip
    state = _pick(
        rng, [b"", b"}b", b"(NNNNtb", _tuple(1, 2) + b"b", b"Nb", b"(" + _tensor((4,), (0,), n=16) + b"NNNNtb"]
    )
    path.write_bytes(_archive(_pickle(call + arguments + b"R" + state)))


# The archive


def _good() -> dict[str, bytes]:
    content = io.BytesIO()
    torch.save(_state(), content)
    with zipfile.ZipFile(content) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@functools.cache
def _bomb(n_bytes: int) -> bytes:
    """Return zeros, deflated."""
    deflate, chunk = zlib.compressobj(1, wbits=-15), bytes(1 << 20)
    return b"".join(deflate.compress(chunk) for _ in range(n_bytes >> 20)) + deflate.flush()


def compressed(rng, path):
    method = _pick(rng, [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    path.write_bytes(_zip(_good(), method))


def bomb(rng, path):
    """A megabyte that becomes two gigabytes, in the pickle or beside it."""
    n_bytes = 1 << 31
    data, name = _bomb(n_bytes), _pick(rng, [b"a/data.pkl", b"a/data/0", b"a/version", b"a/byteorder"])
    fields = struct.pack("<HHHHHIIIHH", 20, 0, _pick(rng, [8, 8, 0]), 0, 0, 0, len(data), n_bytes, len(name), 0)
    local = b"PK\x03\x04" + fields + name + data
    central = b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def overlapping(rng, path):
    """Ten thousand members, all of them the same megabyte."""
    data, n = bytes(1 << 20), int(_pick(rng, [2, 5000, 60_000]))
    names = [b"a/data.pkl", *(b"a/data/%d" % i for i in range(n - 1))]
    fields = [struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, len(data), len(data), len(name), 0) for name in names]
    local = b"PK\x03\x04" + fields[0] + names[0] + data
    central = b"".join(
        b"PK\x01\x02" + struct.pack("<H", 20) + field + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
        for field, name in zip(fields, names, strict=True)
    )
    path.write_bytes(local + central + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, n, n, len(central), len(local), 0))


def many_members(rng, path):
    n = int(_pick(rng, [100, 5000, 30_000]))
    path.write_bytes(_zip({"a/data.pkl": _pickle("N")} | {f"a/data/{i}": b"" for i in range(n)}))


def other_members(rng, path):
    members = _good()
    name = _pick(rng, list(members))
    kind = rng.integers(5)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = b""
    elif kind == 2:
        members[name] = bytes(10**7)
    elif kind == 3:
        members[_pick(rng, ["../x", "/etc/x", "a" * 60_000, "\x01", "b/data.pkl", "data.pkl"])] = members.pop(name)
    else:
        members[next(key for key in members if key.endswith("byteorder"))] = _pick(rng, [b"big", b"", b"x" * 1000])
    path.write_bytes(_zip(members))


def around(rng, path):
    """Something in front of the archive, or behind it."""
    content = _zip(_good())
    path.write_bytes(
        _pick(
            rng,
            [
                b"#!/bin/sh\n" + content,
                content + b"\n" * 100,
                content + content,
                bytes(70000) + content,
                content[:-22] * 2,
                content[:-2] + b"\x05\x00abcde",
                content + content[-22:],
            ],
        )
    )


def great_file(rng, path):
    """Without taking room on the disk."""
    saved(rng, path)
    os.truncate(path, int(_pick(rng, [2**31, 2**33, 2**40])))


# No file of torch at all


def other_file(rng, path):
    contents = [
        b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"version https://git-lfs.github.com/spec/v1\n", b"<html>" * 100,
        rng.bytes(3000), b"\x80\x02}.", b"\x93NUMPY", b"\x89HDF\r\n", b"ustar" * 200, b"PK\x05\x06" + b"\xff" * 18,
        b"PK\x06\x06" + bytes(52) + b"PK\x06\x07" + bytes(16) + b"PK\x05\x06" + b"\xff" * 16 + b"\0\0", b"\n" * 10**6,
    ]  # fmt: skip
    path.write_bytes(_pick(rng, contents))


def special(rng, path):
    kind = rng.integers(4)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(_pick(rng, ["/dev/zero", "/dev/stdin", "/dev/full", "/proc/self/mem", path.name, "nowhere"]))


CHANGES: list[Callable[..., None]] = [
    saved, other_tensors, other_tensors, repeated_tensors, other_names, other_settings, other_settings, other_objects,
    old_format, torch_script, code, code, claims, claims, one_claim, growing_tuples, deep, colliding_keys,
    shadowed_methods, instructions, instructions, long_pickle, rebuilt, compressed, bomb, overlapping, many_members,
    other_members, around, great_file, other_file, special,
]  # fmt: skip
