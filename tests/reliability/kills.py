"""Processes killed at random moments: what is lost, what is left half, and what comes of running the same again.

    python -m tests.reliability.kills --kills 200 --seed 0 --log kills.jsonl

Each kill is a process of its own, forked from one that has imported everything. It is sent SIGKILL, SIGTERM or SIGINT: at
a random time, or at a random one of the moments at which it opens, moves or deletes something in its folder. Then its
outputs are read, and the same work is done again, to the end. A run that was stopped goes on from its log.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Imported before the forks, which then begin with their work.
import sagefm.cli._each
import sagefm.inference._couplings_table
import sagefm.model
import sagefm.pp
import sagefm.tl  # noqa: F401
from tests.reliability.jobs import Contents, Job, jobs, make_inputs, make_server

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
#: What is counted as a moment: audit events of Python whose first argument is a path.
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.scandir")


@dataclass(frozen=True)
class Reference:
    """A run that nothing stops: seconds, moments, outputs before and after."""

    seconds: float
    n_events: int
    before: Contents
    after: Contents


@dataclass(frozen=True)
class Kill:
    """One kill, and what came of it."""

    index: int
    job: str
    signal: str
    moment: str
    status: int
    outcome: str
    leftovers: int
    problem: str


def main() -> None:
    """Kill, print the counts, and exit with 1 if anything was lost, half or unequal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="JSON lines; kills that it holds are not done again")
    arguments = parser.parse_args()
    log = arguments.log
    done = [Kill(**json.loads(line)) for line in log.read_text().splitlines()] if log and log.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        kills = campaign(Path(scratch), arguments.kills, arguments.seed, done, log)
    sys.stdout.write(report(kills, arguments.seed))
    sys.exit(any(kill.problem for kill in kills))


def campaign(scratch: Path, n_kills: int, seed: int, done: list[Kill], log: Path | None) -> list[Kill]:
    """Return the kills of a seed, those that are done among them."""
    inputs = scratch / "inputs"
    inputs.mkdir()
    wait(fork(lambda: make_inputs(inputs), scratch / "log"))
    server = make_server()
    serving = fork(server.serve_forever, scratch / "log")
    try:
        todo = jobs(inputs, f"http://127.0.0.1:{server.server_port}/file")
        references: dict[str, Reference] = {}
        kills = {kill.index: kill for kill in done}
        for index in range(n_kills):
            job = todo[index % len(todo)]
            if index in kills:
                continue
            if job.name not in references:
                references[job.name] = run_whole(job, scratch / "whole")
            kills[index] = kill_once(index, job, references[job.name], scratch / "killed", seed)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(asdict(kills[index])) + "\n")
        return [kills[index] for index in range(n_kills)]
    finally:
        os.kill(serving, signal.SIGKILL)
        wait(serving)


def run_whole(job: Job, folder: Path) -> Reference:
    """Do the work without a kill, count its moments, and read its outputs."""
    before = prepare(job, folder)
    start = time.monotonic()
    status = wait(fork(lambda: count_events(job, folder, folder / "events"), folder / "log"))
    seconds = time.monotonic() - start
    if status:
        raise RuntimeError(f"{job.name} fails by itself:\n{(folder / 'log').read_text()}")
    return Reference(seconds, int((folder / "events").read_text()), before, read(job, folder))


