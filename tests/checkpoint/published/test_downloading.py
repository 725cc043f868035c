"""The authors' file over HTTP: what is verified, continued, and shared between processes."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import time

import pytest

import sagefm
from sagefm.checkpoint import _authors as published
from sagefm.errors import CheckpointError
from sagefm.model import load_published
from tests.checkpoint.published.conftest import (
    CHUNK,
    kept,
    part_of,
    same_bits,
)


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
from sagefm.checkpoint import _authors as published
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


def test_two_processes_at_once(server, network, genes, cache):
    server.pause = 0.1
    running = [start(genes) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == load_published().sha256
    assert server.sent == len(server.content), "one downloads, the other waits"
    assert same_bits(load_published(), network)


def test_killed_process(server, network, genes, cache):
    server.pause = 1
    process = start(genes)
    deadline = time.monotonic() + 600
    while not (part_of(cache).exists() and part_of(cache).stat().st_size >= 2 * CHUNK) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    held = part_of(cache).stat().st_size
    assert 2 * CHUNK <= held < len(server.content)
    server.pause = 0
    assert same_bits(load_published(), network)
    assert server.requests == [None, f"bytes={held}-"]
