"""The command line, run as a user runs it: on real files, by exit code, output and what is written."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

import sagefm
from sagefm.cli import main
from sagefm.model import load_checkpoint
from sagefm.module._config import NetworkConfig
from sagefm.module._gcn import PublishedNetwork
from tests.space_ranger import write_folder

SMALL = ["--epochs", "2", "--hidden", "16,8", "--batch-size", "64", "--lr", "0.003"]


def run(*arguments: Any) -> Result:
    """Return the result of a command."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeeds(*arguments: Any) -> str:
    """Run a command that must succeed; return what it prints."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(code: int, *arguments: Any) -> str:
    """Run a command that must end with `code`, a message and no traceback; return the message."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.fixture
def model(folders: dict[str, Path]) -> Path:
    """The folder of a model of the genes of `section`."""
    return folders["default"]


@pytest.fixture
def file(section: ad.AnnData, tmp_path: Path) -> Path:
    """`section` as a file."""
    path = tmp_path / "section.h5ad"
    section.write_h5ad(path)
    return path


@pytest.fixture
def section_of_dlpfc(tmp_path: Path) -> Path:
    """A corner of the bundled section, as ``section.h5ad``, in ``sections``, and as a folder of Space Ranger."""
    adata = sagefm.datasets.dlpfc()
    corner = adata.obsm["spatial"].sum(axis=1).argsort()[:80]
    (tmp_path / "sections").mkdir()
    for path in (tmp_path / "section.h5ad", tmp_path / "sections" / "one.h5ad"):
        adata[corner, :600].write_h5ad(path)
    write_folder(tmp_path / "sample" / "outs", adata[corner, :600].copy(), adata[:0].copy())
    return tmp_path / "section.h5ad"


@pytest.fixture
def spatialdata_file(section: ad.AnnData, tmp_path: Path) -> Path:
    """`section` as a SpatialData store whose table has no coordinates of its own: it annotates circles."""
    import geopandas as gpd
    import shapely
    import spatialdata as sd

    circles = gpd.GeoDataFrame(geometry=[shapely.Point(x, y) for x, y in section.obsm["spatial"]])
    circles["radius"] = 27.5
    del section.obsm["spatial"]
    section.obs["region"] = pd.Categorical(["spots"] * section.n_obs)
    section.obs["spot"] = np.arange(section.n_obs)
    table = sd.models.TableModel.parse(section, region="spots", region_key="region", instance_key="spot")
    shapes = sd.models.ShapesModel.parse(circles)
    path = tmp_path / "section.zarr"
    sd.SpatialData(shapes={"spots": shapes}, tables={"counts": table, "other": table.copy()}).write(path)
    return path


def test_help_names_every_command_and_version_is_printed() -> None:
    text = succeeds("--help")
    for name in ("demo", "train", "embed", "impute", "perturb", "info"):
        assert f"\n  {name} " in text
    assert succeeds("--version") == f"sagefm, version {sagefm.__version__}\n"


@pytest.mark.parametrize("name", list(main.commands))
def test_help_teaches(name: str) -> None:
    text = succeeds(name, "--help")
    assert f"Examples:\n    sagefm {name}" in text
    assert "Writes" in text or "Nothing is written" in text
    for option in main.commands[name].params:
        assert isinstance(option, click.Argument) or option.help, option


def _examples(text: str) -> list[str]:
    """The commands that a help shows as examples."""
    return [line.strip().removeprefix("sagefm ") for line in text.splitlines() if line.startswith("    sagefm ")]


