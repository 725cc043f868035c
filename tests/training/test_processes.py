"""Training on two processes is training on one; a run that was killed ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from sagefm.errors import ArgumentError, CheckpointError, SagefmError
from sagefm.model import SAGEFM, load_checkpoint
from tests.training.worker import OneThread, train

WORKER = str(Path(__file__).with_name("worker.py"))


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Two real processes under gloo: losses of every epoch, and parameters, as in one process with the same steps."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*launcher, WORKER, str(tmp_path), "2"], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for architecture in ("default", "published"):
        one = train(architecture, n_shards=2)
        found = json.loads((tmp_path / f"{architecture}.json").read_text())
        assert set(found) == set(one.history)
        for name, frame in one.history.items():
            # D2 is a difference of nearly equal losses.
            atol = 1e-5 if name == "validation_d2" else 0
            np.testing.assert_allclose(found[name], frame.iloc[:, 0], rtol=1e-4, atol=atol, err_msg=name)
        parameters = load_checkpoint(tmp_path / architecture).network.state_dict()
        for name, expected in one.module.state_dict().items():
            torch.testing.assert_close(parameters[name], expected, rtol=1e-3, atol=1e-5)
        assert not np.allclose(train(architecture).history["train_loss"], one.history["train_loss"], rtol=1e-4)


def same(first, second):
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))
    assert set(first.history) == set(second.history)
    assert all(first.history[name].equals(second.history[name]) for name in first.history)


class Stop(Callback):
    """Raise after some steps, or in a validation."""

    def __init__(self, step: int, *, in_validation: bool = False) -> None:
        self.step, self.in_validation = step, in_validation

    def on_train_batch_end(self, trainer, *_):
        if not self.in_validation and trainer.global_step == self.step:
            raise RuntimeError("stopped")

    def on_validation_batch_start(self, trainer, *_):
        if self.in_validation and trainer.global_step >= self.step:
            raise RuntimeError("stopped")


class Overwrite(Callback):
    """Overwrite a file with zeros once training has begun."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_start(self, *_):
        self.path.write_bytes(b"")
        self.path.write_bytes(bytes(100_000))


@pytest.fixture(scope="module")
def whole():
    """The run that nothing stops, with dropout, early stopping and a schedule."""
    return train("default", dropout=0.3)


def test_killed(tmp_path, whole):
    """Killed in the third epoch, by the signal that no process can answer."""
    steps = 2 * len(whole.train_indices) // 32 + 2
    run = subprocess.run([sys.executable, WORKER, str(tmp_path), "1", str(steps)], capture_output=True, check=False)
    assert run.returncode == -9, run.stderr[-2000:]
    assert (tmp_path / "state").exists()
    again = train("default", dropout=0.3, state_file=tmp_path / "state")
    same(again, whole)
    assert len(again.history["train_loss"]) == 4


@pytest.mark.parametrize("stop", range(1, 30, 4))
def test_stopped_at_any_step(stop, tmp_path, whole):
    with pytest.raises(RuntimeError, match="stopped"):
        train("default", dropout=0.3, state_file=tmp_path / "state", callbacks=[Stop(stop)])
    same(train("default", dropout=0.3, state_file=tmp_path / "state"), whole)


def test_stopped_in_validation_and_again(tmp_path, whole):
    for step in (12, 20):
        with pytest.raises(RuntimeError, match="stopped"):
            train("default", dropout=0.3, state_file=tmp_path / "state", callbacks=[Stop(step, in_validation=True)])
    same(train("default", dropout=0.3, state_file=tmp_path / "state"), whole)


def test_stopped_early_stays_stopped(tmp_path):
    """Early stopping counts on where it was."""
    arguments = {"lr": 0.3, "patience": 2, "max_epochs": 30, "dropout": 0.3}
    expected = train("default", **arguments)
    assert len(expected.history["train_loss"]) < 30
    steps = round(len(expected.train_indices) / 32) * (len(expected.history["train_loss"]) - 1) + 1
    with pytest.raises(RuntimeError, match="stopped"):
        train("default", **arguments, state_file=tmp_path / "state", callbacks=[Stop(steps)])
    same(train("default", **arguments, state_file=tmp_path / "state"), expected)


def test_a_state_of_another_run(tmp_path):
    path = tmp_path / "state"
    train("default", state_file=path, max_epochs=2)
    with pytest.raises(CheckpointError, match=r"another run \(batch_size: 32 there, 16 here\)"):
        train("default", state_file=path, batch_size=16)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train("default", state_file=path)


def test_longer(tmp_path, whole):
    """More epochs may be added to a run."""
    train("default", dropout=0.3, state_file=tmp_path / "state", max_epochs=2)
    same(train("default", dropout=0.3, state_file=tmp_path / "state"), whole)


def test_bad_shards():
    with pytest.raises(ArgumentError, match="n_shards=0"):
        train("default", n_shards=0)


