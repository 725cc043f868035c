"""A large file from an address to the user's cache: continued where it stopped, checked before it is there."""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pooch
import requests
from filelock import FileLock, Timeout

from sagefm._progress import ProgressBar
from sagefm.data._files import file_sha256
from sagefm.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "SAGEFM_CACHE_DIR"
#: Seconds to connect, and between two pieces of an answer.
_TIMEOUT = (10.0, 60.0)
_CHUNK_BYTES = 1 << 16


def cache_folder() -> Path:
    """Return the folder of files fetched or converted: ``SAGEFM_CACHE_DIR``, or the one of the operating system."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("sagefm")).expanduser()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let one process at a time write `path`; raise a CheckpointError if the cache cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Another process is fetching or converting this checkpoint; waiting for it.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise CheckpointError(
            f"Cannot write to the cache {path.parent}: {error}. "
            f"Name a folder on a disk with room by the environment variable {CACHE_VARIABLE}."
        ) from error


def fetch(url: str, target: Path, *, sha256: str, size: int, progress: bool = True) -> None:
    """Download a file of known hash and size; `target` appears when it is complete and verified.

    An interrupted download is kept beside it, with ``.part`` added to its name, and continued by the next call. A file
    with another hash is deleted.
    """
    if target.is_file() and file_sha256(target) == sha256:
        return
    part = target.with_name(f"{target.name}.part")
    try:
        _complete(url, part, size, progress=progress)
    except requests.RequestException as error:
        answer = error.response if isinstance(error, requests.HTTPError) else None
        reason = type(error).__name__ if answer is None else f"it answered {answer.status_code} {answer.reason}"
        kept = f" {part.stat().st_size:,} of {size:,} bytes are kept; call again to continue." if part.exists() else ""
        raise CheckpointError(f"Could not download {url}: {reason}.{kept}") from error
    if (found := file_sha256(part)) != sha256:
        part.unlink()
        raise CheckpointError(f"{url} holds another file than the published one: its sha256 is {found}, not {sha256}.")
    part.replace(target)


def _complete(url: str, part: Path, size: int, *, progress: bool) -> None:
    """Bring a partial file to its size; a lost connection is taken up again if it has brought something."""
    if _held(part) > size:
        part.unlink()
    while (before := _held(part)) < size:
        try:
            _append(url, part, size, progress=progress)
        except requests.RequestException:
            if _held(part) <= before:
                raise
        if _held(part) <= before:
            raise requests.ConnectionError("The answers end too early.")
        if _held(part) < size:
            logger.info("Connection lost after %s of %s bytes; continuing.", _held(part), size)


def _held(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(url: str, part: Path, size: int, *, progress: bool) -> None:
    """Ask for what a partial file lacks and append it, or start over if the server sends all of it."""
    held = _held(part)
    # Ranges and lengths count the bytes sent: no compression on the way.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)
            raise CheckpointError(f"{url} holds fewer than {held:,} bytes; expected {size:,}.")
        response.raise_for_status()
        start, total = _range_of(response)
        if total is not None and total != size:
            raise CheckpointError(f"{url} holds {total:,} bytes; expected {size:,}: it is another file.")
        if start not in (0, held):
            raise requests.ConnectionError(f"asked for bytes from {held} on, got them from {start} on")
        bar = ProgressBar("download", size, "B", unit_scale=True, initial=start, progress=progress)
        with bar, part.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    raise CheckpointError(f"{url} holds more than the expected {size:,} bytes.")


def _range_of(response: requests.Response) -> tuple[int, int | None]:
    """Return the first byte that is sent (-1: unknown), and the size of the whole file if the server tells it."""
    if response.status_code == requests.codes.partial_content:
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
