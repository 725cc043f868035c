"""What is killed: long work of a user's, what was there before it, and how its outputs are read."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr

import sagefm
from sagefm._replacing import left_aside
from sagefm.checkpoint._checkpoint import save_checkpoint
from sagefm.checkpoint._download import fetch, writing
from sagefm.cli import main
from sagefm.model import load_checkpoint
from sagefm.training._resume import _read_state

#: Size of the file that is downloaded, in pieces that take a while.
SIZE, PIECE, PAUSE = 1_000_000, 1 << 15, 0.02
TRAINING = ["--epochs", "6", "--hidden", "16,8", "--batch-size", "64", "--device", "cpu", "--state-file", "state"]
#: Hashes of outputs by their names; those that are not there are left out.
Contents = dict[str, str]


@dataclass(frozen=True)
class Job:
    """Work in a folder: what it is, what is there before, and the outputs, read whole or raised for.

    A command says that it was stopped, and leaves nothing half-written; in Python, SIGTERM ends the process at once.
    """

    name: str
    run: Callable[[Path], None]
    before: Callable[[Path], None]
    contents: Callable[[Path], Contents]
    is_command: bool = True


def make_inputs(folder: Path) -> None:
    """Write sections and two models."""
    (folder / "sections").mkdir()
    for i in range(4):
        sagefm.datasets.simulate(80, n_genes=200, rng=i).write_h5ad(folder / "sections" / f"s{i}.h5ad")
    (folder / "recipe.json").write_text(json.dumps({"hidden": [16, 8], "batch_size": 64, "max_epochs": 6}))
    section = ad.read_h5ad(folder / "sections" / "s0.h5ad")
    sagefm.model.SAGEFM.setup_anndata(section)
    for name, seed in (("old", 0), ("other", 1)):
        model = sagefm.model.SAGEFM(section, hidden=(16, 8), rng=seed)
        model.train(max_epochs=1, accelerator="cpu", progress=False)
        model.save(folder / name)


def jobs(inputs: Path, address: str) -> list[Job]:
    """Return the jobs; `inputs` is the folder of :func:`make_inputs`, `address` that of :func:`serve`."""
    sections, model = inputs / "sections", inputs / "old"
    first = str(sections / "s0.h5ad")

    def command(*arguments: object) -> Callable[[Path], None]:
        def run(folder: Path) -> None:
            os.chdir(folder)
            main([str(argument) for argument in arguments])

        return run

    def old_model(folder: Path) -> None:
        save_checkpoint(load_checkpoint(model), folder / "out" / "model")

    def old_section(name: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            (folder / "out").mkdir()
            old = ad.read_h5ad(first)
            old.obsm["X_sagefm"] = np.zeros((len(old), 2), np.float32)
            old.write_zarr(folder / name) if name.endswith("zarr") else old.write_h5ad(folder / name)

        return write

    def nothing(folder: Path) -> None:
        (folder / "out").mkdir()

    def save(folder: Path) -> None:
        both = [load_checkpoint(inputs / name) for name in ("old", "other")]
        for i in range(1, 24):
            save_checkpoint(both[i % 2], folder / "out" / "model", overwrite=True)

    def impute(folder: Path) -> None:
        out = folder / "out" / "imputed.zarr"
        if not out.exists():
            sagefm.tl.impute(ad.read_h5ad(first), model, out=out, progress=False, batch_size=16, device="cpu")

    def download(folder: Path) -> None:
        target = folder / "out" / "file"
        with writing(target):
            fetch(address, target, sha256=_sha256(content()), size=SIZE, progress=False)

    embed = ["embed", first, "-m", model, "--device", "cpu", "--overwrite", "-o"]
    network = ["network", first, "--device", "cpu", "--overwrite", "-o", "out/network.h5ad", "--table", "out/edges.csv"]
    trained, pretrained = ["-o", "out/model", "--overwrite"], ["--config", inputs / "recipe.json", *TRAINING[6:]]
    batch = ["embed", *sorted(sections.iterdir()), "-m", model, "--device", "cpu", "-o", "out", "--skip-existing"]
    return [
        Job("train", command("train", first, *trained, *TRAINING), old_model, _model_and_state),
        Job("pretrain", command("pretrain", sections, *trained, *pretrained), old_model, _model_and_state),
        Job("save", save, old_model, _model, is_command=False),
        Job("embed", command(*embed, "out/s.h5ad"), old_section("out/s.h5ad"), _tables),
        Job("embed zarr", command(*embed, "out/s.zarr"), old_section("out/s.zarr"), _tables),
        Job("impute(out=)", impute, nothing, _array, is_command=False),
        Job("network", command(*network), old_section("out/network.h5ad"), _tables),
        Job("download", download, nothing, _file, is_command=False),
        Job("batch", command(*batch), nothing, _tables),
    ]


# Outputs


def _model(folder: Path) -> Contents:
    path = folder / "out" / "model"
    if not path.exists() and (kept := left_aside(path)):
        return {"model": load_checkpoint(kept[0]).sha256, "aside": "yes"}
    return {"model": load_checkpoint(path).sha256}


def _model_and_state(folder: Path) -> Contents:
    if (folder / "state").exists():
        _read_state(folder / "state")
    return _model(folder)


def _tables(folder: Path) -> Contents:
    """Sections and tables of edges."""
    hashes = {}
    for path in (folder / "out").iterdir():
        if path.name.startswith("."):
            continue
        if path.suffix == ".csv":
            hashes[path.name] = _sha256(pd.read_csv(path).to_csv().encode())
            continue
        table = ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)
        edges = table.uns["sagefm_network"]["edges"].to_csv() if "sagefm_network" in table.uns else ""
        values = np.ascontiguousarray(table.obsm.get("X_sagefm", np.zeros(0)))
        hashes[path.name] = _sha256(values.tobytes() + edges.encode() + table.X.toarray().tobytes())
    for path in (folder / "out" / "s.zarr",):
        if not path.exists() and (kept := left_aside(path)):
            table = ad.read_zarr(kept[0])
            hashes |= {
                path.name: _sha256(table.obsm["X_sagefm"].tobytes() + table.X.toarray().tobytes()),
                "aside": "yes",
            }
    return hashes


def _array(folder: Path) -> Contents:
    path = folder / "out" / "imputed.zarr"
    return {path.name: _sha256(np.asarray(zarr.open(str(path), mode="r")[:]).tobytes())} if path.exists() else {}


def _file(folder: Path) -> Contents:
    path = folder / "out" / "file"
    return {path.name: _sha256(path.read_bytes())} if path.exists() else {}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The server


def content() -> bytes:
    """Return the file that is downloaded."""
    return np.random.default_rng(0).bytes(SIZE)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        data, wanted = content(), self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{SIZE - 1}/{SIZE}")
        self.send_header("Content-Length", str(SIZE - start))
        self.end_headers()
        for begin in range(start, SIZE, PIECE):
            try:
                self.wfile.write(data[begin : begin + PIECE])
            except OSError:
                return
            time.sleep(PAUSE)

    def log_message(self, *_: object) -> None:
        pass


def make_server() -> ThreadingHTTPServer:
    """Return a server of the file on loopback; it answers when it is told to."""
    return ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
