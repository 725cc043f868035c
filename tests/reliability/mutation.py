"""Mutants of data, module, inference and metrics: does a test notice that an operator, number or branch is changed?

In a tree of its own, since the files there are changed and put back:

    pip install cosmic-ray
    git worktree add ../mutants && cd ../mutants
    pytest -n 2 --cov --cov-context=test --durations=0 -vv > durations.txt
    python -m tests.reliability.mutation --n 150 --seed 0 --log mutants.jsonl

cosmic-ray makes the mutants; a random sample of them is drawn. Left out are those of type annotations and of
``if TYPE_CHECKING`` blocks, which never run.

A mutant is run against the tests that execute the changed statement, as coverage saw them (first command above):

- If no test does, those that execute the function around it. If no test does that either (a process of its own, say),
  all tests of the room.
- What runs on import (constants, defaults, decorators): the tests that execute a line which names what it defines.
- Where a fixture executes it, the room's own tests come after these, since coverage sees only the first test that asks
  for a fixture.

They run in this order: tests of the room's own folder first, one set of parameters of each before the second of any,
the quick ones first; until one fails, or until they add up to ``--seconds``. So a survivor may be noticed by tests that
were not run: ``--survivors --seconds 600`` runs the survivors of the log again, with more tests. A mutant whose tests
take far longer than they should counts as noticed (an endless loop).

Prints the share that is noticed with its 95 % interval (Wilson), and the diff of each survivor. With the log, a run that
was stopped goes on where it was. What is imported, but `sagefm`, is imported once; each mutant runs in a fork.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import gc
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import coverage
import numpy as np
import pytest
from scipy import stats

ROOMS = ("data", "module", "inference", "metrics")
SOURCE = Path("src/sagefm")
#: Of pytest. Packages that are plugins of it, too, are imported before it starts (it warns of that).
OPTIONS = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
#: Exit code of a fork in which pytest did not work.
BROKEN = 99
#: Imported before the forks.
PACKAGES = [
    *("torch", "torch_geometric", "lightning", "scvi", "scanpy", "squidpy", "spatialdata", "mudata", "dask.array"),
    *("distributed", "matplotlib.pyplot", "hypothesis", "hypothesis.extra.numpy", "sklearn.mixture"),
    *("sklearn.neighbors", "sklearn.linear_model"),
]


def draw(n: int, seed: int) -> list[Any]:
    """Return mutations of cosmic-ray, a random sample of all that can run, the same for a seed."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB, use_db

    paths = [path for room in ROOMS for path in sorted((SOURCE / room).glob("*.py"))]
    with tempfile.TemporaryDirectory() as folder, use_db(str(Path(folder, "session.sqlite")), WorkDB.Mode.create) as db:
        init(paths, db, {})
        mutations = sorted((mutation for item in db.work_items for mutation in item.mutations), key=name_of)
    running = [mutation for mutation in mutations if not never_runs(mutation)]
    order = np.random.default_rng(seed).permutation(len(running))[:n]
    never = len(mutations) - len(running)
    print(f"{len(mutations)} mutants, {never} of them in annotations; {len(order)} are drawn", flush=True)
    return [running[i] for i in order]


def name_of(mutation: Any) -> str:
    """Return file, operator and place of a mutation."""
    return f"{mutation.module_path} {mutation.operator_name} {mutation.operator_args} {mutation.occurrence}"


@cache
def parse(path: Path) -> ast.Module:
    """Return the tree of a file."""
    return ast.parse(path.read_text())


