"""Models by their name on the Hugging Face Hub: a real client, and a server on loopback."""

from __future__ import annotations

import inspect
import re
import sys

import numpy as np
import pytest
from anndata import read_h5ad
from huggingface_hub import hf_hub_download

import sagefm
from sagefm.checkpoint._config_file import MAX_CONFIG_BYTES
from sagefm.checkpoint._hub import push_to_hub
from sagefm.checkpoint._resolve import resolve_model
from sagefm.errors import ArgumentError, CheckpointError, ModelNotFoundError
from sagefm.model import SAGEFM, load_checkpoint
from tests import OTHER_KERNELS


def expect(found: list[list[str]], calls: dict[str, list[str]]) -> None:
    """Check type and words of what came of each call."""
    for (call, words), (kind, text) in zip(calls.items(), found, strict=True):
        assert kind == words[0], (call, text)
        assert not [word for word in words[1:] if word not in text], (call, text)


def test_a_name_is_downloaded_once(hub, shared, at_hub, section, folders, tmp_path):
    """The second time there may be no network: HF_HUB_OFFLINE is set, or the Hub does not answer."""
    sagefm.tl.embed(section, folders["default"])
    expected = section.obsm["X_sagefm"]
    section.write_h5ad(tmp_path / "section.h5ad")
    name = f"lab/model@{shared}"
    embed = f"embed({str(tmp_path / 'section.h5ad')!r}, 'lab/model')"
    expect(at_hub(embed), {embed: ["str", name]})
    written = read_h5ad(tmp_path / "section.h5ad")
    np.testing.assert_allclose(written.obsm["X_sagefm"], expected, **OTHER_KERNELS)
    assert written.uns["sagefm"]["X_sagefm"]["checkpoint_sha256"] == load_checkpoint(folders["default"]).sha256
    files = [request.split("/")[-1] for request in hub.requests if re.match("GET .*/resolve/", request)]
    assert files == ["config.json", "model.safetensors"]

    hub.requests.clear()
    calls = {
        embed: ["str", name],
        # What results record is a name, too.
        f"resolve_model('{name}')": ["Checkpoint", name],
    }
    expect(at_hub(*calls, HF_ENDPOINT="http://127.0.0.1:9"), calls)
    calls["resolve_model('lab/new')"] = ["ModelNotFoundError", "'lab/new', nor a copy", "HF_HUB_OFFLINE"]
    expect(at_hub(*calls, HF_HUB_OFFLINE="1"), calls)
    np.testing.assert_array_equal(read_h5ad(tmp_path / "section.h5ad").obsm["X_sagefm"], written.obsm["X_sagefm"])
    assert not hub.requests