def test_examples_of_the_help_run_with_the_bundled_model(
    section_of_dlpfc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help told to train a model first, though one is bundled."""
    monkeypatch.chdir(section_of_dlpfc.parent)
    examples = _examples(succeeds("--help"))
    assert examples[0] == "demo"
    assert [example.split()[0] for example in examples[-2:]] == ["train", "embed"]
    examples = examples[1:-2]
    examples += [_examples(succeeds(name, "--help"))[0] for name in ("domains", "embed", "impute", "perturb")]
    assert len(examples) == 10
    for example in examples:
        succeeds(*example.split(), *([] if example.startswith("info") else ["--overwrite"]))


def test_help_and_version_import_nothing_slow() -> None:
    code = (
        "import sys; from sagefm.cli import main; main(['{}'], standalone_mode=False); "
        "print([m for m in ('numpy', 'torch', 'anndata', 'scanpy', 'matplotlib') if m in sys.modules])"
    )
    for option in ("--help", "--version"):
        out = subprocess.run([sys.executable, "-c", code.format(option)], capture_output=True, text=True, check=True)
        assert out.stdout.splitlines()[-1] == "[]"


def test_train_embed_impute_perturb_info(file: Path, pairs: pd.DataFrame, tmp_path: Path) -> None:
    model, out = tmp_path / "new" / "model", tmp_path / "out.h5ad"
    text = succeeds("train", file, "-o", model, *SMALL, "--seed", 3)
    assert "validation D2" in text
    assert "best epoch" in text
    checkpoint = load_checkpoint(model)
    assert checkpoint.config.hidden == (16, 8)
    assert checkpoint.training["epochs"] == 2
    assert checkpoint.training["seed"] == 3
    assert checkpoint.training["lr"] == 0.003
    text = succeeds("info", model)
    assert checkpoint.sha256 in text
    assert "widths 16, 8" in text
    assert f"{checkpoint.history['validation_d2'][checkpoint.training['best_epoch']]:.4f}" in text

    assert 'obsm["X_sagefm"], 400 spots x 8 dimensions' in succeeds("embed", file, "-m", model, "-o", out)
    assert "300 genes" in succeeds("impute", out, "-m", model, "-o", out, "--overwrite", "--seed", 5)
    pairs.to_csv(tmp_path / "pairs.tsv", sep="\t", index=False)
    scores = tmp_path / "scores.csv"
    text = succeeds(
        "perturb", out, "-m", model, "-o", tmp_path / "last.h5ad", "--pairs", tmp_path / "pairs.tsv", "--table", scores,
        "--per-spot",
    )  # fmt: skip
    assert all(source in text for source in pairs["source"])

    before, after = ad.read_h5ad(file), ad.read_h5ad(tmp_path / "last.h5ad")
    assert (before.X != after.X).nnz == 0
    expected = before.copy()
    sagefm.tl.embed(expected, model)
    sagefm.tl.impute(expected, model, rng=5, progress=False)
    sagefm.tl.perturb(expected, model, pairs=pairs, progress=False)
    np.testing.assert_array_equal(after.obsm["X_sagefm"], expected.obsm["X_sagefm"])
    np.testing.assert_array_equal(after.layers["sagefm_imputed"], expected.layers["sagefm_imputed"])
    np.testing.assert_array_equal(after.var["sagefm_imputed_r"], expected.var["sagefm_imputed_r"])
    assert after.obsm["sagefm_perturb"].shape == (400, len(pairs))
    assert after.uns["sagefm"]["X_sagefm"]["checkpoint_sha256"] == checkpoint.sha256
    pd.testing.assert_frame_equal(pd.read_csv(scores), expected.uns["sagefm_perturb"]["scores"])
    text = succeeds("info", tmp_path / "last.h5ad")
    for key in ('obsm["X_sagefm"]', 'layers["sagefm_imputed"]', 'uns["sagefm_perturb"]', checkpoint.sha256[:12]):
        assert key in text


def test_zarr_in_and_out_equals_h5ad(section: ad.AnnData, file: Path, model: Path, tmp_path: Path) -> None:
    section.write_zarr(tmp_path / "section.zarr")
    succeeds("embed", file, "-m", model, "-o", tmp_path / "out.h5ad", "--compression", "gzip")
    succeeds("embed", tmp_path / "section.zarr", "-m", model, "-o", tmp_path / "out.zarr")
    embeddings = [ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_zarr(tmp_path / "out.zarr")]
    np.testing.assert_array_equal(*[adata.obsm["X_sagefm"] for adata in embeddings])
    succeeds("impute", tmp_path / "out.zarr", "-m", model, "-o", tmp_path / "out.zarr", "--overwrite")
    assert {"X_sagefm"} <= set(ad.read_zarr(tmp_path / "out.zarr").obsm)
    assert "AnnData" in succeeds("info", tmp_path / "out.zarr")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--levels", "3"], {"levels": 3}),
        (["--levels", "knockout", "--where", "center"], {"levels": "knockout", "where": "center"}),
        (["--levels", "0.1,0.9", "--scale", "quantile"], {"levels": (0.1, 0.9), "scale": "quantile"}),
        (
            ["--levels", "1,2", "--scale", "fold", "--where", "both"],
            {"levels": (1, 2), "scale": "fold", "where": "both"},
        ),
    ],
)
def test_options_of_a_perturbation(
    options: list[str],
    arguments: dict[str, object],
    file: Path,
    model: Path,
    pairs: pd.DataFrame,
    section: ad.AnnData,
    tmp_path: Path,
) -> None:
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    out = tmp_path / "out.h5ad"
    succeeds(
        "perturb", file, "-m", model, "-o", out, "--pairs", tmp_path / "pairs.csv", "--groupby", "domain", *options
    )
    sagefm.tl.perturb(section, model, pairs=pairs, groupby="domain", progress=False, **arguments)
    found, expected = (adata.uns["sagefm_perturb"] for adata in (ad.read_h5ad(out), section))
    pd.testing.assert_frame_equal(found["scores"], expected["scores"], check_names=False)
    pd.testing.assert_frame_equal(found["groups"], expected["groups"], check_names=False)


@pytest.mark.parametrize("form", ["h5ad", "zarr", "zarr dense"])
def test_lazy(form: str, section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    """Counts stay in the file, and are not in the output; all else is as it would be."""
    if form == "zarr dense":
        section.X = section.X.toarray()
    path = tmp_path / f"s.{form.split()[0]}"
    section.write_h5ad(path) if form == "h5ad" else section.write_zarr(path)
    for verb, extra in (("embed", []), ("impute", []), ("perturb", ["--pairs", tmp_path / "pairs.csv"])):
        names = section.var_names
        pd.DataFrame({"source": names[:2], "target": names[2:4]}).to_csv(tmp_path / "pairs.csv", index=False)
        succeeds(verb, path, "-m", model, "-o", tmp_path / f"{verb}.h5ad", *extra)
        succeeds(verb, path, "-m", model, "-o", tmp_path / f"{verb}_lazy.h5ad", *extra, "--lazy")
        whole, lazy = (ad.read_h5ad(tmp_path / f"{verb}{end}.h5ad") for end in ("", "_lazy"))
        assert lazy.X is None
        assert list(lazy.obs_names) == list(whole.obs_names)
        pd.testing.assert_frame_equal(lazy.var, whole.var, rtol=1e-4, atol=1e-6)
        assert set(lazy.uns) == set(whole.uns)
        assert set(lazy.layers) == set(whole.layers) - {None}  # anndata 0.13 names X so
        for key in whole.obsm:
            np.testing.assert_allclose(lazy.obsm[key], whole.obsm[key], rtol=1e-4, atol=1e-5)
        for key in lazy.layers:
            np.testing.assert_allclose(lazy.layers[key], whole.layers[key], rtol=1e-3, atol=1e-5)


def test_training_that_was_stopped(section: ad.AnnData, file: Path, tmp_path: Path) -> None:
    """A state file is written, and taken up."""
    arguments = ["--hidden", "16,8", "--batch-size", "64", "--validation-size", "0"]
    succeeds("train", file, "-o", tmp_path / "whole", *arguments, "--epochs", "3")
    succeeds("train", file, "-o", tmp_path / "a", *arguments, "--epochs", "2", "--state-file", tmp_path / "state")
    succeeds("train", file, "-o", tmp_path / "b", *arguments, "--epochs", "3", "--state-file", tmp_path / "state")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "a", "b")]
    assert weights[0] == weights[2] != weights[1]


def test_spatialdata_in_and_out(spatialdata_file: Path, model: Path, tmp_path: Path) -> None:
    import spatialdata as sd

    assert "--table-key" in succeeds("info", spatialdata_file)
    assert "table_key" in fails(1, "embed", spatialdata_file, "-m", model, "-o", tmp_path / "out.zarr")
    arguments = ["embed", spatialdata_file, "-m", model, "--table-key", "counts", "-o"]
    succeeds(*arguments, tmp_path / "out.zarr")
    written = sd.read_zarr(tmp_path / "out.zarr")
    assert set(written.shapes) == {"spots"}
    assert written.tables["counts"].obsm["X_sagefm"].shape[0] == 400
    assert "X_sagefm" not in written.tables["other"].obsm
    assert "X_sagefm" not in sd.read_zarr(spatialdata_file).tables["counts"].obsm
    succeeds(*arguments, tmp_path / "out.h5ad")
    np.testing.assert_array_equal(
        ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_sagefm"], written.tables["counts"].obsm["X_sagefm"]
    )


@pytest.fixture
def files(sections: ad.AnnData, tmp_path: Path) -> list[Path]:
    """Two sections as files, the counts of which are a layer; the second has 260 of the 300 genes."""
    first, second = (sections[sections.obs["library"] == name].copy() for name in ("section1", "section2"))
    second = second[:, 40:].copy()
    for adata in (first, second):
        adata.layers["counts"], adata.X = adata.X.copy(), adata.X.copy()
    first.X.data = np.log1p(first.X.data)
    paths = [tmp_path / "one.h5ad", tmp_path / "two.h5ad"]
    for adata, path in zip((first, second), paths, strict=True):
        adata.write_h5ad(path)
    return paths


def test_several_files_keep_their_own_genes(files: list[Path], sections: ad.AnnData, tmp_path: Path) -> None:
    """They are a corpus: the model is that of `sagefm.model.pretrain`."""
    text = succeeds("train", *files, "-o", tmp_path / "model", "--layer", "counts", *SMALL)
    assert "300 measured in at least half of the 2 files" in text
    assert "300 spots x 300 genes" in text
    checkpoint = load_checkpoint(tmp_path / "model")
    assert set(checkpoint.vocabulary.symbols) == set(sections.var_names)
    assert checkpoint.training["n_sections"] == 2
    assert set(checkpoint.training["sections"]) == {"one", "two"}
    assert checkpoint.training["validation_sections"][0] in ("one", "two")
    corpus = sagefm.datasets.Corpus(files, layer="counts")
    expected = sagefm.model.pretrain(corpus, hidden=(16, 8), max_epochs=2, batch_size=64, lr=0.003)
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(checkpoint.network.state_dict()[name], tensor)
    assert "one.h5ad: adata.X holds fractional" in fails(1, "train", *files, "-o", tmp_path / "other", *SMALL)
    assert "Several files are named" in fails(1, "train", files[0], files[0], "-o", tmp_path / "other", *SMALL)


def test_several_files_of_several_sections(files: list[Path], tmp_path: Path) -> None:
    """Each library is a section, named after file and column."""
    table = ad.read_h5ad(files[0])
    table.obs["half"] = np.where(table.obsm["spatial"][:, 0] > np.median(table.obsm["spatial"][:, 0]), "right", "left")
    table.write_h5ad(files[0])
    table[:60].write_h5ad(files[1])
    arguments = ["--layer", "counts", "--library-key", "half", "--validation-size", "0.4", *SMALL]
    succeeds("train", *files, "-o", tmp_path / "model", *arguments)
    checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.training["n_sections"] == 4
    assert set(checkpoint.training["validation_sections"]) < {"one/left", "one/right", "two/left", "two/right"}
    assert checkpoint.setup["library_key"] == "half"
    message = fails(1, "train", *files, "-o", tmp_path / "other", *arguments[:2], "--library-key", "organ", *SMALL)
    assert "one.h5ad: " in message
    assert "'organ'" in message


def test_files_of_one_name(files: list[Path], tmp_path: Path) -> None:
    """As pipelines write them, in a folder for each sample."""
    paths = [tmp_path / sample / "filtered.h5ad" for sample in ("a", "b")]
    for file, path in zip(files, paths, strict=True):
        path.parent.mkdir()
        file.rename(path)
    succeeds("train", *paths, "-o", tmp_path / "model", "--layer", "counts", *SMALL)
    assert set(load_checkpoint(tmp_path / "model").training["sections"]) == {"a/filtered", "b/filtered"}


def test_train_on_several_spatialdata(spatialdata_file: Path, file: Path, tmp_path: Path) -> None:
    """Their coordinates are those of the circles."""
    paths = [spatialdata_file, tmp_path / "other.zarr"]
    shutil.copytree(*paths)
    assert "table_key=None" in fails(1, "train", *paths, "-o", tmp_path / "model", *SMALL)
    succeeds("train", *paths, "-o", tmp_path / "model", "--table-key", "counts", *SMALL)
    training = load_checkpoint(tmp_path / "model").training
    assert (training["n_sections"], training["n_spots"]) == (2, 800)


class Told(BaseException):
    """What a trainer was told; no error, which would become a message."""


@pytest.mark.parametrize("command", ["train", "pretrain"])
@pytest.mark.parametrize(
    ("device", "expected"),
    [("cuda:1", ("gpu", [1])), ("cuda", ("gpu", 1)), ("cpu", ("cpu", 1))],
)
def test_the_device_that_is_named_is_used(
    command: str, device: str, expected: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sagefm pretrain --device cuda:1` used the first GPU."""
    from sagefm.checkpoint import _resolve
    from sagefm.training import _fit

    def trainer(**arguments: Any) -> None:
        raise Told(arguments["accelerator"], arguments["devices"])

    trainer.__signature__ = inspect.signature(_fit.Trainer)  # type: ignore[attr-defined]
    monkeypatch.setattr(_fit, "Trainer", trainer)
    monkeypatch.setattr(_resolve, "resolve_device", torch.device)
    (tmp_path / "recipe.json").write_text("{}")
    arguments = [file] if command == "train" else [file.parent, "--config", tmp_path / "recipe.json"]
    with pytest.raises(Told) as told:
        run(command, *arguments, "-o", tmp_path / "model", "--device", device)
    assert told.value.args == expected


def test_genes_of_a_file(section: ad.AnnData, file: Path, model: Path, tmp_path: Path) -> None:
    genes, out = list(section.var_names[:3]), tmp_path / "out.h5ad"
    section[:, 1:].write_h5ad(file)
    (tmp_path / "genes.txt").write_text(f"# markers\n{genes[0]}\n\n{genes[1]}\n{genes[2]}\n")
    text = succeeds("impute", file, "-m", model, "-o", out, "--genes-file", tmp_path / "genes.txt")
    assert "2 genes of the input, 1 that are not in it" in text
    adata = ad.read_h5ad(out)
    assert list(adata.var_names[adata.var["sagefm_imputed"]]) == genes[1:]
    assert list(adata.obsm["sagefm_imputed"].columns) == genes[:1]
    again = tmp_path / "again.h5ad"
    succeeds("impute", file, "-m", model, "-o", again, "--genes", ",".join(genes))
    assert (ad.read_h5ad(again).layers["sagefm_imputed"] != adata.layers["sagefm_imputed"]).nnz == 0


def test_outputs_that_exist_are_refused(file: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    out.write_text("precious")
    assert "--overwrite" in fails(1, "embed", file, "-m", model, "-o", out)
    assert out.read_text() == "precious"
    scores = tmp_path / "scores.csv"
    scores.write_text("precious")
    fails(
        1,
        "perturb",
        file,
        "-m",
        model,
        "-o",
        tmp_path / "new.h5ad",
        "--sources",
        "A",
        "--targets",
        "B",
        "--table",
        scores,
    )
    assert "--overwrite" in fails(1, "train", file, "-o", model, *SMALL)
    assert not (tmp_path / "new.h5ad").exists()

    # With --overwrite, only what is of the same kind.
    folder = tmp_path / "mine.zarr"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "thesis.txt").write_text("precious")
    assert "no zarr store" in fails(1, "embed", file, "-m", model, "-o", folder, "--overwrite")
    assert "thesis.txt" in fails(1, "train", file, "-o", folder, "--overwrite", *SMALL)
    assert "thesis.txt" in fails(1, "demo", "-o", folder, "--overwrite")
    assert (folder / "thesis.txt").read_text() == "precious"
    succeeds("embed", file, "-m", model, "-o", out, "--overwrite")
    assert "X_sagefm" in ad.read_h5ad(out).obsm


def test_bad_input_is_a_message(section: ad.AnnData, file: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    section.X = section.X.copy()
    section.X.data[:] = 0.5
    section.write_h5ad(tmp_path / "bad.h5ad")
    assert "fractional" in fails(1, "embed", tmp_path / "bad.h5ad", "-m", model, "-o", out)
    assert "fractional" in fails(1, "train", tmp_path / "bad.h5ad", "-o", tmp_path / "m", *SMALL)
    text = succeeds("info", tmp_path / "bad.h5ad")
    assert "! adata.X holds fractional" in text
    assert "sagefm train" in fails(1, "embed", file, "-m", "nothing", "-o", out)
    (tmp_path / "empty").mkdir()
    assert "no checkpoint" in fails(1, "embed", file, "-m", tmp_path / "empty", "-o", out)
    assert "no checkpoint" in fails(1, "info", tmp_path / "empty")
    assert "'NOGENE'" in fails(1, "impute", file, "-m", model, "-o", out, "--genes", "NOGENE")
    assert "'nolayer'" in fails(1, "embed", file, "-m", model, "-o", out, "--layer", "nolayer")
    (tmp_path / "text.h5ad").write_text("no HDF5")
    assert "cannot be read" in fails(1, "embed", tmp_path / "text.h5ad", "-m", model, "-o", out)
    (tmp_path / "pairs.csv").write_text("ligand,receptor\nA,B\n")
    assert "'source'" in fails(1, "perturb", file, "-m", model, "-o", out, "--pairs", tmp_path / "pairs.csv")
    assert not out.exists()
    assert not (tmp_path / "m").exists()


def test_debug_shows_the_error(file: Path, tmp_path: Path) -> None:
    result = run("embed", file, "-m", "nothing", "-o", tmp_path / "out.h5ad", "--debug")
    assert isinstance(result.exception, sagefm.errors.ModelNotFoundError)


def test_wrong_usage(file: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    assert "does not exist" in fails(2, "embed", tmp_path / "no.h5ad", "-m", model, "-o", out)
    assert "does not exist" in fails(2, "info", tmp_path / "no.h5ad")
    assert "neither a .h5ad" in fails(2, "embed", __file__, "-m", model, "-o", out)
    assert "does not end with" in fails(2, "embed", file, "-m", model, "-o", tmp_path / "out.csv")
    assert "--pairs" in fails(2, "perturb", file, "-m", model, "-o", out)
    assert "--pairs" in fails(2, "perturb", file, "-m", model, "-o", out, "--sources", "A")
    genes = ["--sources", "A", "--targets", "B"]
    assert "or knockout" in fails(2, "perturb", file, "-m", model, "-o", out, *genes, "--levels", "many")
    assert "'neighborhood'" in fails(2, "perturb", file, "-m", model, "-o", out, *genes, "--where", "nowhere")
    assert "does not exist" in fails(2, "perturb", file, "-m", model, "-o", out, "--pairs", tmp_path / "no.csv")
    genes = tmp_path / "genes.txt"
    genes.write_text("\n")
    assert "no gene" in fails(2, "impute", file, "-m", model, "-o", out, "--genes-file", genes)
    genes.write_text("B\n")
    assert "not both" in fails(2, "impute", file, "-m", model, "-o", out, "--genes-file", genes, "--genes", "A")
    assert "whole numbers" in fails(2, "train", file, "-o", tmp_path / "m", "--hidden", "wide")
    assert "--neighbors-key" in fails(2, "train", file, file, "-o", tmp_path / "m", "--neighbors-key", "spatial")
    fails(2, "train", "-o", tmp_path / "m")
    fails(2, "nothing")


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_interrupt(file: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sagefm.tl, "embed", _interrupt)
    assert "Interrupted" in fails(130, "embed", file, "-m", model, "-o", tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


def test_warnings_are_lines(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    section.obsm["spatial"][1] = section.obsm["spatial"][0]
    section.write_h5ad(tmp_path / "twice.h5ad")
    result = run("embed", tmp_path / "twice.h5ad", "-m", model, "-o", tmp_path / "out.h5ad")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: 1 spots have the coordinates of another spot")
    assert len(result.stderr.splitlines()) == 1


def test_info_of_a_table_whose_uns_holds_anything(section: ad.AnnData, tmp_path: Path) -> None:
    """``uns["sagefm"]`` may be somebody else's, and what is in it as well."""
    section.layers["counts"] = section.X.copy()
    section.uns["theirs"] = {"scores": 1, "curves": 2, "params": 3}
    for i, entry in enumerate(("counts", np.arange(3), {"a": 1, "counts": {"checkpoint_sha256": 1}})):
        section.uns["sagefm"] = entry
        section.write_h5ad(tmp_path / f"{i}.h5ad")
    text = succeeds("info", *(tmp_path / f"{i}.h5ad" for i in range(3)))
    assert text.count("nothing yet") == 2
    assert text.count('layers["counts"]         raw counts') == 2
    assert 'layers["counts"], model None, sha256 1\n' in text


def test_info_of_a_table_whose_uns_has_a_key_that_is_no_string(
    section: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section.uns = {1: "one", 2: {3: "three"}, ("sagefm",): 4, "sagefm": {5: {"checkpoint_sha256": "6" * 64}}}
    monkeypatch.setattr("sagefm.cli._info.read_section", lambda _path: section)
    (tmp_path / "section.h5ad").touch()
    assert 'uns["sagefm"]["5"], model None, sha256 666666666666' in succeeds("info", tmp_path / "section.h5ad")


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    text = succeeds("demo", "-o", out)
    assert sorted(path.name for path in out.iterdir()) == ["demo.png", "dlpfc.h5ad", "perturbation.csv", "report.html"]
    for word in ("Model 'default'", "mean of 14 neighbors", "ligand-receptor"):
        assert word in text
    adata = ad.read_h5ad(out / "dlpfc.h5ad")
    assert {"X_sagefm", "spatial"} <= set(adata.obsm)
    assert adata.obs["sagefm_domain"].nunique() == 8
    assert "sagefm_imputed" in adata.layers
    assert adata.uns["sagefm"]["X_sagefm"]["model"] == "default"
    scores = pd.read_csv(out / "perturbation.csv")
    assert len(scores) == 100
    assert scores["kind"].value_counts().to_dict() == {"unmatched": 90, "same structure": 5, "ligand-receptor": 5}
    assert (out / "demo.png").stat().st_size < 1_000_000


def test_convert(tmp_path: Path) -> None:
    config = NetworkConfig.of("published", n_genes=14_558, hidden=(4, 4, 4, 4, 4))
    network = PublishedNetwork(config)
    torch.save({"model_state_dict": network.state_dict(), "epoch": 3}, tmp_path / "own.pt")
    succeeds("convert", tmp_path / "own.pt", "-o", tmp_path / "converted")
    checkpoint = load_checkpoint(tmp_path / "converted")
    assert checkpoint.training["epoch"] == 3
    for name, parameter in checkpoint.network.named_parameters():
        assert torch.equal(parameter, network.get_parameter(name))
    assert "exists" in fails(1, "convert", tmp_path / "own.pt", "-o", tmp_path / "converted")
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "text.pt" in fails(1, "convert", tmp_path / "text.pt", "-o", tmp_path / "other")


def test_lazy_does_not_overwrite_its_input(file: Path, model: Path) -> None:
    before = file.read_bytes()
    shutil.copy(file, file.with_name("other.h5ad"))
    inputs = [file.with_name("other.h5ad"), file]
    message = fails(1, "embed", file, "-m", model, "-o", file, "--lazy", "--overwrite")
    assert "they would be lost" in message
    # Nor is any of several read before this is known.
    message = fails(1, "embed", *inputs, "-m", model, "-o", file.parent, "--lazy", "--overwrite")
    assert message.count("they would be lost") == 1
    assert file.read_bytes() == before


def test_lazy_layer_of_a_zarr_store(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    section.layers["counts"] = section.X.copy()
    section.X = section.X * 0.5
    section.write_zarr(tmp_path / "s.zarr")
    succeeds("embed", tmp_path / "s.zarr", "-m", model, "-o", tmp_path / "o.h5ad", "--lazy", "--layer", "counts")


def test_impute_without_a_model(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    options = ["--scale", "log1p", "--target-sum", 1000, "--genes", ad.read_h5ad(file).var_names[0]]
    printed = succeeds("impute", file, "-m", "none", "-o", out, *options)
    assert "none: predictors of the section alone" in printed
    assert "300 of the input" in printed
    params = ad.read_h5ad(out).uns["sagefm"]["sagefm_imputed"]
    assert (params["scale"], params["target_sum"]) == ("log1p", 1000)
    assert fails(1, "embed", file, "-m", "none", "-o", tmp_path / "embedded.h5ad")
