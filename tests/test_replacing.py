"""Outputs that take the place of others: whole or not at all, on disks that are full, and whatever stops the process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import sagefm
from sagefm._replacing import left_aside, replacing, try_output
from sagefm.checkpoint._checkpoint import save_checkpoint
from sagefm.data._h5ad import write_h5ad
from sagefm.errors import ModelNotFoundError, OutputError, OutputExistsError, SagefmError
from sagefm.model import load_checkpoint

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
is_root = hasattr(os, "geteuid") and os.geteuid() == 0


def write(path: Path, text: str) -> None:
    """Write a store: a folder of one file."""
    path.mkdir()
    (path / "part").write_text(text)


@pytest.fixture(params=["file", "folder"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file, or a store, that says "old"."""
    path = tmp_path / "out"
    path.write_text("old") if request.param == "file" else write(path, "old")
    return path


def text(path: Path) -> str:
    return (path / "part" if path.is_dir() else path).read_text()


def put(path: Path, *, overwrite: bool = True, then: Callable[[], None] = lambda: None) -> None:
    """Put a new one of its kind at a path; do something else before it is moved there."""
    with replacing(path, overwrite=overwrite) as staged:
        staged.write_text("new") if path.is_file() else write(staged, "new")
        then()


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(OutputExistsError, match="it is a folder"), replacing(tmp_path / "out") as staged:
        staged.write_text("new")
    assert text(tmp_path / "out") == "old"


@pytest.mark.parametrize("path", ["", ".", "folder"])
def test_no_report_in_the_place_of_a_folder(
    path: str, section: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "folder", "old")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SagefmError, match=r"path=''|is a folder"):
        sagefm.report(section, path)
    assert text(tmp_path / "folder") == "old"


