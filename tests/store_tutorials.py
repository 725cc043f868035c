"""Run tutorials from top to bottom, and store them with what they show.

python -m tests.store_tutorials [tutorials/1_domains.ipynb ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: Path, folder: Path) -> Any:
    """Return a notebook after a run in a kernel of its own, in `folder`, without times, versions and progress bars."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        # Two prints of a cell are one text, however long the machine takes between them.
        coalesce_streams=True,
        resources=resources,
    )
    # Pictures in the notebook, whatever the tests draw with.
    client.execute(env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    for key in set(notebook.metadata) - {"kernelspec"}:
        del notebook.metadata[key]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook


def main() -> None:
    """Store the notebooks that the command line names, or all of them."""
    for path in map(Path, sys.argv[1:] or NOTEBOOKS):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(path, Path(folder))
        nbformat.write(notebook, path)
        sys.stdout.write(f"{path.stem}: {time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
