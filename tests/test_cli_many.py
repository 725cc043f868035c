"""The command line over many files: folders of outputs, what is done already, JSON, warnings and logs, completion, exit codes."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import click
import h5py
import numpy as np
import pandas as pd
import pytest

import sagefm
from sagefm.cli import main
from tests.recipes import DOCS
from tests.test_cli import SMALL, fails, run, succeeds

NAMES = ("one.h5ad", "two.zarr", "three.h5ad")


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of a report, one a line; anything else on standard output is an error."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def model(folders: dict[str, Path]) -> Path:
    return folders["default"]


@pytest.fixture
def folder(section: ad.AnnData, tmp_path: Path) -> Path:
    """Three sections: the spots of `section`, fewer from one to the next."""
    made = tmp_path / "sections"
    made.mkdir()
    for name, n_spots in zip(NAMES, (400, 300, 200), strict=True):
        part = section[:n_spots].copy()
        part.write_zarr(made / name) if name.endswith("zarr") else part.write_h5ad(made / name)
    return made


def read(path: Path) -> ad.AnnData:
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def test_a_file_of_each(folder: Path, model: Path, tmp_path: Path) -> None:
    """In the format and by the name of the input; as each alone."""
    out = tmp_path / "new" / "out"
    text = succeeds("embed", *(folder / name for name in NAMES), "-m", model, "-o", out, "--device", "cpu")
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert f"Wrote {out / name}" in text
        expected = read(folder / name)
        sagefm.tl.embed(expected, model)
        np.testing.assert_array_equal(read(out / name).obsm["X_sagefm"], expected.obsm["X_sagefm"])


@pytest.mark.parametrize("pattern", ["*.h5ad", "**/*.h5ad", "t*", "[ot]*.h5ad"])
def test_patterns(pattern: str, folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For shells that hand them on; what matches and is no section is left out."""
    (folder / "table.csv").touch()
    (folder / "two.csv").touch()
    monkeypatch.chdir(tmp_path)
    for given in (Path("sections") / pattern, folder / pattern):
        succeeds("embed", given, "-m", model, "-o", "out", "--overwrite")
    expected = {"t*": {"two.zarr", "three.h5ad"}}.get(pattern, {"one.h5ad", "three.h5ad"})
    assert {path.name for path in Path("out").iterdir()} == expected
    assert "matches no .h5ad" in fails(2, "embed", "none/*.h5ad", "-m", model, "-o", "out")
    assert "sections/*.h5ad" in fails(2, "embed", "sections", "-m", model, "-o", "out")


def test_one_section_to_a_folder(folder: Path, model: Path, tmp_path: Path) -> None:
    succeeds("embed", folder / "two*", "-m", model, "-o", tmp_path / "out")
    succeeds("embed", folder / "one.h5ad", "-m", model, "-o", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one.h5ad", "two.zarr"}


def test_outputs_that_cannot_be(folder: Path, model: Path, tmp_path: Path) -> None:
    files = [folder / "one.h5ad", folder / "three.h5ad"]
    assert "need a folder" in fails(2, "embed", *files, "-m", model, "-o", tmp_path / "out.h5ad")
    assert "several inputs" in fails(2, "embed", files[0], files[0], "-m", model, "-o", tmp_path / "out")
    (tmp_path / "file").touch()
    assert "is no folder" in fails(2, "embed", *files, "-m", model, "-o", tmp_path / "file")
    arguments = ["embed", *files, "-m", model, "-o", tmp_path / "out"]
    assert "where the inputs are" in fails(2, "embed", *files, "-m", model, "-o", folder, "--skip-existing")
    assert "not both" in fails(2, *arguments, "--overwrite", "--skip-existing")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "three.h5ad").write_text("precious")
    # Before anything is computed.
    assert "--overwrite" in fails(1, *arguments)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["three.h5ad"]
    assert "device" in fails(1, "embed", files[0], "-m", model, "-o", tmp_path / "x.h5ad", "--device", "tpu9")


