"""The authors' file, with random parameters, from disk and over HTTP: what is read, refused, continued and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

import sagefm
from sagefm.data._genes import Vocabulary, published_vocabulary
from sagefm.errors import CheckpointError, ModelNotFoundError, OutputExistsError
from sagefm.model import SAGEFM, load_checkpoint, load_published
from sagefm.model import _published as published
from sagefm.module._config import PUBLISHED_HIDDEN, NetworkConfig
from sagefm.module._network import PublishedNetwork

HIDDEN = (128, 64, 64, 64, 128)
CHUNK = 1 << 16


def make_network(n_genes: int, hidden: tuple[int, ...] = HIDDEN, *, seed: int = 0) -> PublishedNetwork:
    torch.manual_seed(seed)
    network = PublishedNetwork(NetworkConfig("published", n_genes, hidden, "mse"))
    for parameter in network.parameters():
        if parameter.ndim == 1:  # biases are zero at first and would hide a mistake
            torch.nn.init.normal_(parameter, std=0.05)
    return network


def make_dictionary(network: PublishedNetwork) -> dict[str, object]:
    """What the authors' training script saves, after one step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-5, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=10, factor=0.9)
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()
    return {
        "model_state_dict": network.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
        "epoch": 126,
        "best_val_loss": 0.125,
        "hidden_channels": list(network.config.hidden),
        "learning_rate": 5e-5,
        "weight_decay": 1e-4,
        "mask_percentage": 0.3,
        "batch_size": 64,
    }


