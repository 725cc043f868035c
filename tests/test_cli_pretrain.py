"""``sagefm pretrain`` on a folder of small sections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

import sagefm
from sagefm.cli import main
from sagefm.cli._pretrain import _check_names
from sagefm.model import load_checkpoint
from tests.space_ranger import write_folder

RECIPE = {
    "hidden": [12, 6],
    "dropout": 0.1,
    "vocabulary": {"min_detected": 0.05, "min_groups": 2},
    "max_epochs": 3,
    "batch_size": 64,
    "schedule": "cosine",
    "validation_size": 0.0,
    "early_stopping": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sections of real symbols, and a table of their donors."""
    out = tmp_path_factory.mktemp("sections")
    names = sagefm.datasets.synovium().var_names[2000:2080]
    for seed in range(3):
        adata = sagefm.datasets.simulate(120, n_genes=80, rng=seed)
        adata.var_names = [*names[: 78 + seed], *(f"LINC{i:05d}" for i in range(2 - seed))]
        adata.write_h5ad(out / f"s{seed}.h5ad")
    pd.DataFrame({"id": ["s0", "s1", "s2"], "donor": ["a", "a", "b"]}).to_csv(out / "metadata.csv", index=False)
    (out / "recipe.json").write_text(json.dumps(RECIPE))
    return out


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output of a command."""
    result = CliRunner().invoke(main, ["pretrain", *map(str, arguments)])
    return result.exit_code, result.output


def test_recipe_resume_and_half(folder: Path, tmp_path: Path) -> None:
    common = [folder, "--config", folder / "recipe.json", "--donor-key", "donor"]
    code, text = run(*common, "-o", tmp_path / "whole")
    assert code == 0, text
    assert "3 of 3" in text
    whole = load_checkpoint(tmp_path / "whole")
    assert set(whole.training["sections"]) == {"s0", "s1", "s2"}
    assert whole.training["schedule"] == "cosine"
    assert not [gene for gene in whole.vocabulary.symbols if gene.startswith("LINC")]
    assert whole.history["learning_rate"][-1] < whole.history["learning_rate"][0]
    code, text = run(*common, "-o", tmp_path / "half", "--half")
    assert code == 0, text
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {name: values.dtype.itemsize for name, values in stored.items() if name != "prior"} == dict.fromkeys(
        set(stored) - {"prior"}, 2
    )
    half = load_checkpoint(tmp_path / "half").network.state_dict()
    for name, values in whole.network.state_dict().items():
        assert half[name].dtype == values.dtype
        assert (half[name] - values).abs().max() < 1e-3


def test_a_folder_of_what_other_commands_take(tmp_path: Path) -> None:
    """A store, and a run of Space Ranger, which each call writes anew: training goes on all the same."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    whole = sagefm.datasets.dlpfc()[:300]
    whole = whole[:, np.argsort(whole.X.sum(axis=0).A1)[-60:]].copy()
    whole.write_zarr(mixed / "store.zarr")
    whole.write_zarr(mixed / ".half-written")
    write_folder(mixed / "sample" / "outs", whole[50:].copy(), whole[:50].copy())
    (mixed / "notes.txt").write_text("no section")
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE, "schedule": "plateau"}))
    common = [mixed, "--config", tmp_path / "recipe.json", "--state-file", tmp_path / "state", "--overwrite"]
    for epochs in (1, 2):
        code, text = run(*common, "--epochs", epochs, "-o", tmp_path / "model")
        assert code == 0, text
    trained = load_checkpoint(tmp_path / "model")
    assert set(trained.training["sections"]) == {"store", "sample"}
    assert len(trained.history["train_loss"]) == 2


def test_a_folder_that_is_one_section_or_holds_none(folder: Path, tmp_path: Path) -> None:
    ad.read_h5ad(folder / "s0.h5ad").write_zarr(tmp_path / "s0.zarr")
    code, text = run(tmp_path / "s0.zarr", "-o", tmp_path / "model")
    assert code == 1
    assert "sagefm train" in text
    (tmp_path / "empty").mkdir()
    code, text = run(tmp_path / "empty", "-o", tmp_path / "model")
    assert code == 1
    assert "holds no section" in text


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]])
def test_of_two_processes_the_first_writes_and_speaks(folder: Path, tmp_path: Path, launcher: list[str]) -> None:
    command = ["pretrain", folder, "--config", folder / "recipe.json", "--device", "cpu", "--devices", "2"]
    run = subprocess.run(
        [sys.executable, *launcher, "-m", "sagefm.cli", *map(str, command), "--json", "-o", str(tmp_path / "model")],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Error" not in run.stderr
    (line,) = run.stdout.splitlines()
    assert json.loads(line)["status"] == "written"
    assert load_checkpoint(tmp_path / "model").training["n_shards"] == 2


def test_excluded_donor(folder: Path, tmp_path: Path) -> None:
    recipe = {**RECIPE, "vocabulary": {"min_detected": 0.05, "min_groups": 1}, "max_epochs": 1}
    (tmp_path / "one.json").write_text(json.dumps(recipe))
    code, text = run(
        folder, "--config", tmp_path / "one.json", "--donor-key", "donor", "--exclude", "a", "-o", tmp_path / "m"
    )
    assert code == 0, text
    assert set(load_checkpoint(tmp_path / "m").training["sections"]) == {"s2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--donor-key", "patient"], "the table has the columns"),
        (["--exclude", "*"], "leaves no section"),
        (["--config", "no_such"], "neither a bundled recipe nor a JSON file"),
    ],
)
def test_what_cannot_be_used(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, text = run(folder, "-o", tmp_path / "m", *arguments)
    assert code != 0
    assert message in " ".join(text.split())
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"depth_of_trees": 3}, "no argument depth_of_trees"),
        ({"corpus": "elsewhere"}, "no argument corpus"),
        ({"seed": 1}, "The seed is called rng"),
        ({"devices": 2}, "pass --devices"),
        ({"vocabulary": {"max_detected": 1}}, "max_detected"),
        ({"lr": -1}, "lr=-1"),
    ],
)
def test_a_recipe_that_cannot_be_used(folder: Path, tmp_path: Path, recipe: dict[str, object], message: str) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({**RECIPE, **recipe}))
    code, text = run(folder, "--config", tmp_path / "bad.json", "--donor-key", "donor", "-o", tmp_path / "m")
    assert code == 1
    assert message in " ".join(text.split())


def test_an_error_of_our_own_is_not_one_of_the_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("of our own")

    monkeypatch.setattr("sagefm.model._pretrain.fit", fail)
    arguments = ["pretrain", folder, "--config", folder / "recipe.json", "--donor-key", "donor", "-o", tmp_path / "m"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "TypeError: of our own\nsagefm did not expect this." in result.output


def test_one_device_is_not_two(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagefm.checkpoint._resolve.resolve_device", torch.device)
    code, text = run(folder, "-o", tmp_path / "m", "--device", "cuda:1", "--devices", "2")
    assert code == 1
    assert "--device cuda:1 is one device, and --devices 2: pass --device cuda" in " ".join(text.split())


@pytest.mark.parametrize("name", ["default", "published"])
def test_bundled_recipes_are_of_this_version(name: str) -> None:
    recipe = json.loads((Path(sagefm.__file__).parent / "checkpoint" / "recipes" / f"{name}.json").read_text())
    _check_names(recipe)
    assert recipe["architecture"] in ("center_neighborhood", "published")