def kill_once(index: int, job: Job, reference: Reference, folder: Path, seed: int) -> Kill:
    """Kill one process, look at what it left, and do its work again."""
    rng = np.random.default_rng([seed, index])
    how = SIGNALS[int(rng.integers(len(SIGNALS)))]
    prepare(job, folder)
    if rng.random() < 0.5:
        seconds = float(rng.uniform(0, reference.seconds))
        moment, child = f"{seconds:.3f} s", fork(lambda: job.run(folder), folder / "log")
        time.sleep(seconds)
        os.kill(child, how)
    else:
        event = int(rng.integers(reference.n_events)) + 1
        moment = f"event {event} of {reference.n_events}"
        child = fork(lambda: run_until(job, folder, event, how), folder / "log")
    status = wait(child)
    outcome, problem = judge(job, reference, folder, status, how)
    hidden = [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")]
    if hidden and job.is_command and how != signal.SIGKILL and status:
        problem = problem or f"left {hidden}"
    if not problem:
        again = wait(fork(lambda: job.run(folder), folder / "again"))
        problem = f"again: status {again}: {(folder / 'again').read_text()[-500:]}" if again else ""
        if not problem and read(job, folder) != reference.after:
            problem = "again: another result"
    return Kill(index, job.name, how.name, moment, status, outcome, len(hidden), problem)


def judge(job: Job, reference: Reference, folder: Path, status: int, how: signal.Signals) -> tuple[str, str]:
    """Return what the outputs are after a kill, and what is wrong with them or with the exit status, if anything."""
    text = (folder / "log").read_text()
    allowed = {0, -how, 128 + how} if how == signal.SIGKILL or not job.is_command else {0, 128 + how}
    # Before the command had taken the signals over.
    allowed |= {-how, 130} if not text else set()
    if status not in allowed:
        return "", f"status {status}: {text[-500:]}"
    if "Traceback" in text and job.is_command:
        return "", f"traceback: {text[-500:]}"
    found = read(job, folder)
    if "error" in found:
        return "", f"half: {found['error']}"
    is_aside = found.pop("aside", "") == "yes"
    for name in {*reference.before, *found}:
        if found.get(name) not in {reference.before.get(name), reference.after.get(name)}:
            return "", f"{name} is neither the old nor the new one: {found.get(name, 'lost')}"
    if status == 0:
        return "finished", "" if found == reference.after else "exit 0 without the outputs"
    if is_aside:
        return "aside", ""
    return ("as before" if found == reference.before else "new" if found == reference.after else "in part"), ""


# Processes


def fork(work: Callable[[], Any], log: Path) -> int:
    """Start a process that does some work, as Python would end it; return its id."""
    if threading.active_count() > 1:
        raise RuntimeError(f"A process with {threading.enumerate()} is not to be forked.")
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # In the background a shell has its children ignore interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 as Python would end it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(child: int) -> int:
    """Return the exit status of a process, the negative signal if one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def prepare(job: Job, folder: Path) -> Contents:
    """Empty a folder, write what was there before, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if status := wait(fork(lambda: job.before(folder), folder / "prepared")):
        raise RuntimeError(f"status {status}: {(folder / 'prepared').read_text()}")
    return read(job, folder)


def read(job: Job, folder: Path) -> Contents:
    """Return the outputs of a folder, read by a process of its own; or what was raised, as ``error``."""

    def work() -> None:
        try:
            found = job.contents(folder)
        except Exception as error:  # noqa: BLE001 whatever is half-written
            found = {"error": f"{type(error).__name__}: {error}"}
        (folder / "contents").write_text(json.dumps(found))

    (folder / "contents").unlink(missing_ok=True)
    wait(fork(work, folder / "reading"))
    contents: Contents = json.loads((folder / "contents").read_text())
    return contents


def listen(folder: Path, react: Callable[[int], None]) -> None:
    """Call a function with the number of each moment in a folder."""
    count, prefix = 0, str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in EVENTS and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(prefix):
            count += 1
            react(count)

    sys.addaudithook(hook)


def count_events(job: Job, folder: Path, path: Path) -> None:
    """Do the work, and write the number of its moments to a file."""
    counts: list[int] = []
    listen(folder, counts.append)
    try:
        job.run(folder)
    finally:
        n_events = len(counts)
        path.write_text(str(n_events))


def run_until(job: Job, folder: Path, event: int, how: signal.Signals) -> None:
    """Do the work up to a moment, and kill the process there."""
    listen(folder, lambda count: os.kill(os.getpid(), how) if count == event else None)
    job.run(folder)


def report(kills: list[Kill], seed: int) -> str:
    """Return the counts as text."""
    outcomes = ["as before", "new", "in part", "aside", "finished"]
    signals = [number.name for number in SIGNALS]
    head = ["work", "kills", *signals, *outcomes, "hidden folder left", "problems"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in [*dict.fromkeys(kill.job for kill in kills), "all"]:
        own = [kill for kill in kills if name in (kill.job, "all")]
        by_signal, by_outcome = Counter(kill.signal for kill in own), Counter(kill.outcome for kill in own)
        left = sum(kill.leftovers > 0 for kill in own)
        cells = [name, len(own), *(by_signal[each] for each in signals), *(by_outcome[each] for each in outcomes)]
        lines.append("| " + " | ".join(map(str, [*cells, left, sum(bool(kill.problem) for kill in own)])) + " |")
    lines += [
        f"{kill.job}, kill {kill.index}, {kill.signal} at {kill.moment}: {kill.problem}"
        for kill in kills
        if kill.problem
    ]
    return f"seed {seed}\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
