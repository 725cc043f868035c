"""The tutorials: that they run, and that what they show was made by a run from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.store_tutorials import FOLDER, NOTEBOOKS, run

#: Packages of the extra `interop` that a tutorial uses.
NEEDS = {
    "3_perturbation": ["liana"],
    "4_many_sections": ["harmonypy", "spatialdata_plot"],
}
#: Of torch's version, the part that names the build, too.
NUMBER = re.compile(r"[-+−]?\d[\d,.]*(e[-+]?\d+)?%?(\+c(pu|u\d+))?")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[str]:
    """Return what a cell put out: text that was printed, without its numbers, and the types of data."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stdout":
                found.append(" ".join(NUMBER.sub("#", output.text).split()))
        else:
            found += sorted(output.data)
    return found


def test_there_are_seven():
    assert [path.stem[0] for path in NOTEBOOKS] == list("1234567")


@by_name
def test_is_stored_as_run(path):
    """Every cell once, in order, without an error or a warning; pictures say what they show; the text is checked."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    pictures = [cell for cell in cells if "image/png" in shown(cell)]
    assert pictures
    for cell in pictures:
        assert cell.metadata["mystnb"]["image"]["alt"]
    assert "remove-cell" in cells[-1].metadata["tags"]
    assert "assert" in cells[-1].source
    assert path.stat().st_size < 2e6


@by_name
def test_links_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in LINK.findall(text):
        assert (FOLDER / target).exists(), target


@pytest.mark.slow
@by_name
def test_runs(path, tmp_path):
    """In a kernel of its own and an empty folder; what its text says holds, and it shows what the stored one shows."""
    for package in NEEDS.get(path.stem, []):
        pytest.importorskip(package, reason="pip install 'sagefm[interop]'")
    for cell, before in zip(code_cells(run(path, tmp_path)), code_cells(read(path)), strict=True):
        assert shown(cell) == shown(before), cell.source
