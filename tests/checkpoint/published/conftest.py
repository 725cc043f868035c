"""The authors' file with random parameters, and a server of it on loopback."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from sagefm.checkpoint import _authors as published
from sagefm.data._genes import Vocabulary
from sagefm.module._config import NetworkConfig
from sagefm.module._gcn import PublishedNetwork

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
