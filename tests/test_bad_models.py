"""Models that are not there, folders that are no checkpoint, and paths that are taken."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import sagefm
from sagefm.checkpoint._checkpoint import save_checkpoint
from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._corpus import file_sha256
from sagefm.errors import ArgumentError, CheckpointError, ModelNotFoundError, OutputExistsError
from sagefm.model import SAGEFM, load_checkpoint

FORMATS = Path(__file__).parent / "checkpoint" / "formats"
VERBS = {
    "embed": sagefm.tl.embed,
    "impute": sagefm.tl.impute,
    "perturb": lambda adata, model: sagefm.tl.perturb(adata, model, sources=["DBI"], targets=["MVP"]),
    "match_genes": lambda adata, model: sagefm.pp.match_genes(adata, model=model),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_unknown_model(verb, section, rejects):
    rejects(ModelNotFoundError, section, lambda: verb(section, "no-such-model"), "'no-such-model'", "SAGEFM", "save")


def _remove(file):
    return lambda folder: (folder / file).unlink()


def _configure(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        network = {**config["network"], **changes.pop("network", {})}
        (folder / "config.json").write_text(json.dumps({**config, "network": network, **changes}))

    return damage


def _truncate(file, share):
    def damage(folder):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(_remove("config.json"), ["no checkpoint", "config.json"], id="no config"),
        pytest.param(_remove("model.safetensors"), ["no checkpoint", "model.safetensors"], id="no weights"),
        pytest.param(
            _truncate("model.safetensors", 0.5), ["model.safetensors", "cannot be read"], id="half the weights"
        ),
        pytest.param(_truncate("model.safetensors", 0), ["model.safetensors", "cannot be read"], id="empty weights"),
        pytest.param(_truncate("config.json", 0.5), ["config.json", "SAGEFM.save"], id="half the config"),
        pytest.param(_truncate("config.json", 0), ["config.json"], id="empty config"),
        pytest.param(lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), ["config.json"], id="binary config"),
        pytest.param(lambda f: (f / "config.json").write_text("[]"), ["config.json"], id="list"),
        pytest.param(lambda f: (f / "config.json").write_text("{}"), ["config.json"], id="empty object"),
        pytest.param(_configure(format_version=99), ["format 99", "pip install --upgrade sagefm"], id="newer"),
        pytest.param(_configure(format_version="new"), ["config.json"], id="version no number"),
        pytest.param(_configure(genes=["A", "B"]), ["2 genes", "300"], id="other genes"),
        pytest.param(_configure(genes=["A"] * 300), ["twice"], id="a gene twice"),
        pytest.param(_configure(genes=None), ["config.json"], id="null genes"),
        pytest.param(_configure(network={"hidden": [64, 16]}), ["architecture or genes"], id="other widths"),
        pytest.param(_configure(network={"hidden": []}), ["config.json"], id="no widths"),
        pytest.param(_configure(network={"hidden": ["a", "b"]}), ["config.json"], id="widths no numbers"),
        pytest.param(_configure(network={"hidden": [-3, 4]}), ["config.json"], id="negative widths"),
        pytest.param(_configure(network={"architecture": "other"}), ["config.json"], id="other architecture"),
        pytest.param(_configure(network={"likelihood": "other"}), ["config.json"], id="other likelihood"),
        pytest.param(_configure(network={"depth": 3}), ["config.json"], id="unknown field"),
    ],
)
def test_folder_that_cannot_be_read(damage, words, section, folders, tmp_path, rejects):
    folder = shutil.copytree(folders["default"], tmp_path / "model")
    damage(folder)
    rejects(CheckpointError, section, lambda: sagefm.tl.embed(section, folder), str(folder), *words)
    with pytest.raises(CheckpointError):
        SAGEFM.load(folder, section)


def test_folder_that_is_no_checkpoint(section, tmp_path, rejects):
    rejects(CheckpointError, section, lambda: sagefm.tl.embed(section, tmp_path), "no checkpoint", "config.json")
    (tmp_path / "file").write_text("")
    rejects(CheckpointError, section, lambda: sagefm.tl.embed(section, tmp_path / "file"), "no checkpoint")
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_save_where_something_is(trained, folders, tmp_path):
    model = SAGEFM.load(folders["default"])
    kept = tmp_path / "kept"
    model.save(kept)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        model.save(kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    model.save(kept, overwrite=True)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before

    # Someone's folder or file that is no checkpoint is not deleted, whatever is passed.
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("text")
    (tmp_path / "notes").write_text("text")
    for path in (tmp_path / "thesis", tmp_path / "notes"):
        with pytest.raises(OutputExistsError, match="no checkpoint"):
            model.save(path, overwrite=True)
    assert (tmp_path / "thesis" / "chapter1").read_text() == (tmp_path / "notes").read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "notes", "thesis"]


@pytest.mark.parametrize("path", ["./default", "../weights/default", "../x/default", "default/", ".", Path("default")])
def test_a_path_is_not_the_name_of_a_bundled_model(path, section, rejects, tmp_path, monkeypatch):
    """It was looked up inside the installed package."""
    monkeypatch.chdir(tmp_path)
    error = CheckpointError if path == "." else ModelNotFoundError
    rejects(error, section, lambda: sagefm.tl.embed(section, path))


def test_a_folder_called_default_is_the_users(folders, tmp_path, monkeypatch):
    shutil.copytree(folders["default"], tmp_path / "default")
    monkeypatch.chdir(tmp_path)
    bundled, sha256 = resolve_model("default"), load_checkpoint(folders["default"]).sha256
    assert bundled.name == "default"
    assert bundled.sha256 != sha256
    for path in ("./default", "default/", tmp_path / "default", Path("default")):
        assert resolve_model(path).sha256 == sha256


def test_a_link_to_a_folder_stays_a_link(folders, tmp_path):
    folder = shutil.copytree(folders["published"], tmp_path / "model")
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    saved = load_checkpoint(folders["default"])
    save_checkpoint(saved, link, overwrite=True)
    assert link.is_symlink()
    assert load_checkpoint(folder).sha256 == load_checkpoint(link).sha256 == saved.sha256


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["genes", "network"])
def test_genes_and_settings_are_covered_by_the_hash(name, version, folders, tmp_path):
    """A hash of the parameters alone said nothing of the genes that they are for; nor does it help to say format 1."""
    folder = shutil.copytree(folders["default"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    change = {"genes": config["genes"][::-1]} if name == "genes" else {"network": {"scale": 1.0}}
    _configure(format_version=version, **change)(folder)
    with pytest.raises(CheckpointError, match=r"config\.json is not the file that model\.safetensors was written with"):
        load_checkpoint(folder)


def test_format_2_needs_the_hash_of_genes_and_settings(folders, tmp_path):
    folder = shutil.copytree(FORMATS / "2" / "default", tmp_path / "model")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    _configure(sha256=file_sha256(folder / "model.safetensors"))(folder)
    with pytest.raises(CheckpointError, match=r"config\.json is not the file"):
        load_checkpoint(folder)
    _configure(format_version=1)(folder)
    load_checkpoint(folder)


def test_parameters_of_another_network(folders, tmp_path):
    """Format 1 holds no hash of the settings: that they do not fit is seen by the shapes."""
    folder = shutil.copytree(FORMATS / "1" / "default", tmp_path / "model")
    _configure(network={"hidden": [5, 4]})(folder)
    with pytest.raises(
        CheckpointError, match=r"does not fit config\.json: conv.lin_l.weight is F32 of the shape \[6, 8\]"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_not_loaded(value, tmp_path):
    folder = shutil.copytree(FORMATS / "1" / "default", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["fc_gene.bias"][3] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: NaN or infinite values in fc_gene\.bias"):
        load_checkpoint(folder)


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (1e6, True)])
def test_parameters_that_could_not_be_loaded_are_not_saved(value, half, default, folders, tmp_path):
    """Over a model that could be; half precision ends at 65,504."""
    folder = shutil.copytree(folders["default"], tmp_path / "model")
    network = copy.deepcopy(default.network)
    network.fc_gene.bias.data[3] = value
    with pytest.raises(CheckpointError, match=r"cannot be saved.*fc_gene\.bias"):
        save_checkpoint(replace(default, network=network), folder, overwrite=True, half=half)
    assert load_checkpoint(folder).sha256 == default.sha256


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"training": {"sections": {"a\x1b[31m": "0"}}}, "cannot be printed"),
        ({"training": {"notes": "a" * (1 << 24)}}, "16,777,2"),
        ({"training": {"notes": [[]] * 100_000}}, "lists and objects"),
        ({"training": {"notes": {1, 2}}}, "set"),
        ({"setup": {"adata": "x"}}, "setup holds"),
        ({"history": {"train_loss": [10**30]}}, "64 bits"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(changed, word, default, folders, tmp_path):
    """Over a model that could be, of which nothing is lost."""
    folder = shutil.copytree(folders["default"], tmp_path / "model")
    with pytest.raises(CheckpointError, match=rf"cannot be saved.*{word}"):
        save_checkpoint(replace(default, **changed), folder, overwrite=True)
    assert load_checkpoint(folder).sha256 == default.sha256
    assert list(tmp_path.iterdir()) == [folder]


def test_names_that_cannot_be_stored_are_refused_before_training(sections, rejects):
    sections.var_names = ["a" * 201, *sections.var_names[1:]]
    SAGEFM.setup_anndata(sections, library_key="library")
    rejects(CheckpointError, sections, lambda: SAGEFM(sections, hidden=(8, 4)), "200 characters")
    sections.var_names = ["A1", *sections.var_names[1:]]
    sections.obs["library"] = sections.obs["library"].astype(str) + "\x1b"
    SAGEFM.setup_anndata(sections, library_key="library")
    model = SAGEFM(sections, hidden=(8, 4))
    rejects(CheckpointError, sections, lambda: model.train(max_epochs=1), "cannot be printed")


def test_unknown_arguments_of_a_setup_are_named(section, default, rejects):
    calls = (
        lambda: SAGEFM.setup_anndata(section, libary_key="domain"),
        lambda: SAGEFM.from_pretrained(default, section, libary_key="domain"),
        lambda: SAGEFM.from_pretrained(default, libary_key="domain"),
    )
    for call in calls:
        rejects(ArgumentError, section, call, "no argument libary_key", "'library_key'")
