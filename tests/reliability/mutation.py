"""Mutants of data, module, inference and metrics, a random sample, each against the tests of its room:

    pip install cosmic-ray
    git worktree add ../mutants && cd ../mutants && python -m tests.reliability.mutation --n 200 --seed 0 --log mutants.jsonl

cosmic-ray changes one operator, number or branch of a file, runs the tests and puts the file back: run this in a tree
of its own. Prints the share that the tests notice with its 95 % interval (Wilson), and the diff of each that they do
not. With a log, a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

#: Rooms, and the tests of each.
ROOMS = {
    "data": "tests/data tests/test_bad_input.py tests/test_bad_genes.py tests/test_odd_genes.py tests/test_odd_counts.py "
    "tests/test_odd_places.py tests/test_check.py tests/test_accepted_input.py",
    "module": "tests/module tests/inference/test_closed_forms.py tests/training/test_training.py tests/checkpoint/test_formats.py",
    "inference": "tests/inference tests/test_domains.py tests/test_regulatory_network.py tests/test_masking.py",
    "metrics": "tests/metrics",
}
SECONDS = 600


def draw(n: int, seed: int) -> list[Any]:
    """Return mutations of cosmic-ray, a random sample of all, the same for a seed."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB, use_db

    paths = [path for room in ROOMS for path in sorted(Path("src/sagefm", room).glob("*.py"))]
    with tempfile.TemporaryDirectory() as folder, use_db(str(Path(folder, "session.sqlite")), WorkDB.Mode.create) as db:
        init(paths, db, {})
        mutations = sorted((mutation for item in db.work_items for mutation in item.mutations), key=name_of)
    order = np.random.default_rng(seed).permutation(len(mutations))[:n]
    print(f"{len(mutations)} mutants, of which {len(order)} are drawn", flush=True)
    return [mutations[i] for i in order]


def name_of(mutation: Any) -> str:
    """Return file, operator and place of a mutation."""
    return f"{mutation.module_path} {mutation.operator_name} {mutation.operator_args} {mutation.occurrence}"


def main() -> int:
    from cosmic_ray.mutating import mutate_and_test

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("mutants.jsonl"))
    arguments = parser.parse_args()
    lines = arguments.log.read_text().splitlines() if arguments.log.exists() else []
    records = {record["mutant"]: record for record in map(json.loads, lines)}
    for mutation in draw(arguments.n, arguments.seed):
        if (name := name_of(mutation)) in records:
            continue
        command = (
            f"{sys.executable} -m pytest -q -x -p no:cacheprovider {ROOMS[Path(mutation.module_path).parent.name]}"
        )
        result = mutate_and_test([mutation], command, SECONDS)
        records[name] = {"mutant": name, "outcome": str(result.test_outcome).split(".")[-1].lower()}
        if records[name]["outcome"] == "survived":
            records[name]["diff"] = result.diff
            print(result.diff, flush=True)
        with arguments.log.open("a") as log:
            log.write(json.dumps(records[name]) + "\n")
    killed = sum(record["outcome"] == "killed" for record in records.values())
    interval = stats.binomtest(killed, len(records)).proportion_ci(method="wilson")
    print(f"{killed} of {len(records)} killed: {killed / len(records):.1%} ({interval.low:.1%} to {interval.high:.1%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