@cache
def never_run(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where the annotations and ``if TYPE_CHECKING`` blocks of a file begin and end: lines and columns."""
    nodes: list[ast.AST | None] = []
    for node in ast.walk(parse(path)):
        nodes += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.append(node)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]  # type: ignore[attr-defined]


def never_runs(mutation: Any) -> bool:
    """Return whether a mutation is in an annotation or in a block for type checkers."""
    place = tuple(mutation.start_pos)
    return any(start <= place < end for start, end in never_run(mutation.module_path))


class Tests:
    """The tests that execute each line, and how long they take.

    Parameters
    ----------
    data
        Coverage's data, with the tests as contexts.
    durations
        Output of ``pytest --durations=0 -vv``.
    """

    def __init__(self, data: Path, durations: Path) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        for seconds, test in re.findall(r"^([\d.]+)s (?:setup|call|teardown) +(\S.*)$", durations.read_text(), re.M):
            self.seconds[test] += float(seconds)
        measured = coverage.CoverageData(str(data))
        measured.read()
        self.contexts: dict[Path, dict[int, set[str]]] = {}
        for file in measured.measured_files():
            path = SOURCE / file.rpartition(f"/{SOURCE}/")[2]
            lines = measured.contexts_by_lineno(file)
            self.contexts[path] = {line: {c for c in contexts if c} for line, contexts in lines.items()}

    def for_mutation(self, mutation: Any, seconds: float) -> list[str]:
        """Return tests that can notice a mutation, in the order in which to run them."""
        path, room = mutation.module_path, mutation.module_path.parent.name
        contexts: set[str] = set()
        for lines in places(path, mutation.start_pos[0]):
            contexts = {c for file, line in lines for c in self.contexts.get(file, {}).get(line, ())}
            if contexts:
                break
        tests = self._in_order({context.rpartition("|")[0] for context in contexts}, room)
        if not contexts or any(context.endswith("|setup") for context in contexts):
            own = {test for test in self.seconds if test.startswith(f"tests/{room}/")}
            tests += self._in_order(own - set(tests), room)
        sums = np.cumsum([self.seconds[test] for test in tests])
        return tests[: max(1, int(np.searchsorted(sums, seconds, side="right")))]

    def _in_order(self, tests: set[str], room: str) -> list[str]:
        """Return tests, those of the room first, then one case of each function before the second of any."""
        cases: Counter[str] = Counter()
        keys = {}
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            function = test.partition("[")[0]
            keys[test] = (not test.startswith(f"tests/{room}/"), cases[function], self.seconds[test], test)
            cases[function] += 1
        return sorted(tests, key=keys.__getitem__)


def places(path: Path, line: int) -> Iterator[list[tuple[Path, int]]]:
    """Yield the lines whose tests to take, and in turn the wider ones that replace them where no test executes them."""
    around = [
        node
        for node in ast.walk(parse(path))
        if isinstance(node, ast.stmt) and first_line(node) <= line <= (node.end_lineno or 0)
    ]
    around.sort(key=lambda node: (node.end_lineno or 0) - first_line(node))
    functions = [node for node in around if isinstance(node, ast.FunctionDef)]
    if functions and line >= functions[0].body[0].lineno:
        for node in around[: around.index(functions[-1]) + 1]:
            header = getattr(node, "body", None) and line < node.body[0].lineno  # type: ignore[attr-defined]
            end = node.body[0].lineno - 1 if header else node.end_lineno or 0  # type: ignore[attr-defined]
            yield [(path, number) for number in range(first_line(node), end + 1)]
        return
    names = {name for node in around for name in defines(node)}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, sorted(names))) + r")\b") if names else None
    own = functions[0] if functions else None
    lines = [(path, number) for number in range(first_line(own), (own.end_lineno or 0) + 1)] if own else []
    for file in sorted(SOURCE.rglob("*.py")):
        inside = {n for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef) for n in body_lines(node)}
        texts = enumerate(file.read_text().splitlines(), start=1)
        lines += [(file, number) for number, text in texts if number in inside and pattern and pattern.search(text)]
    yield lines


def first_line(node: Any) -> int:
    """Return the first line of a statement, decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def body_lines(node: ast.FunctionDef) -> range:
    """Return the lines that a call of a function runs."""
    return range(node.body[0].lineno, (node.end_lineno or 0) + 1)


def defines(node: ast.AST) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


@contextlib.contextmanager
def mutated(mutation: Any) -> Iterator[str]:
    """Change a file, give the diff, and put the file back."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    path = mutation.module_path
    before = path.read_text()
    after = mutate_code(before, get_operator(mutation.operator_name)(**mutation.operator_args), mutation.occurrence)
    compiled = Path(importlib.util.cache_from_source(path))
    try:
        compiled.unlink(missing_ok=True)
        path.write_text(after)
        yield "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), lineterm="", n=2))
    finally:
        path.write_text(before)
        compiled.unlink(missing_ok=True)


def run(tests: list[str], seconds: float) -> tuple[str, str]:
    """Run tests in a fork and return whether one fails ("killed", "survived" or "timeout"), and the last of the output."""
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush()
        if not (pid := os.fork()):
            os.setsid()
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            status = BROKEN
            try:
                status = int(pytest.main([*OPTIONS, *tests]))
            finally:
                # Whatever it was, the fork must not go on as the parent.
                if status == BROKEN:
                    traceback.print_exc()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        stop = time.monotonic() + seconds
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < stop:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if not ended[0]:
            os.waitpid(pid, 0)
            return "timeout", ""
        output.seek(0)
        text = output.read().decode(errors="replace")
        status = os.waitstatus_to_exitcode(ended[1])
        if status == BROKEN or "ERROR: not found" in text:
            raise RuntimeError(f"pytest itself did not work:\n{text}")
        return "killed" if status else "survived", text[-1500:]


def check_tree() -> None:
    """Refuse a tree that may be somebody's, or whose package is not the one that would be tested."""
    changed = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=True).stdout
    if changed:
        raise SystemExit(f"src is changed; undo it with `git checkout src`:\n{changed}")
    folders = ["git", "rev-parse", "--git-dir", "--git-common-dir"]
    own, common = subprocess.run(folders, capture_output=True, text=True, check=True).stdout.split()
    if Path(own).resolve() == Path(common).resolve():
        raise SystemExit(
            "This is the main tree of the repository. Run it in a tree of its own: git worktree add ../mutants"
        )
    origin = getattr(importlib.util.find_spec("sagefm"), "origin", None)
    if not origin or not Path(origin).is_relative_to(SOURCE.resolve()):
        raise SystemExit(
            f"sagefm would be imported from {origin}; put this tree first: PYTHONPATH={SOURCE.parent.resolve()}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=40, help="of tests for each mutant")
    parser.add_argument("--survivors", action="store_true", help="run those again that survived, whatever --n")
    parser.add_argument("--coverage", type=Path, default=Path(".coverage"))
    parser.add_argument("--durations", type=Path, default=Path("durations.txt"))
    parser.add_argument("--log", type=Path, default=Path("mutants.jsonl"))
    arguments = parser.parse_args()
    check_tree()
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in PACKAGES:
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
    gc.freeze()
    known = Tests(arguments.coverage, arguments.durations)
    lines = arguments.log.read_text().splitlines() if arguments.log.exists() else []
    records = {record["mutant"]: record for record in map(json.loads, lines)}
    mutations = draw(len(records) if arguments.survivors else arguments.n, arguments.seed)
    outcome, output = run(known.for_mutation(mutations[0], arguments.seconds), 600)
    if outcome != "survived":
        raise SystemExit(f"Tests fail where nothing is changed:\n{output}")
    for mutation in mutations:
        before = records.get(name_of(mutation))
        if before and not (arguments.survivors and before["outcome"] == "survived"):
            continue
        tests = known.for_mutation(mutation, arguments.seconds)
        start = time.monotonic()
        with mutated(mutation) as diff:
            outcome, output = run(tests, 90 + 5 * sum(known.seconds[test] for test in tests))
        record = {
            "mutant": name_of(mutation),
            "outcome": outcome,
            "tests": len(tests),
            "seconds": round(time.monotonic() - start, 1),
            "diff": diff,
            "output": output if outcome == "killed" else "",
        }
        records[record["mutant"]] = record
        if outcome == "survived":
            print(diff, flush=True)
        with arguments.log.open("a") as log:
            log.write(json.dumps(record) + "\n")
    noticed = sum(record["outcome"] != "survived" for record in records.values())
    interval = stats.binomtest(noticed, len(records)).proportion_ci(method="wilson")
    print(
        f"{noticed} of {len(records)} noticed: {noticed / len(records):.1%} ({interval.low:.1%} to {interval.high:.1%})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
