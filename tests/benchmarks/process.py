"""First embeddings in processes of their own, against a process that imports anndata and torch and does nothing.

Each is run on the bundled section, in turn; times are the least of the repeats: seconds on the clock, and of the CPU,
which others on the machine change less. Then the packages whose imports take longest.

python tests/benchmarks/process.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import sagefm

_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")
_BOUND = "import anndata, torch"


def process_times(*arguments: str) -> tuple[float, float]:
    """Return the seconds of one Python process, on the clock and of the CPU."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_times(path: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the least seconds, on the clock and of the CPU, of processes that import, embed, and run the command."""
    first = "import anndata, sagefm, sys; sagefm.tl.embed(anndata.read_h5ad(sys.argv[1]))"
    commands = {
        f"`{_BOUND}`: the bound": ["-c", _BOUND],
        "first `tl.embed`, with reading the file": ["-c", first, str(path)],
        "`sagefm embed FILE`": embed_command(path),
    }
    rounds = [[process_times(*command) for command in commands.values()] for _ in range(repeats)]
    least = (
        (min(walls), min(cpus)) for walls, cpus in (zip(*times, strict=True) for times in zip(*rounds, strict=True))
    )
    return dict(zip(commands, least, strict=True))


def embed_command(path: Path) -> list[str]:
    """Return the arguments of a Python process that embeds a file."""
    return ["-m", "sagefm.cli", "embed", str(path), "-o", str(path.with_name("embedded.h5ad")), "--overwrite"]


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        adata = sagefm.datasets.dlpfc()
        path = Path(folder) / "section.h5ad"
        adata.write_h5ad(path)
        times = first_times(path, arguments.repeats)
        listed = subprocess.run(
            [sys.executable, "-X", "importtime", *embed_command(path)], check=True, capture_output=True, text=True
        ).stderr
    print(f"{adata.n_obs} spots x {adata.n_vars} genes, with the graph; least of {arguments.repeats} processes")
    print("| process | seconds | CPU seconds | CPU seconds / bound |\n|---|---|---|---|")
    bound = next(iter(times.values()))[1]
    for name, (wall, cpu) in times.items():
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {cpu / bound:.2f} |")
    by_package: Counter[str] = Counter()
    for microseconds, name in _LINE.findall(listed):
        by_package[name.split(".")[0]] += int(microseconds)
    print("\n| package | seconds of its own imports, of one `sagefm embed FILE` that times them |\n|---|---|")
    print(f"| all | {sum(by_package.values()) / 1e6:.2f} |")
    for name, microseconds in by_package.most_common(8):
        print(f"| {name} | {microseconds / 1e6:.2f} |")


if __name__ == "__main__":
    main()
