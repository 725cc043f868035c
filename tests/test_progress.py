"""Progress bars: shown in a terminal and in a notebook, named after the step, gone when it is done; nowhere else."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import anndata as ad
import nbformat
import pytest
from nbclient import NotebookClient

import sagefm
from tests.store_tutorials import WIDGET

pty = pytest.importorskip("pty", reason="terminals of POSIX")
fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")

#: Bars are shown from the start, however fast the machine is.
AT_ONCE = "import sagefm._progress; sagefm._progress._DELAY = 0\n"
VERBS = """
import warnings
import pandas as pd
import sagefm
warnings.simplefilter("ignore")
adata = sagefm.io.read("section.h5ad")
genes = list(adata.var_names)
model = sagefm.model.SAGEFM
model.setup_anndata(adata)
model = model(adata, hidden=(16, 8))
model.train(max_epochs=1, accelerator="cpu"%(quiet)s)
sagefm.pp.check(adata, verbose=False%(quiet)s)
sagefm.pp.aggregate_bins(adata, width=300.0%(quiet)s)
sagefm.tl.embed(adata, model%(quiet)s)
sagefm.tl.domains(adata%(quiet)s)
sagefm.tl.impute(adata, model, genes=genes[:2]%(quiet)s)
sagefm.tl.perturb(adata, model, sources=genes[:1], targets=genes[1:3]%(quiet)s)
sagefm.tl.regulatory_network(adata, genes[:5], genes[5:9]%(quiet)s)
adata.obs["label"] = adata.obs["domain"]
sagefm.tl.annotate(adata, adata, label_key="label"%(quiet)s)
sagefm.metrics.controls(adata, n_components=3%(quiet)s)
sagefm.metrics.noise_ceiling(adata.X%(quiet)s)
sagefm.metrics.recovery(adata.X, adata.X%(quiet)s)
corpus = sagefm.datasets.Corpus(["section.h5ad"])
corpus.manifest(%(first)s), corpus.gene_counts(%(first)s), corpus.expressed_genes(min_groups=1%(quiet)s)
print("done")
"""
LOUD = {"quiet": "", "first": ""}
QUIET = {"quiet": ", progress=False", "first": "progress=False"}
STEPS = [
    "reading section",
    "checking counts, genes and coordinates",
    "train",
    "aggregating bins",
    "embed",
    "domains: principal components",
    "domains: smoothing",
    "domains: choosing their number",
    "domains: finding",
    "impute",
    "perturb",
    "couplings",
    "annotate",
    "controls",
    "noise ceiling",
    "recovery",
    "reading files",
    "reading names of genes",
    "reading genes",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small section."""
    sagefm.datasets.simulate(100, n_genes=40, rng=0).write_h5ad(tmp_path / "section.h5ad")
    return tmp_path


def in_terminal(code: str, folder: Path) -> str:
    """Return what Python writes to a terminal of 100 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    written = bytearray()
    while True:
        try:
            part = os.read(master, 1 << 16)
        # Of Linux, where nobody writes any more; elsewhere there is nothing to read.
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(master)
    assert process.wait() == 0, written.decode()
    return written.decode()


def screen(written: str) -> list[str]:
    """Return the lines that stay on a terminal."""
    lines, column = [""], 0
    for character in written:
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
            column = 0
        else:
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + character + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.slow
def test_verbs_name_their_steps_in_a_terminal_and_leave_nothing(folder: Path) -> None:
    written = in_terminal(AT_ONCE + VERBS % LOUD, folder)
    assert [step for step in STEPS if f"\r{step}" not in written] == []
    assert screen(written) == ["done"]


@pytest.mark.slow
def test_nothing_elsewhere(folder: Path) -> None:
    """Neither to a pipe, which a log or another program reads, nor to a terminal with progress=False."""
    code = AT_ONCE + VERBS % LOUD
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
    written = in_terminal(
        AT_ONCE + VERBS.replace('read("section.h5ad")', 'read("section.h5ad"%(quiet)s)') % QUIET, folder
    )
    assert written == "done\r\n"


def test_commands_show_them_too(folder: Path) -> None:
    code = "from sagefm.cli import main; main(['domains', 'section.h5ad', '-n', '3', '-o', 'out.h5ad'])"
    written = in_terminal(AT_ONCE + code, folder)
    for step in ("reading section", "domains: smoothing", "writing out.h5ad"):
        assert f"\r{step}" in written
    shown = screen(written)
    assert shown[0].startswith("section.h5ad: 100 spots")
    assert shown[-1] == "Wrote out.h5ad"
    assert not [line for line in shown if "reading" in line or "smoothing" in line]


def test_warnings_of_commands_have_lines_of_their_own(folder: Path) -> None:
    """Also while a bar is shown."""
    odd = ad.read_h5ad(folder / "section.h5ad")
    odd.X = odd.X.toarray()
    odd.X[0, 0] = 1e6
    odd.write_h5ad(folder / "section.h5ad")
    code = "from sagefm.cli import main; main(['domains', 'section.h5ad', '-n', '3', '-o', 'out.h5ad'])"
    shown = screen(in_terminal(AT_ONCE + code, folder))
    assert len([line for line in shown if line.startswith("Warning: ")]) == 1
    assert not [line for line in shown if "principal components" in line]


def test_a_bar_is_shown_after_a_while_and_short_work_shows_none(tmp_path: Path) -> None:
    code = """
import sagefm._progress as progress
progress._DELAY = 600
with progress.ProgressBar("short", 2, "spot") as bar:
    bar.update(2)
    bar.set_description_str("short, too")
progress._DELAY = 0.01
with progress.ProgressBar("long") as bar:
    bar._timer.join()
try:
    with progress.ProgressBar("broken", 2, "spot") as bar:
        bar._timer.join()
        bar.update()
        raise ValueError
except ValueError:
    print("done")
"""
    written = in_terminal(code, tmp_path)
    assert "short" not in written
    assert "\rlong ..." in written
    assert "\rbroken:   0%" in written
    assert screen(written) == ["done"]


def test_in_a_notebook(tmp_path: Path) -> None:
    """Short work leaves no output; the widget of longer work is closed when it is done."""
    cells = [
        "import sagefm._progress as progress",
        "progress._DELAY = 600\nwith progress.ProgressBar('short', 2) as bar:\n    bar.update(2)",
        "progress._DELAY = 0.01\nwith progress.ProgressBar('long', 2) as bar:\n    bar._timer.join()",
        "assert bar.container.comm is None",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [[WIDGET in output.get("data", {}) for output in cell.outputs] for cell in notebook.cells] == [
        [],
        [],
        [True],
        [],
    ]


@pytest.mark.parametrize("n_done", [0, 1])
def test_a_bar_that_was_interrupted_while_it_was_made(n_done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python deletes it all the same, and must have nothing to say about it."""
    from sagefm._progress import ProgressBar

    bar = ProgressBar.__new__(ProgressBar)
    if n_done:
        monkeypatch.setattr("sagefm._progress.Timer", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            bar.__init__("work", file=_Terminal())
    bar.close()


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
