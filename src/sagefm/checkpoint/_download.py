"""A large file from an address to the user's cache: continued where it stopped, checked before it is there."""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from sagefm.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "SAGEFM_CACHE_DIR"
#: Seconds to connect, and between two pieces of an answer.
_TIMEOUT = (10.0, 60.0)
_CHUNK_BYTES = 1 << 16
#: Connections to one download; each but the last must have brought something.
_CONNECTIONS = 20


def cache_folder() -> Path:
    """Return the folder of files fetched or converted: ``SAGEFM_CACHE_DIR``, or the one of the operating system."""
    import pooch

    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("sagefm")).expanduser()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let one process at a time write `path`; raise a CheckpointError where the cache cannot be written."""
    from filelock import FileLock, Timeout

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
    """Download a file of known size and hash; `target` appears when it is complete and verified.

    An interrupted download is kept beside it, as ``.part``, and continued by the next call; a file with another hash is
    deleted.

    Raises
    ------
    CheckpointError
        The server cannot be reached, or what it sends has another size or hash.
    OSError
        The file cannot be written.
    """
    import pooch
    import requests

    part = target.with_name(f"{target.name}.part")
    try:
        pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}",
            fname=target.name,
            path=target.parent,
            downloader=ResumableDownloader(part, size=size, progress=progress),
        )
    except requests.RequestException as error:
        answer = error.response if isinstance(error, requests.HTTPError) else None
        reason = type(error).__name__ if answer is None else f"it answered {answer.status_code} {answer.reason}"
        kept = f" {part.stat().st_size:,} of {size:,} bytes are kept; call again to continue." if part.exists() else ""
        raise CheckpointError(f"Could not download {url}: {reason}.{kept}") from error
    except CheckpointError:
        raise
    except ValueError as error:  # pooch: the hash, found and expected; the file has been deleted
        raise CheckpointError(f"{url} holds another file than the published one. {error}") from error


class ResumableDownloader:
    """Downloader for pooch that continues a partial file by HTTP range requests.

    A lost connection is taken up again as long as it brings something. A server that knows no ranges is asked for the
    whole file.
    """

    def __init__(self, part: Path, *, size: int, progress: bool) -> None:
        self.part = part
        self.size = size
        self.progress = progress

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        """Download `url` to `output_file`, as pooch calls it."""
        import requests

        if self._held() > self.size:
            self.part.unlink()
        for _ in range(_CONNECTIONS):
            before = self._held()
            if before == self.size:
                break
            try:
                self._connect(url)
            except requests.RequestException as error:
                if isinstance(error, requests.HTTPError) or self._held() <= before:
                    raise
            if self._held() <= before:
                break
            if self._held() < self.size:
                logger.info("Connection lost after %s of %s bytes; continuing.", self._held(), self.size)
        if self._held() != self.size:
            raise requests.ConnectionError("The answers end too early.")
        self.part.replace(output_file)

    def _held(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _connect(self, url: str) -> None:
        """Ask for what is missing and append it, or start over if the server sends all of it."""
        import requests

        held = self._held()
        # Ranges and lengths count the bytes sent: no compression on the way.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self.part.unlink()
                raise CheckpointError(f"{url} holds fewer than {held:,} bytes; expected {self.size:,}.")
            response.raise_for_status()
            start, total = _range_of(response)
            if total is not None and total != self.size:
                raise CheckpointError(f"{url} holds {total:,} bytes; expected {self.size:,}: it is another file.")
            if start not in (0, held):
                raise requests.ConnectionError(f"asked for bytes from {held} on, got them from {start} on")
            with (
                self.part.open("ab" if start else "wb") as file,
                # None: silent where there is no terminal.
                tqdm(
                    total=self.size,
                    initial=start,
                    desc="download",
                    unit="B",
                    unit_scale=True,
                    disable=None if self.progress else True,
                ) as bar,
            ):
                for chunk in response.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if file.tell() > self.size:
                        raise CheckpointError(f"{url} holds more than the expected {self.size:,} bytes.")


def _range_of(response: requests.Response) -> tuple[int, int | None]:
    """Return the first byte that is sent, and the size of the whole file where the server tells it."""
    if response.status_code == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found:
            return int(found[1]), None if found[2] == "*" else int(found[2])
        return -1, None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