def same_bits(checkpoint, network: torch.nn.Module) -> bool:
    found, expected = checkpoint.network.state_dict(), network.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGEFM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def genes(section, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A vocabulary of 300 genes in place of the published one."""
    symbols = tuple(section.var_names)
    monkeypatch.setattr(published, "published_vocabulary", lambda: Vocabulary(symbols))
    return symbols


@pytest.fixture
def network(genes) -> PublishedNetwork:
    return make_network(len(genes))


@pytest.fixture
def file(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The authors' file, whose hash and size are those of the record."""
    path = tmp_path / "authors.pt"
    torch.save(make_dictionary(network), path)
    content = path.read_bytes()
    record = replace(
        published.PUBLISHED,
        # Discard: a port where nobody answers.
        url="http://127.0.0.1:9/authors.pt",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    monkeypatch.setattr(published, "PUBLISHED", record)
    return path


class Server(ThreadingHTTPServer):
    """Serves `content`; counts requests and bytes.

    Attributes: `ranges` understands Range; `drop` pieces of 64 KiB after which the next connections are cut, one number
    a connection; `shift` bytes by which ranges begin late; `pause` seconds between pieces; `length` tells the length; `status` answered instead of the file.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.ranges, self.length, self.status, self.pause = True, True, 200, 0.0
        self.shift = 0
        self.drop: list[int] = []
        self.requests: list[str | None] = []
        self.sent = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        size = len(server.content)
        if start >= size:
            self.send_error(416)
            return
        start += server.shift if start else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.length:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        pieces = server.drop.pop(0) if server.drop else None
        for i, begin in enumerate(range(start, size, CHUNK)):
            if i == pieces:
                break
            try:
                self.wfile.write(server.content[begin : begin + CHUNK])
            except OSError:
                break
            server.sent += len(server.content[begin : begin + CHUNK])
            time.sleep(server.pause)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The file at the record's address."""
    with Server(file.read_bytes()) as running:
        monkeypatch.setattr(
            published,
            "PUBLISHED",
            replace(published.PUBLISHED, url=f"http://127.0.0.1:{running.server_port}/authors.pt"),
        )
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def part_of(cache: Path) -> Path:
    return cache / "published" / f"{published.PUBLISHED.sha256}.pt.part"


def kept(cache: Path) -> list[str]:
    """Names in the cache without lock files."""
    return sorted(path.name for path in (cache / "published").iterdir() if path.suffix != ".lock")


# Reading


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


@pytest.mark.parametrize("zipped", [True, False])
def test_parameters_alone(zipped, network, tmp_path):
    path = tmp_path / "state.pt"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
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


@pytest.mark.slow
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
    counts = synovium.to_df().reindex(columns=vocabulary.symbols, fill_value=0).to_numpy(np.float32)
    spots = np.array([0, 100, 300])
    expected = expected_embedding(network, counts, synovium.obsp["sagefm_connectivities"], spots)
    assert np.abs(synovium.obsm["X_sagefm"][spots] - expected).max() < 1e-5 * np.abs(expected).max()


# Downloading


def test_download(server, network, cache, caplog):
    size = len(server.content)
    checkpoint = load_published()
    assert same_bits(checkpoint, network)
    assert checkpoint.name == "published"
    assert server.requests == [None]
    assert server.sent == size
    assert [record.levelno for record in caplog.records if record.name.startswith("sagefm")] == [logging.WARNING]
    assert "no license" in caplog.text
    assert "not to be redistributed" in caplog.text
    assert kept(cache) == [published.PUBLISHED.sha256]
    caplog.clear()
    server.status = 500
    assert same_bits(load_published(), network)
    assert len(server.requests) == 1
    assert not caplog.records


def test_lost_connections_are_taken_up_again(server, network):
    server.drop = [3, 2, 1]
    assert same_bits(load_published(), network)
    assert server.requests == [None, *(f"bytes={n * CHUNK}-" for n in (3, 5, 6))]
    assert server.sent == len(server.content), "no byte was sent twice"


def test_next_call_continues(server, network, cache):
    server.drop = [4, 0]
    with pytest.raises(CheckpointError, match=r"262,144 of [\d,]+ bytes are kept; call again to continue"):
        load_published()
    assert part_of(cache).stat().st_size == 4 * CHUNK
    assert kept(cache) == [part_of(cache).name]
    assert same_bits(load_published(), network)
    assert server.requests[-1] == f"bytes={4 * CHUNK}-"
    assert server.sent == len(server.content)
    assert kept(cache) == [published.PUBLISHED.sha256]


def test_server_without_ranges(server, network, cache):
    server.ranges, server.drop = False, [4, 2]
    with pytest.raises(CheckpointError, match="call again"):
        load_published()
    assert same_bits(load_published(), network)
    assert server.requests[0] is None
    assert server.requests[-1] is not None
    assert server.sent == 6 * CHUNK + len(server.content)


def test_server_without_lengths(server, network, cache):
    """A cut connection looks like the end of the file; its size tells."""
    server.length, server.drop = False, [2, 0]
    with pytest.raises(CheckpointError, match=r"131,072 of [\d,]+ bytes are kept"):
        load_published()
    assert kept(cache) == [part_of(cache).name]
    server.drop = [2]
    assert same_bits(load_published(), network)
    assert server.requests == [None, *(f"bytes={n * CHUNK}-" for n in (2, 2, 4))]
    assert server.sent == len(server.content)


@pytest.mark.parametrize("extra", [0, 7])
def test_partial_file_that_is_complete_or_too_long(extra, server, network, cache):
    part_of(cache).parent.mkdir(parents=True)
    part_of(cache).write_bytes(server.content + b"x" * extra)
    assert same_bits(load_published(), network)
    assert server.requests == ([None] if extra else [])


def test_partial_file_of_something_else(server, network, cache):
    part_of(cache).parent.mkdir(parents=True)
    part_of(cache).write_bytes(b"x" * CHUNK)
    with pytest.raises(CheckpointError, match=published.PUBLISHED.sha256):
        load_published()
    assert kept(cache) == []
    assert same_bits(load_published(), network)


def test_server_that_sends_another_range(server, network, cache):
    server.drop, server.shift = [2], 5
    with pytest.raises(CheckpointError, match="are kept"):
        load_published()
    assert part_of(cache).read_bytes() == server.content[: 2 * CHUNK]
    server.shift = 0
    assert same_bits(load_published(), network)


def test_wrong_hash(server, cache):
    server.content = server.content[:-1] + bytes([server.content[-1] ^ 1])
    with pytest.raises(CheckpointError, match="another file than the published one") as raised:
        load_published()
    assert published.PUBLISHED.sha256 in str(raised.value)
    assert hashlib.sha256(server.content).hexdigest() in str(raised.value)
    assert kept(cache) == []


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("change", [-100, 100])
def test_wrong_size(change, length, server, cache):
    size = len(server.content)
    server.length = length
    server.content = (server.content + b"x" * 100)[: size + change]
    with pytest.raises(CheckpointError, match=f"{size:,}"):
        load_published()
    assert not (cache / "published" / published.PUBLISHED.sha256).exists()
    # The next call is not led astray by what is left of this one.
    server.content = (cache.parent / "authors.pt").read_bytes()
    server.length = True
    if change < 0 or length:
        load_published()


def test_no_network(file, network, cache, section, rejects):
    record = published.PUBLISHED
    words = ("ConnectionError", record.url, record.sha256, f"{record.size_bytes:,}", "load_published('FILE.pt')")
    rejects(CheckpointError, section, lambda: sagefm.tl.embed(section, model="published"), *words)
    # The steps that the message gives.
    assert same_bits(load_published(file), network)
    sagefm.tl.embed(section, model="published")


@pytest.mark.parametrize("status", [404, 416, 503])
def test_server_refuses(status, server, cache):
    server.status = status
    part_of(cache).parent.mkdir(parents=True)
    part_of(cache).write_bytes(server.content[:CHUNK])
    with pytest.raises(CheckpointError, match=r"By hand: \(1\)") as raised:
        load_published()
    assert ("fewer" if status == 416 else f"answered {status}") in str(raised.value)
    server.status = 200
    load_published()


SCRIPT = """
import json, sys
from dataclasses import replace
from sagefm.data._genes import Vocabulary
from sagefm.model import _published as published
spec = json.loads(sys.argv[1])
published.PUBLISHED = replace(published.PUBLISHED, **spec["record"])
published.published_vocabulary = lambda: Vocabulary(tuple(spec["genes"]))
sys.stdout.write(published.load_published(progress=False).sha256)
"""


def start(genes: tuple[str, ...]) -> subprocess.Popen[str]:
    record = {name: getattr(published.PUBLISHED, name) for name in ("url", "sha256", "size_bytes")}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps({"record": record, "genes": genes})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_at_once(server, network, genes, cache):
    server.pause = 0.1
    running = [start(genes) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == load_published().sha256
    assert server.sent == len(server.content), "one downloads, the other waits"
    assert same_bits(load_published(), network)


@pytest.mark.slow
def test_killed_process(server, network, genes, cache):
    server.pause = 0.2
    process = start(genes)
    deadline = time.monotonic() + 60
    while not (part_of(cache).exists() and part_of(cache).stat().st_size >= 2 * CHUNK) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    held = part_of(cache).stat().st_size
    assert 2 * CHUNK <= held < len(server.content)
    server.pause = 0
    assert same_bits(load_published(), network)
    assert server.requests == [None, f"bytes={held}-"]


# The cache


def test_another_process_was_first(file, network, tmp_path):
    checkpoint = published.read_published(file, sha256="")
    for _ in range(2):
        published._store(checkpoint, tmp_path / "folder")
    assert same_bits(load_checkpoint(tmp_path / "folder"), network)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["folder"]


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
    import pooch

    monkeypatch.delenv("SAGEFM_CACHE_DIR")
    assert published.cache_folder() == pooch.os_cache("sagefm")
    monkeypatch.setenv("SAGEFM_CACHE_DIR", "~/elsewhere")
    assert published.cache_folder() == Path.home() / "elsewhere"


def test_imports_are_late():
    code = "import sys, sagefm.model._pretrained; assert not {'pooch', 'requests'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# Files that are refused


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
    if kind != "pickle 5":  # torch gives up before it has seen a name
        assert "sagefm never runs code from a file" in str(raised.value)
        assert "mkdir" in str(raised.value)
    assert not marker.exists()
    # The file does run code where it is let.
    if kind == "zip":
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_whole_module(network, tmp_path):
    torch.save(network, tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"needs code to load .*PublishedNetwork.*model.state_dict\(\)"):
        load_published(tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is no file of torch.save", id="empty"),
        pytest.param(b"hello world\n" * 9, "is no file of torch.save", id="text"),
        pytest.param(b"<html>Not Found</html>", "is no file of torch.save", id="page"),
        pytest.param(b"\x93NUMPY\x01\x00" + b"\0" * 200, "is no file of torch.save", id="numpy"),
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
        pytest.param(state_with(conv3__bias=None), ["missing ['conv3.bias']"], id="missing"),
        pytest.param(state_with(conv6__bias=torch.ones(3)), ["unknown ['conv6.bias']"], id="unknown"),
        pytest.param(
            state_with(conv2__lin__weight=torch.ones(128, 64)),
            ["conv2.lin.weight", "(128, 64)", "(64, 128)"],
            id="shape",
        ),
        pytest.param(state_with(conv4__bias=torch.ones(63)), ["conv4.bias", "(63,)", "(64,)"], id="bias"),
        pytest.param(state_with(fc_gene__bias=torch.ones(299)), ["fc_gene.bias", "(299,)", "(300,)"], id="read-out"),
        pytest.param(state_with(conv1__lin__weight=torch.ones(128, 280)), ["280 genes", "300"], id="genes"),
        pytest.param(state_with(conv1__lin__weight=torch.tensor(1.0)), ["genes", "300"], id="scalar"),
        pytest.param(state_with(conv1__bias=torch.ones(128).half()), ["conv1.bias", "float16", "float32"], id="half"),
        pytest.param(
            state_with(conv1__bias=torch.ones(128).to_sparse()), ["conv1.bias", "sparse", "dense"], id="sparse"
        ),
        pytest.param(state_with(conv1__bias=torch.full((128,), torch.nan)), ["conv1.bias", "NaN"], id="NaN"),
        pytest.param(state_with(conv1__bias="text"), ["model_state_dict", "by name"], id="text"),
        pytest.param(lambda s: {**s, "model_state_dict": [1]}, ["model_state_dict", "by name"], id="list of numbers"),
        pytest.param(lambda s: {**s, "model_state_dict": {}}, ["model_state_dict", "by name"], id="no parameters"),
        pytest.param(lambda s: {**s, "hidden_channels": [128, 64, 64, 64, 99]}, ["(128, 64)", "(99, 64)"], id="widths"),
        pytest.param(lambda s: {**s, "hidden_channels": [128, 64]}, ["hidden_channels", "5 widths"], id="two widths"),
        pytest.param(lambda s: {**s, "hidden_channels": "x"}, ["hidden_channels", "5 widths"], id="no widths"),
        pytest.param(lambda s: {**s, "in_channels": 1280}, ["in_channels", "1,280 genes", "300"], id="in_channels"),
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