def test_revisions_hashes_and_what_is_not_there(hub, shared, at_hub, folders):
    newer = hub.commit("lab/model", {p.name: p.read_bytes() for p in folders["published"].iterdir()})
    hub.tags["v1"] = shared
    hub.commit("lab/other", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights"})
    hub.commit("lab/text", {"README.md": b"text"})
    old, new = (load_checkpoint(folders[name]).sha256 for name in ("default", "published"))
    calls = {
        "resolve_model('lab/model')": ["Checkpoint", f"lab/model@{newer}"],
        "resolve_model('lab/model@v1')": ["Checkpoint", f"lab/model@{shared}"],
        f"resolve_model('lab/model@{shared}')": ["Checkpoint", f"lab/model@{shared}"],
        "pretrained('lab/model', revision='v1')": ["Checkpoint", f"lab/model@{shared}"],
        f"pretrained('lab/model@v1', sha256='{old.upper()}')": ["Checkpoint", f"lab/model@{shared}"],
        f"pretrained('lab/model', sha256='{old}')": ["CheckpointError", old, new, "leave out sha256="],
        "resolve_model('lab/model@v2')": ["ModelNotFoundError", "no revision 'v2' of lab/model", hub.address],
        "resolve_model('lab/nothing')": ["ModelNotFoundError", "no folder 'lab/nothing'", hub.address, "hf auth login"],
        "resolve_model('lab--x/model')": ["ModelNotFoundError", "no folder 'lab--x/model'"],
        "resolve_model('lab/other')": ["CheckpointError", "config.json is not what SAGEFM.save", "lab/other@"],
        "resolve_model('lab/text')": ["CheckpointError", "lab/text of", "is no checkpoint", "config.json"],
    }
    expect(at_hub(*calls), calls)


def test_wrong_parameters(hub, shared, at_hub, folders, tmp_path):
    """Others than config.json names, on the Hub; damaged in the cache, which is repaired as the message says."""
    sha256 = load_checkpoint(folders["default"]).sha256
    weights = (folders["default"] / "model.safetensors").read_bytes()
    damaged = hub.commit("lab/damaged", {**hub.repositories["lab/model"][0][1], "model.safetensors": flip(weights)})
    (tmp_path / "damaged").write_bytes(flip(weights))
    kept = tmp_path / "hf" / "hub" / "models--lab--model"
    blob = f"next(Path({str(kept)!r}).glob('snapshots/*/model.safetensors')).resolve()"
    wrong = ["is not the file that config.json was written with", f"expected {sha256}"]
    calls = {
        "resolve_model('lab/damaged')": ["CheckpointError", *wrong, f"lab/damaged@{damaged}"],
        "resolve_model('lab/model')": ["Checkpoint", shared],
        f"{blob}.write_bytes(Path({str(tmp_path / 'damaged')!r}).read_bytes())": ["int"],
        "resolve_model('lab/model') ": ["CheckpointError", *wrong, f"delete {kept} and call again"],
        f"shutil.rmtree({str(kept)!r})": ["NoneType"],
        "resolve_model('lab/model')  ": ["Checkpoint", shared],
    }
    expect(at_hub(*calls), calls)


def flip(content: bytes) -> bytes:
    """Change the last bit, of a parameter: the file can be read."""
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_file_that_is_too_large_is_not_downloaded(hub, shared, at_hub, tmp_path):
    hub.commit("lab/config", {"config.json": bytes(MAX_CONFIG_BYTES + 1), "model.safetensors": b"weights"})
    hub.commit("lab/weights", {**hub.repositories["lab/model"][0][1], "model.safetensors": bytes(10_000_000)})
    calls = {
        "resolve_model('lab/config')": ["CheckpointError", "config.json of lab/config", "more than 16,777,216 bytes"],
        "resolve_model('lab/weights')": ["CheckpointError", "model.safetensors of lab/weights", "more than"],
    }
    expect(at_hub(*calls), calls)
    assert sizes(tmp_path / "hf") < 100_000


@pytest.mark.skipif(
    "tqdm_class" not in inspect.signature(hf_hub_download).parameters, reason="believes what is said of a size"
)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_server_that_never_ends_does_not_fill_the_disk(file, hub, shared, at_hub, tmp_path):
    hub.endless = file
    calls = {"resolve_model('lab/model')": ["CheckpointError", f"{file} of lab/model", "more than"]}
    expect(at_hub(*calls), calls)
    assert sizes(tmp_path / "hf") < 100_000


def sizes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_folder_comes_first(folders, tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "model").symlink_to(folders["default"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert resolve_model("lab/model").name == "lab/model"


def test_without_huggingface_hub(default, section, rejects, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    install = 'pip install "sagefm[hub]"'
    rejects(ModelNotFoundError, section, lambda: sagefm.tl.embed(section, "lab/model"), "'lab/model'", install)
    with pytest.raises(CheckpointError, match=re.escape(install)):
        push_to_hub(default, "lab/model")


@pytest.mark.parametrize(
    "name", ["./lab/model", "../lab/model", "/lab/model", "lab", "lab/model/", "a/b/c", "lab/a@b@c"]
)
def test_paths_are_never_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelNotFoundError, match="neither a folder, nor 'published', nor one of the bundled models"):
        resolve_model(name)


def test_pins_of_other_models(default, folders):
    assert resolve_model(default, sha256=default.sha256) is default
    with pytest.raises(CheckpointError, match=default.sha256):
        SAGEFM.from_pretrained(folders["default"], sha256="0" * 64)
    for model in ("default", default, folders["default"]):
        with pytest.raises(ArgumentError, match=r"revision='v1'.*'organization/name'"):
            SAGEFM.from_pretrained(model, revision="v1")
