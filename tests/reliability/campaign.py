"""Load thousands of hostile checkpoints, each within 5 seconds and 1 GB:

    python -m tests.reliability.campaign folders --n 10000 --seed 0 --log folders.jsonl
    python -m tests.reliability.campaign archives --n 3000 --seed 0 --log archives.jsonl

Each is made from the seed and its number alone. It is loaded in a process that may take 1 GB beyond what it has after
its imports; one that takes longer than 5 seconds, or ends, is counted and replaced. Allowed are an error of
`sagefm.errors`, and a checkpoint whose parameters are finite and fit its genes. With a log, a run that was stopped
goes on where it was. Exit status 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("folders", "archives")
SECONDS = 5.0
BYTES = 1 << 30
_GOOD = ("refused", "loaded")


def load(kind: str, seed: int, number: int, scratch: Path) -> dict[str, Any]:
    """Make a checkpoint, load it, and return what happened."""
    import torch

    from sagefm.checkpoint._hub import describe
    from sagefm.errors import SagefmError
    from sagefm.model import load_checkpoint, load_published
    from tests.reliability.hostile_archives import make_file
    from tests.reliability.hostile_folders import make_folder

    rng, path = np.random.default_rng([seed, number]), scratch / "hostile"
    os.environ["SAGEFM_CACHE_DIR"] = str(scratch / "cache")
    record = {"number": number, "what": (make_folder if kind == "folders" else make_file)(rng, path)}
    start, cpu = time.perf_counter(), time.process_time()
    try:
        checkpoint = load_checkpoint(path) if kind == "folders" else load_published(path)
        describe(checkpoint)
        json.dumps([checkpoint.training, checkpoint.setup, checkpoint.history])
        parameters = checkpoint.network.state_dict().values()
        is_whole = all(values.dtype == torch.float32 and values.isfinite().all() for values in parameters)
        is_whole &= checkpoint.config.n_genes == len(checkpoint.vocabulary) == len(set(checkpoint.vocabulary.symbols))
        is_whole &= checkpoint.network.fc_gene.weight.shape == (checkpoint.config.n_genes, checkpoint.config.hidden[-1])
        record["result"] = "loaded" if is_whole else "loaded, but not whole"
    except SagefmError as error:
        record |= {"result": "refused", "error": type(error).__name__}
        message = str(error)
        record["message"] = message.replace(str(path), "")[:120]
        if len(message) > 3000 or not message.replace("\n", " ").isprintable():
            record["result"] = "message"
    except BaseException as error:  # noqa: BLE001 whatever it is, it is counted
        record |= {"result": "raised", "error": repr(error)[:300]}
    record |= {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    return record


def work(kind: str, seed: int) -> None:
    """Load the checkpoints whose numbers are read, one a line, and print what happened."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as scratch:
        # What is imported by the first is no memory of the others.
        load(kind, 0, 0, Path(scratch))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", flush=True)
    for line in sys.stdin:
        scratch = Path(tempfile.mkdtemp(prefix="hostile-"))
        try:
            print(json.dumps(load(kind, seed, int(line), scratch)), flush=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


class Worker:
    """A process that loads; started anew where it was ended."""

    def __init__(self, kind: str, seed: int) -> None:
        self.command = [sys.executable, "-m", "tests.reliability.campaign", kind, "--work", "--seed", str(seed)]
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, number: int) -> dict[str, Any]:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
            if self._line(120) != "ready":
                raise RuntimeError("The process that loads did not start.")
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        # Making one takes time as well, a busy machine more.
        line = self._line(12 * SECONDS)
        if line:
            record = json.loads(line)
            if record["cpu"] > SECONDS:
                record["result"] = "slow"
            return record
        try:
            self.process.wait(1)
            result = "ended"
        except subprocess.TimeoutExpired:
            result = "endless"
        self.close()
        return {"number": number, "what": "?", "result": result, "seconds": 0.0, "cpu": 0.0}

    def _line(self, seconds: float) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return self.process.stdout.readline().strip()
        except TimeoutError:
            return ""
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
            self.process = None


def _stop(*_: object) -> None:
    raise TimeoutError


def run(kind: str, seed: int, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yield what happened to each checkpoint."""
    worker = Worker(kind, seed)
    try:
        for number in numbers:
            yield worker(number)
    finally:
        worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.kind, arguments.seed)
        return 0
    lines = arguments.log.read_text().splitlines() if arguments.log and arguments.log.exists() else []
    records = {record["number"]: record for record in map(json.loads, lines)}
    missing = [number for number in range(arguments.n) if number not in records]
    for record in run(arguments.kind, arguments.seed, missing):
        records[record["number"]] = record
        if record["result"] not in _GOOD:
            print(json.dumps(record), flush=True)
        if arguments.log:
            with arguments.log.open("a") as log:
                log.write(json.dumps(record) + "\n")
    kept = [records[number] for number in range(arguments.n)]
    print(f"{arguments.kind}, seed {arguments.seed}: {len(kept)}, {dict(Counter(r['result'] for r in kept))}")
    print(f"errors: {dict(Counter(r['error'] for r in kept if r['result'] == 'refused'))}")
    cpu = sorted(r["cpu"] for r in kept)
    print(f"CPU seconds of a load: median {cpu[len(cpu) // 2]:.3f}, largest {cpu[-1]:.2f}")
    return int(any(r["result"] not in _GOOD for r in kept))


if __name__ == "__main__":
    sys.exit(main())
