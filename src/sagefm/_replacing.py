"""Outputs that are written whole or not at all: beside their place, then moved there; what was there goes last."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagefm.errors import OutputError, OutputExistsError, SagefmError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What would end the process, or the block that runs; SIGKILL cannot be held.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: End of the name of what was at a place, while the new one is moved there.
_BEFORE = "-before"
#: Bytes of a file's name that leave room for ours around it.
_MAX_NAME = 200
#: How often a folder is deleted that threads may still write to, and the seconds between.
_ATTEMPTS, _PAUSE = 20, 0.05


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, which then takes the place of `path`.

    It lies in a hidden folder beside `path`. If the block raises, that folder is removed and `path` stays as it was. If
    all was written and cannot be moved, it is kept, and the error says where. A link stays a link: what it points to is
    replaced. Folders above `path` are made, and removed again if nothing comes into them.
    """
    with typed_errors(path), ExitStack() as cleaning:
        target = _follow(path)
        scratch = _make_scratch(target, cleaning)
        staged = scratch / target.name
        yield staged
        _flush(staged)
        before = scratch.with_name(f"{scratch.name}{_BEFORE}")
        with _signals_held():
            try:
                _move(staged, target, before, overwrite=overwrite)
            except OSError as error:
                cleaning.pop_all()
                kind = OutputExistsError if isinstance(error, OutputExistsError) else OutputError
                raise kind(
                    f"{path} is as it was, and the new one could not take its place: {_reason(error)}. It is whole, at "
                    f"{staged}: move it to another name."
                ) from error
            _remove(before)
        if before.exists():
            warnings.warn(f"{path} is replaced; what was there before could not be deleted: {before}", stacklevel=3)


def try_file(path: str | os.PathLike[str], *, n_bytes: int = 0) -> None:
    """Raise an OutputError unless a file can be written at `path`, where there is no folder, of `n_bytes`."""
    if Path(path).is_dir():
        raise OutputExistsError(f"{path} is a folder: it is not overwritten. Choose the path of a file.")
    try_output(path, n_bytes=n_bytes)


def try_output(path: str | os.PathLike[str], *, n_bytes: int = 0) -> None:
    """Raise an OutputError unless a file or folder can be written at `path`, and its disk has room for `n_bytes`."""
    with typed_errors(path), ExitStack() as cleaning:
        target = _follow(path)
        scratch = _make_scratch(target, cleaning)
        (scratch / target.name).write_bytes(b"\0")
        free = shutil.disk_usage(scratch).free
        if free < n_bytes:
            raise OutputError(
                f"{path} takes about {n_bytes / 1e9:,.2f} GB; the disk has {free / 1e9:,.2f} GB left. Free some, or "
                f"choose a path on another disk."
            )


def left_aside(path: Path) -> list[Path]:
    """Return what a process that was killed while it replaced `path` left beside it: the old one, and the new one."""
    try:
        target = path.resolve()
        # Eight characters, as tempfile draws them: no other name fits.
        found = list(target.parent.glob(f"{glob.escape(_prefix(target))}????????{_BEFORE}"))
    except (OSError, ValueError):
        # No file can have such a name.
        return []
    kept: list[Path] = []
    for before in found:
        kept += [before, before.with_name(before.name.removesuffix(_BEFORE)) / target.name]
    return [item for item in kept if item.exists()]


@contextmanager
def typed_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file system into an OutputError that names `path`."""
    try:
        yield
    except SagefmError:
        raise
    except OSError as error:
        # The input, say, on a disk that is gone.
        other = error.filename if error.filename and Path(path).name not in str(error.filename) else ""
        raise OutputError(f"{path} cannot be written: {_reason(error)}{other and f' ({other})'}.") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".")


def _follow(path: str | os.PathLike[str]) -> Path:
    """Return what a path points to, through links."""
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # before Python 3.13, a circle of links
        raise OutputError(f"{path} cannot be written: {error}.") from error


def _prefix(target: Path) -> str:
    name = target.name
    return f".{name if len(os.fsencode(name)) <= _MAX_NAME else sha256(os.fsencode(name)).hexdigest()[:16]}-"


def _make_scratch(target: Path, cleaning: ExitStack) -> Path:
    """Return a new hidden folder beside `target`; `cleaning` removes it, and folders above it that stay empty."""
    missing = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    with _signals_held():
        cleaning.callback(_remove_empty, missing)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        cleaning.callback(_remove, scratch)
    return scratch


def _move(staged: Path, target: Path, before: Path, *, overwrite: bool) -> None:
    """Move `staged` to `target`; a folder that was there is then `before`, or back in its place if this fails."""
    if not overwrite and target.exists():
        raise OutputExistsError("it exists by now")
    if not target.is_dir():
        staged.replace(target)
        return
    if not staged.is_dir():
        raise OutputExistsError("it is a folder, which no file replaces")
    # Beside it, not into the scratch folder: a folder that may not be written cannot get another parent.
    target.replace(before)
    try:
        staged.replace(target)
    except OSError:
        before.replace(target)
        raise


def _flush(path: Path) -> None:
    """Have the disk hold what was written, before anything else is deleted."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("r+b") as opened:
                os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    with _signals_held():
        for _ in range(_ATTEMPTS):
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                return
            # Threads of zarr finish what they write after an interrupt.
            time.sleep(_PAUSE)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect after the block; other threads than the main one get none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers: dict[int, Any] = {}
    try:
        for number in map(int, _SIGNALS):
            # None: a handler that is not Python's, which could not be put back.
            if signal.getsignal(number) is not None:
                handlers[number] = signal.getsignal(number)
                signal.signal(number, lambda signum, _frame: held.append(signum))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)