def test_a_file_of_several_sections(sections: ad.AnnData, model: Path, tmp_path: Path) -> None:
    sections.write_zarr(tmp_path / "both.zarr")
    arguments = ["-m", model, "-o", tmp_path / "out.zarr", "--library-key", "library"]
    succeeds("embed", tmp_path / "both.zarr", *arguments)
    written = ad.read_zarr(tmp_path / "out.zarr")
    sagefm.tl.embed(sections, model, library_key="library")
    np.testing.assert_array_equal(written.obsm["X_sagefm"], sections.obsm["X_sagefm"])
    assert written.uns["sagefm"]["X_sagefm"]["library_key"] == "library"
    assert "section1 (150 spots), section2 (150 spots)" in succeeds("info", tmp_path / "out.zarr", *arguments[-2:])


def test_what_is_there_is_left(folder: Path, model: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "out", [folder / name for name in NAMES]
    succeeds("embed", given[0], "-m", model, "-o", out)
    before = (out / "one.h5ad").stat().st_mtime_ns
    arguments = ["embed", *given, "-m", model, "-o", out, "--skip-existing"]
    text = succeeds(*arguments)
    assert text.count("skipped") == 1
    assert (out / "one.h5ad").stat().st_mtime_ns == before
    assert {path.name for path in out.iterdir()} == set(NAMES)
    assert [each["status"] for each in objects(succeeds(*arguments, "--json"))] == ["skipped"] * 3


def test_one_that_fails_does_not_stop_the_others(
    folder: Path, model: Path, section: ad.AnnData, tmp_path: Path
) -> None:
    bad = section.copy()
    bad.X = bad.X * 0.5
    (folder / "one.h5ad").unlink()
    bad.write_h5ad(folder / "one.h5ad")
    arguments = ["embed", *(folder / name for name in NAMES), "-m", model, "-o", tmp_path / "out"]
    result = run(*arguments, "--json")
    assert result.exit_code == 1
    failed, *others = objects(result.stdout)
    assert failed["status"] == "failed"
    assert "fractional" in failed["error"]
    assert failed["input"].endswith("one.h5ad")
    assert [each["status"] for each in others] == ["written", "written"]
    assert f"Error: {folder / 'one.h5ad'}: adata.X holds fractional" in result.stderr
    assert "1 of 3 sections failed" in result.stderr
    assert "--skip-existing" in result.stderr
    assert "Traceback" not in result.output
    section.write_h5ad(folder / "one.h5ad")
    statuses = [each["status"] for each in objects(succeeds(*arguments, "--json", "--skip-existing"))]
    assert statuses == ["written", "skipped", "skipped"]


def _seurat_disk(path: Path, section: ad.AnnData) -> None:
    """Names in a column "_index" of raw.var, as SeuratDisk writes them: anndata reads it, and does not write it."""
    section.raw = section.copy()
    section.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        var = file["raw/var"]
        var.move(var.attrs["_index"], "features")
        var.copy("features", "_index")
        var.attrs["_index"], var.attrs["column-order"] = "features", np.array(["_index"], dtype=object)


def _newer(path: Path, section: ad.AnnData) -> None:
    """An encoding that anndata does not know yet."""
    section.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obs"].attrs["encoding-version"] = "99.0.0"


def _truncated(path: Path, section: ad.AnnData) -> None:
    section.write_h5ad(path)
    path.write_bytes(path.read_bytes()[:20_000])


def _text(path: Path, _section: ad.AnnData) -> None:
    path.write_text("no HDF5")


def _no_table(path: Path, _section: ad.AnnData) -> None:
    with h5py.File(path, "w") as file:
        file["X"] = np.arange(3)


BAD = [_seurat_disk, _newer, _truncated, _text, _no_table]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_of_any_kind_does_not_stop_the_others(
    bad: Callable[[Path, ad.AnnData], None], folder: Path, section: ad.AnnData, model: Path, tmp_path: Path
) -> None:
    """Its reason is in the summary, without a traceback; by itself it is a message, too."""
    (folder / "one.h5ad").unlink()
    bad(folder / "one.h5ad", section)
    out = tmp_path / "out"
    result = run("embed", *(folder / name for name in NAMES), "-m", model, "-o", out, "--json")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    failed, *others = objects(result.stdout)
    assert failed["status"] == "failed"
    assert str(folder / "one.h5ad") in failed["error"] or str(out / "one.h5ad") in failed["error"]
    assert [each["status"] for each in others] == ["written", "written"]
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES[1:])
    fails(1, "embed", folder / "one.h5ad", "-m", model, "-o", tmp_path / "alone.h5ad")
    assert not (tmp_path / "alone.h5ad").exists()


