"""A whole `sagefm embed` on the bundled section, imports included: seconds, and where they go.

python tests/benchmarks/process.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from embed import seconds

import sagefm
from sagefm.model import SAGEFM

_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        adata = sagefm.datasets.dlpfc()
        adata.write_h5ad(Path(folder) / "section.h5ad")
        SAGEFM.setup_anndata(adata)
        model = SAGEFM(adata)
        model.train(max_epochs=1, progress=False)
        model.save(Path(folder) / "model")
        command = ["-m", "sagefm.cli", "embed", f"{folder}/section.h5ad", "-m", f"{folder}/model"]
        command += ["-o", f"{folder}/embedded.h5ad", "--overwrite"]
        # A process for the graph that is built, as in a first use.
        times = [
            seconds(lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True))
            for _ in range(arguments.repeats + 1)
        ][1:]
        listed = subprocess.run(
            [sys.executable, "-X", "importtime", *command], check=True, capture_output=True, text=True
        ).stderr
    by_package: Counter[str] = Counter()
    for microseconds, name in _LINE.findall(listed):
        by_package[name.split(".")[0]] += int(microseconds)
    imports = sum(by_package.values()) / 1e6
    print(
        f"{adata.n_obs} spots x {adata.n_vars} genes, median of {arguments.repeats} processes\n| part | seconds |\n|---|---|"
    )
    print(f"| whole process | {statistics.median(times):.2f} |")
    print(f"| imports (of one process that times them) | {imports:.2f} |")
    for name, microseconds in by_package.most_common(12):
        print(f"| - {name} itself | {microseconds / 1e6:.2f} |")


if __name__ == "__main__":
    main()