def test_a_state_of_other_data(tmp_path):
    """The same names and sizes, but other genes, or other counts."""
    path = tmp_path / "state"
    train("default", state_file=path, max_epochs=2)
    for change in ("genes", "counts"):
        with pytest.raises(CheckpointError, match="another run"):
            train("default", state_file=path, change=change)


def test_a_state_that_is_done(tmp_path):
    train("default", state_file=tmp_path / "state", max_epochs=3)
    with pytest.raises(CheckpointError, match="after 2 epochs, and max_epochs=2"):
        train("default", state_file=tmp_path / "state", max_epochs=2)


@pytest.mark.slow
def test_a_state_that_one_process_sees(tmp_path):
    """Two processes with files of their own, one of which is not there: an error in both, no hang."""
    train("published", n_shards=2, state_file=tmp_path / "state0", max_epochs=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*launcher, WORKER, str(tmp_path), "2", "apart"], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode != 0
    assert "expected one file that all of them see" in run.stderr


def test_strategies_that_fork_are_refused():
    with pytest.raises(ArgumentError, match=r"would be lost\. Pass strategy='ddp'"):
        train("default", devices=2, strategy="ddp_fork")


def test_a_second_training_that_is_stopped(tmp_path):
    """It goes on as if it had not been; a state of the first is not one of it."""
    arguments = {"max_epochs": 4, "batch_size": 32, "lr": 3e-3, "accelerator": "cpu", "progress": False}
    first = train("default", dropout=0.3, max_epochs=2)
    first.save(tmp_path / "first")
    models = [SAGEFM.load(tmp_path / "first", first.adata) for _ in range(3)]
    expected, stopped, again = models
    expected.train(**arguments, callbacks=[OneThread()])
    with pytest.raises(RuntimeError, match="stopped"):
        stopped.train(**arguments, state_file=tmp_path / "state", callbacks=[OneThread(), Stop(25)])
    again.train(**arguments, state_file=tmp_path / "state", callbacks=[OneThread()])
    same(again, expected)
    with pytest.raises(CheckpointError, match="first_epoch: 2 there, 0 here"):
        train("default", dropout=0.3, state_file=tmp_path / "state")


def test_a_cosine_is_not_made_longer(tmp_path):
    """It ends with the last epoch: other epochs are another run."""
    train("default", schedule="cosine", state_file=tmp_path / "state", max_epochs=3)
    with pytest.raises(CheckpointError, match="max_epochs: 3 there, 4 here"):
        train("default", schedule="cosine", state_file=tmp_path / "state")


def test_best_parameters_of_a_state_are_copies(tmp_path):
    """What stays mapped to the file changes with it, and on some systems it cannot be replaced then."""
    path, expected = tmp_path / "state", train("default")
    with pytest.raises(RuntimeError, match="stopped"):
        train("default", state_file=path, callbacks=[Stop(25)])
    same(train("default", state_file=path, callbacks=[Overwrite(path)]), expected)


@pytest.mark.parametrize("part", ["tensors", "header", "end"])
def test_a_damaged_state_is_refused(part, tmp_path):
    """One bit, anywhere; or a file that is cut short."""
    path = tmp_path / "state"
    train("default", state_file=path, max_epochs=2)
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    if part == "end":
        path.write_bytes(content[:-100])
    else:
        # A digit of a loss stays a digit.
        place = len(content) - 40 if part == "tensors" else content.index(b"train_loss", 0, size + 8) + 17
        content[place] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read" if part == "end" else "was damaged") as raised:
        train("default", state_file=path, max_epochs=3)
    assert str(path) in str(raised.value)


class Signal(Callback):
    """Send the process a signal, after some steps."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("has_state", [True, False])
def test_terminated(has_state, tmp_path, whole, caplog):
    """Lightning exits with 0, as if the model had been trained."""
    state = {"state_file": tmp_path / "state"} if has_state else {}
    with pytest.raises(SystemExit) as stopped:
        train("default", dropout=0.3, callbacks=[Signal(signal.SIGTERM, 25)], **state)
    assert stopped.value.code == 143
    kept = "after 3 epochs is kept in" if has_state else "nothing of this training is kept"
    assert kept in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == list(dict.fromkeys(["state"] * has_state))
    if has_state:
        same(train("default", dropout=0.3, **state), whole)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupted(tmp_path, whole):
    """Lightning exits with 1, which ends a notebook's kernel."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            train("default", dropout=0.3, state_file=tmp_path / "state", callbacks=[Signal(signal.SIGINT, 25)])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert "after 3 epochs is kept in" in stopped.value.__notes__[0]
    same(train("default", dropout=0.3, state_file=tmp_path / "state"), whole)


@pytest.mark.parametrize("name", ["folder", "file/state"])
def test_a_state_that_cannot_be_written(name, tmp_path):
    """It is tried before the first epoch."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SagefmError):
        train("default", state_file=tmp_path / name)