def test_names_that_may_be_missing_are_written(folder: Path, section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    """Nullable strings, as pandas 3 has them: anndata 0.12 reads them and by default does not write them."""
    section.obs_names, section.var_names = section.obs_names.astype("string"), section.var_names.astype("string")
    with ad.settings.override(allow_write_nullable_strings=True):
        section.write_h5ad(folder / "one.h5ad")
    for suffix in ("h5ad", "zarr"):
        succeeds("embed", folder / "one.h5ad", "-m", model, "-o", tmp_path / f"out.{suffix}")
        assert "X_sagefm" in read(tmp_path / f"out.{suffix}").obsm


def test_what_is_not_ours_is_a_message(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kind is told; with --debug, where it comes from."""

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of a library")

    monkeypatch.setattr(sagefm.tl, "embed", fail)
    arguments = ["embed", folder / "one.h5ad", "-m", model, "-o", tmp_path / "out.h5ad"]
    assert "ZeroDivisionError: of a library\nsagefm did not expect this" in fails(1, *arguments)
    assert isinstance(run(*arguments, "--debug").exception, ZeroDivisionError)


@pytest.mark.parametrize("verb", ["embed", "train", "convert", "demo"])
def test_outputs_are_tried_before_the_work(verb: str, folder: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out.h5ad"
    inputs = {
        "embed": [folder / "one.h5ad", "-m", model],
        "train": [folder / "one.h5ad"],
        "convert": [tmp_path / "file"],
    }
    assert "out.h5ad cannot be written: File exists" in fails(1, verb, *inputs.get(verb, []), "-o", out)


def test_a_state_file_is_tried_before_the_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    state = tmp_path / "file" / "state"
    message = fails(1, "train", folder / "one.h5ad", "-o", tmp_path / "model", "--state-file", state)
    assert f"{state} cannot be written" in message


def test_room_on_the_disk_is_looked_at_before_the_work(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=400 * 300 * 4 - 1))
    arguments = ["impute", folder / "one.h5ad", "-m", model, "-o"]
    assert "the disk has 0.00 GB left" in fails(1, *arguments, tmp_path / "out.h5ad")
    succeeds(*arguments, tmp_path / "out.h5ad", "--compression", "gzip")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_stopped(how: signal.Signals, section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    """What it wrote is whole, and the same command goes on with the rest."""
    out, names = tmp_path / "out", [f"s{i}.h5ad" for i in range(6)]
    for name in names:
        section.write_h5ad(tmp_path / name)
    arguments = ["impute", *(str(tmp_path / name) for name in names), "-m", str(model), "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sagefm.cli", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background, a shell has its children ignore interrupts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (out / "s0.h5ad").exists():
        time.sleep(0.005)
    process.send_signal(how)
    message = process.communicate()[1]
    assert process.returncode == (-how if how is signal.SIGKILL else 128 + how), message
    assert "Traceback" not in message, message
    if how is not signal.SIGKILL:
        assert message.endswith("Interrupted.\n" if how is signal.SIGINT else "Terminated.\n")
        assert not list(out.glob(".*"))
    done = sorted(path.name for path in out.glob("*.h5ad"))
    assert 1 <= len(done) < 6
    statuses = [each["status"] for each in objects(succeeds(*arguments, "--skip-existing", "--json"))]
    assert statuses == ["skipped"] * len(done) + ["written"] * (6 - len(done))
    for name in names:
        assert "sagefm_imputed" in ad.read_h5ad(out / name).layers


def test_an_interrupt_that_a_library_drops_ends_the_run(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all exceptions in callbacks, it is dropped where it comes; the command goes on no further than to its next line."""

    class Callback:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    embed = sagefm.tl.embed

    def interrupted(*arguments: Any, **keywords: Any) -> None:
        embed(*arguments, **keywords)
        Callback()

    monkeypatch.setattr(sagefm.tl, "embed", interrupted)
    # Tests that were started in the background ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("embed", folder / "*.h5ad", "-m", model, "-o", tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert "Interrupted." in result.stderr
    assert not list((tmp_path / "out").glob("*.h5ad"))


def test_scores_of_each(folder: Path, model: Path, pairs: pd.DataFrame, tmp_path: Path) -> None:
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    arguments = ["perturb", folder / "*.h5ad", "-m", model, "--pairs", tmp_path / "pairs.csv"]
    reports = objects(succeeds(*arguments, "-o", tmp_path / "out", "--table", tmp_path / "scores", "--json"))
    for name, found in zip(("one", "three"), reports, strict=True):
        table = pd.read_csv(tmp_path / "scores" / f"{name}.csv")
        scores = ad.read_h5ad(tmp_path / "out" / f"{name}.h5ad").uns["sagefm_perturb"]["scores"]
        np.testing.assert_allclose(table["effect"], scores["effect"])
        assert found["table"] == str(tmp_path / "scores" / f"{name}.csv")
        assert found["n_pairs"] == len(pairs)
    # As a stop between the two would leave it: the table is there, the section is not.
    (tmp_path / "out" / "one.h5ad").unlink()
    again = ["-o", tmp_path / "out", "--table", tmp_path / "scores"]
    assert "--overwrite" in fails(1, *arguments, *again)
    assert "skipped" in succeeds(*arguments, *again, "--skip-existing")
    assert "need a folder" in fails(2, *arguments, "-o", tmp_path / "new", "--table", tmp_path / "scores.csv")


def test_json(folder: Path, model: Path, tmp_path: Path) -> None:
    """Numbers of the summary as numbers; nothing else on standard output."""
    file, out = folder / "one.h5ad", tmp_path / "out.h5ad"
    (found,) = objects(succeeds("embed", file, "-m", model, "-o", out, "--json"))
    checkpoint = sagefm.model.load_checkpoint(model)
    assert found.pop("seconds") > 0
    assert found == {
        "input": str(file),
        "output": str(out),
        "status": "written",
        "n_spots": 400,
        "n_genes": 300,
        "model": checkpoint.name,
        "architecture": "center_neighborhood",
        "checkpoint_sha256": checkpoint.sha256,
        "n_genes_matched": 300,
        "n_genes_vocabulary": 300,
        "coverage": 1.0,
        "key": "X_sagefm",
        "n_latent": 16,
    }
    (found,) = objects(succeeds("impute", file, "-m", model, "-o", tmp_path / "i.h5ad", "--json"))
    r = ad.read_h5ad(tmp_path / "i.h5ad").var["sagefm_imputed_r"]
    assert found["median_r"] == pytest.approx(r.median())
    assert found["n_imputed"] == 300
    (found,) = objects(succeeds("train", file, "-o", tmp_path / "model", *SMALL, "--json"))
    assert found["status"] == "written"
    assert found["inputs"] == [str(file)]
    assert found["validation_d2"] < 1
    section, trained = objects(succeeds("info", out, tmp_path / "model", "--json"))
    assert (section["kind"], section["n_spots"], section["counts"].split(":")[0]) == (
        "AnnData",
        400,
        "adata.X, raw counts",
    )
    assert 'obsm["X_sagefm"]' in section["written"][0]
    assert trained["kind"] == "model"
    assert trained["sha256"] == sagefm.model.load_checkpoint(tmp_path / "model").sha256


def test_json_has_the_warnings_of_each(folder: Path, model: Path, tmp_path: Path) -> None:
    for name in ("one.h5ad", "three.h5ad"):
        adata = ad.read_h5ad(folder / name)
        adata.obsm["spatial"][1] = adata.obsm["spatial"][0]
        adata.write_h5ad(folder / name)
    result = run("embed", folder / "*", "-m", model, "-o", tmp_path / "out", "--json")
    warned = {Path(each["input"]).name: each.get("warnings", []) for each in objects(result.stdout)}
    assert {name: len(lines) for name, lines in warned.items()} == {"one.h5ad": 1, "three.h5ad": 1, "two.zarr": 0}
    assert result.stderr.count("have the coordinates of another spot") == 2


@pytest.mark.parametrize("category", [FutureWarning, DeprecationWarning])
def test_a_deprecated_call_of_ours_is_an_error_in_tests(
    category: type[Warning], folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was hidden. A call by another package is not ours, and a user is shown what Python shows by default."""

    def warn(*_: Any, **__: Any) -> None:
        warnings.warn_explicit("of another", category, "scanpy.py", 1, module="scanpy.tl")
        warnings.warn_explicit("of sagefm", category, "tl.py", 1, module="sagefm.tl")
        raise sagefm.errors.ArgumentError("That was all.")

    monkeypatch.setattr(sagefm.tl, "embed", warn)
    arguments = ["embed", folder / "one.h5ad", "-m", model, "-o", tmp_path / "out.h5ad"]
    error = run(*arguments).exception
    assert isinstance(error, category)
    assert str(error) == "of sagefm"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        message = fails(1, *arguments)
    assert message == "Warning: of sagefm\n" * (category is FutureWarning) + "Error: That was all.\n"


def test_a_command_leaves_logging_as_it_was(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It disabled logging of the whole process: a command in a thread could leave it so."""
    noisy, other = (logging.getLogger(name) for name in ("spatialdata._logging", "a.users.logger"))
    noisy.addHandler(caplog.handler)
    monkeypatch.setattr(noisy, "level", logging.INFO)
    caplog.set_level(logging.INFO)

    def log(*_: Any, **__: Any) -> None:
        for logger in (noisy, other):
            logger.info("note")
        noisy.warning("a warning")
        raise sagefm.errors.ArgumentError("That was all.")

    monkeypatch.setattr(sagefm.tl, "embed", log)
    fails(1, "embed", folder / "one.h5ad", "-m", model, "-o", tmp_path / "out.h5ad")
    noisy.info("afterwards")
    noisy.removeHandler(caplog.handler)
    messages = [(record.name, record.message) for record in caplog.records]
    assert messages[:2] == [(other.name, "note"), (noisy.name, "a warning")]
    assert (noisy.name, "afterwards") in messages
    assert not noisy.filters


def test_a_number_that_is_none(section: ad.AnnData, model: Path, tmp_path: Path) -> None:
    """JSON knows no NaN."""
    section.X = section.X * 0
    section.write_h5ad(tmp_path / "s.h5ad")
    genes = ",".join(section.var_names[:2])
    text = succeeds("impute", tmp_path / "s.h5ad", "-m", model, "-o", tmp_path / "o.h5ad", "--genes", genes, "--json")
    assert "NaN" not in text
    assert objects(text)[0]["median_r"] is None


# The shell


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    """What the page tells to source is made by click, at once: nothing slow is imported."""
    assert f"_SAGEFM_COMPLETE={shell}_source sagefm" in (DOCS / "cli.md").read_text()
    code = "import sys; from sagefm.cli import main\ntry: main(prog_name='sagefm')\nfinally: print([m for m in ('numpy', 'torch') if m in sys.modules], file=sys.stderr)"
    environment = {**os.environ, "_SAGEFM_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if shell == "bash" and "Bash version" in done.stderr:
        pytest.skip("an old bash")
    assert done.returncode == 0, done.stderr
    assert "_SAGEFM_COMPLETE" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sagefm em", "embed"),
        ("sagefm embed --skip", "--skip-existing"),
        ("sagefm impute --mask n", "neighborhood"),
        ("sagefm train --arch", "--architecture"),
    ],
)
def test_completion(words: str, expected: str) -> None:
    given = words.split()
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(given) - 1), "_SAGEFM_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", "from sagefm.cli import main; main(prog_name='sagefm')"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"plain,{expected}" in done.stdout.splitlines()


def test_exit_codes_are_documented() -> None:
    """Each is tested: 0 and 1 all over, 2 in test_wrong_usage, 130 and 143 in test_a_run_that_was_stopped."""
    table = re.findall(r"^\| (\d+) \|", (DOCS / "cli.md").read_text(), flags=re.MULTILINE)
    assert table == ["0", "1", "2", "130", "143"]
    text = " ".join(succeeds("--help").split())
    assert "Exit status: 0 success, 1 " in text
    assert "2 wrong usage, 130 interrupted, 143 terminated" in text


def test_the_manual_names_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of docs/cli.md is made from the commands."""
    monkeypatch.syspath_prepend(DOCS / "_ext")
    text = importlib.import_module("generated").cli_help()
    for name, command in main.commands.items():
        manual = text.split(f"## `sagefm {name}`", 1)[1].split("\n## ", 1)[0]
        for parameter in command.params:
            is_argument = isinstance(parameter, click.Argument)
            assert (parameter.human_readable_name if is_argument else parameter.opts[-1]) in manual, parameter.name
    assert "{include} generated/cli_help.inc" in (DOCS / "cli.md").read_text()