def test_replaced(path: Path) -> None:
    put(path)
    assert text(path) == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_block_that_raises(path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        put(path, then=fail)
    assert text(path) == "old"
    assert list(path.parent.iterdir()) == [path]


def test_folders_above_that_stay_empty_are_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), replacing(tmp_path / "a" / "b" / "out"):
        raise ValueError("no")
    try_output(tmp_path / "a" / "b" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays(path: Path, tmp_path: Path) -> None:
    """And so does one to nothing yet."""
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(path, target_is_directory=path.is_dir())
    dangling.symlink_to(tmp_path / "there", target_is_directory=path.is_dir())
    for each in (link, dangling):
        put(each)
        assert each.is_symlink()
    assert text(path) == text(tmp_path / "there") == "new"


def test_the_new_one_is_kept_where_it_cannot_take_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one stays, and the error says where the new one lies."""
    move = Path.replace

    def fail(source: Path, target: Path) -> Path:
        if target == path and not source.name.endswith("-before"):
            raise OSError("Device or resource busy")
        return move(source, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="Device or resource busy") as raised:
        put(path)
    assert text(path) == "old"
    staged = next(item for item in path.parent.iterdir() if item != path) / path.name
    assert str(staged) in str(raised.value)
    assert text(staged) == "new"


def test_not_overwritten_if_it_has_come_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(OutputExistsError, match="exists by now") as raised:
        put(path, overwrite=False, then=lambda: write(path, "theirs"))
    assert text(path) == "theirs"
    staged = next(item for item in tmp_path.iterdir() if item != path) / path.name
    assert text(staged) == "new"
    assert str(staged) in str(raised.value)


def test_threads_that_still_write_when_it_is_deleted(tmp_path: Path) -> None:
    """Those of zarr, after an interrupt."""

    def keep_writing(folder: Path) -> None:
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
                (folder / f"{time.monotonic_ns()}").touch()

    threads = []

    def fail() -> None:
        (scratch,) = tmp_path.iterdir()
        threads.append(threading.Thread(target=keep_writing, args=(scratch / "out",)))
        threads[0].start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "out", then=fail)
    threads[0].join()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def undeletable(tmp_path: Path) -> Iterator[Path]:
    """A store that cannot be deleted, though it can be renamed."""
    path = tmp_path / "out"
    write(path, "old")
    if not is_root:
        path.chmod(0o555)
        yield path
        for item in tmp_path.iterdir():
            item.chmod(0o755)
        return
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", path / "part"], check=False).returncode:
        pytest.skip("nothing is undeletable for root here")
    yield path
    for item in tmp_path.rglob("part"):
        subprocess.run(["chattr", "-i", item], check=True)


@posix
def test_what_cannot_be_deleted_is_named(undeletable: Path) -> None:
    with pytest.warns(UserWarning, match="could not be deleted") as warned:
        put(undeletable)
    assert text(undeletable) == "new"
    (before,) = (item for item in undeletable.parent.iterdir() if item != undeletable)
    assert text(before) == "old"
    assert str(before) in str(warned[0].message)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_moved_comes_after(
    number: signal.Signals, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each move: both stores would have been aside."""
    move = Path.replace

    def interrupted(source: Path, target: Path) -> Path:
        signal.raise_signal(number)
        result = move(source, target)
        signal.raise_signal(number)
        return result

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    monkeypatch.setattr(Path, "replace", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            put(path)
    finally:
        assert signal.signal(number, before) is stop
    assert text(path) == "new"
    assert list(path.parent.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from sagefm.checkpoint._checkpoint import load_checkpoint, save_checkpoint
model, folder, number = load_checkpoint(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
move, moves = Path.replace, []
def killed(source, target):
    moves.append(target)
    result = move(source, target)
    if len(moves) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Path.replace = killed
save_checkpoint(model, folder, overwrite=True)
"""


@posix
@pytest.mark.parametrize("number", [1, 2])
def test_killed_between_two_moves(number: int, folders: dict[str, Path], tmp_path: Path) -> None:
    """After the first the model is aside: what looks for it says where both are."""
    folder = shutil.copytree(folders["published"], tmp_path / "model")
    old, new = (load_checkpoint(path).sha256 for path in (folder, folders["default"]))
    run = subprocess.run([sys.executable, "-c", KILLED, folders["default"], folder, str(number)], check=False)
    assert run.returncode == -signal.SIGKILL
    if number == 2:
        assert load_checkpoint(folder).sha256 == new
        return
    kept = left_aside(folder)
    assert [load_checkpoint(path).sha256 for path in kept] == [old, new]
    with pytest.raises(ModelNotFoundError) as raised:
        load_checkpoint(folder)
    assert all(str(path) in str(raised.value) for path in kept)
    assert left_aside(tmp_path / "mode") == []


# Disks


def test_tried_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "out", tmp_path / ("n" * 300)):
        with pytest.raises(OutputError, match="cannot be written"):
            try_output(path)
    with pytest.raises(OutputError, match=r"takes about 1,000,000,000\.00 GB; the disk has"):
        try_output(tmp_path / "out", n_bytes=10**18)
    # As long as the file system takes it: ours is no longer.
    with replacing(tmp_path / ("n" * 255)) as staged:
        staged.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"file", "n" * 255}


@pytest.mark.skipif(is_root or os.name != "posix", reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            try_output(tmp_path / "out")
        with pytest.raises(OutputError, match="Permission denied"), replacing(tmp_path / "a" / "out"):
            pass
    finally:
        tmp_path.chmod(0o755)


LIMITED = """
import resource, sys
from pathlib import Path
import anndata, torch
import sagefm, sagefm.cli
from sagefm.checkpoint._checkpoint import save_checkpoint
from sagefm.model import load_checkpoint
from sagefm.training._fit import fit
what, folder, model, limit = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
section = anndata.read_h5ad(folder / "section.h5ad")
checkpoint = load_checkpoint(model)
sagefm.model.SAGEFM.setup_anndata(section)
network = sagefm.model.SAGEFM(section, hidden=(16, 8))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if what == "save":
        save_checkpoint(checkpoint, folder / "out", overwrite=True)
    elif what == "impute":
        sagefm.tl.impute(section, checkpoint, out=folder / "out", progress=False)
    elif what == "train":
        network.train(max_epochs=2, accelerator="cpu", progress=False, state_file=folder / "out")
    else:
        sagefm.cli.main(["embed", str(folder / "section.h5ad"), "-m", model, "--overwrite", "-o", str(folder / what)])
except sagefm.errors.OutputError as error:
    sys.exit(str(error))
"""


@posix
@pytest.mark.parametrize("limit", [*(pytest.param(n, marks=pytest.mark.slow) for n in (100, 20_000)), 5_000])
@pytest.mark.parametrize("what", ["save", "impute", "train", "s.h5ad", "s.zarr"])
def test_a_disk_that_takes_no_more(
    what: str, limit: int, section: ad.AnnData, folders: dict[str, Path], tmp_path: Path
) -> None:
    """By a limit on the size of files, which holds for root, too: a typed error, the old one, and nothing else."""
    section.obsm["wide"] = np.random.default_rng(0).normal(size=(section.n_obs, 100))
    section.write_h5ad(tmp_path / "section.h5ad")
    if what == "save":
        shutil.copytree(folders["published"], tmp_path / "out")
    elif what == "s.h5ad":
        shutil.copy(tmp_path / "section.h5ad", tmp_path / what)
    elif what == "s.zarr":
        section.write_zarr(tmp_path / what)
    before = sorted(tmp_path.rglob("*"))
    arguments = [what, tmp_path, folders["default"], limit]
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stderr
    # HDF5 crashed, or told of each object that it could not close.
    assert "Traceback" not in run.stderr
    assert "File too large" in run.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_h5ad_on_a_full_disk(section: ad.AnnData) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_h5ad(section, Path("/dev/full"))


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_h5ad_is_what_anndata_writes(compression: str | None, section: ad.AnnData, tmp_path: Path) -> None:
    section.raw = section.copy()
    section.obs["text"] = ["a", "b"] * (section.n_obs // 2)
    section.uns["nested"] = {"table": section.var.copy(), "none": np.arange(3)}
    write_h5ad(section.copy(), tmp_path / "ours.h5ad", compression=compression)
    section.write_h5ad(tmp_path / "theirs.h5ad", compression=compression)
    ours, theirs = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("ours", "theirs"))
    assert str(ours) == str(theirs)
    assert ours.obs.equals(theirs.obs)
    assert ours.raw.var.equals(theirs.raw.var)
    for mine, yours in ((ours.X, theirs.X), (ours.raw.X, theirs.raw.X)):
        assert (mine != yours).nnz == 0
    sizes = [(tmp_path / f"{name}.h5ad").stat().st_size for name in ("ours", "theirs")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@posix
def test_rights_are_those_of_any_new_file(default: sagefm.model.Checkpoint, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(default, tmp_path / "model")
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o640}
