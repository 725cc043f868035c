"""The authors' checkpoint, from the user's own copy or downloaded at request, as a checkpoint of this package.

The authors state no license for the file. Nothing of it is part of this package: a user who asks for it gets it from
the authors' repository, and it is converted on the user's machine.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sagefm._arguments import as_path, printable, shown
from sagefm.checkpoint._archive import check_archive
from sagefm.checkpoint._checkpoint import Checkpoint, check_finite, load_checkpoint, save_checkpoint
from sagefm.checkpoint._download import cache_folder, fetch, writing
from sagefm.data._files import file_sha256
from sagefm.data._genes import published_vocabulary
from sagefm.errors import ArgumentError, CheckpointError, ModelNotFoundError
from sagefm.module._config import PUBLISHED_HIDDEN, NetworkConfig
from sagefm.module._pooled import PooledNetwork

logger = logging.getLogger(__name__)

PUBLISHED_NAME: Final = "published"
_STATE_KEY = "model_state_dict"
#: First bytes of a file that torch.save wrote before PyTorch 1.6.
_BEFORE_ZIP: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
#: Items of a list, and characters of a text, of what is kept of the settings.
_MAX_SETTINGS: Final = 64
_MAX_TEXT: Final = 200
#: Entries of the authors' dictionary that say how the network was trained.
_FACTS = (
    "epoch", "best_val_loss", "hidden_channels", "learning_rate", "weight_decay", "mask_percentage", "batch_size",
    "in_channels", "num_gene_features",
)  # fmt: skip


@dataclass(frozen=True)
class PublishedFile:
    """Where the authors' file is, how it is known, and the terms that they give."""

    url: str
    sha256: str
    size_bytes: int
    repository: str
    commit: str
    license: str


PUBLISHED: Final = PublishedFile(
    url=(
        "https://media.githubusercontent.com/media/dayenai/SAGE-FM/be30af71007fbd7e6d693cdeeae2d55aa306dbfc/"
        "Pre-trained%20Model/HEST1k_epoch_126_hidden_1024_512_512_512_1024_lr_5e-05_wd_0.0001_mask_0.3_batch_64.pt"
    ),
    sha256="7b2e7ec1e4609f047afb3dc7cd308a2f839fcaea2215e5a3e7da10898bfe4288",
    size_bytes=376_893_782,
    repository="https://github.com/dayenai/SAGE-FM",
    commit="15fe51faf13d05678b00834d0577a2245210007e",
    license="none stated; not to be redistributed",
)


def load_published(path: str | os.PathLike[str] | None = None, *, progress: bool = True) -> Checkpoint:
    """Return the published network with its vocabulary of 14,558 genes, from the authors' file.

    The file is read once and stored, converted to safetensors and JSON, in the cache: the folder that the environment
    variable ``SAGEFM_CACHE_DIR`` names, or the one of the operating system. Later calls, and
    ``sagefm.tl.embed(adata, model="published")``, read the cache and need neither the file nor a network.

    The authors state no license for the file. It is not part of sagefm; do not redistribute it, nor what it is
    converted to.

    Parameters
    ----------
    path
        Your own copy of the authors' ``.pt`` file, or a network that you trained with their scripts on the published
        genes; a file with only the parameters will do (of PyTorch 1.6 or later). Default: the published file, from the cache or downloaded
        (377 MB) and verified. An interrupted download is continued.
    progress
        Show how much is downloaded, in a terminal or a notebook.

    Returns
    -------
    The :class:`~sagefm.model.Checkpoint`. Its ``training`` holds the settings stored in the file, and its ``source``:
    sha256, size, and address, or a note that the sha256 differs from that of the published file.

    Raises
    ------
    ModelNotFoundError
        There is no file `path`.
    CheckpointError
        The download fails, or brings another file than the published one; the file was not written by ``torch.save``,
        or needs code to load, which is never run; it does not hold the parameters of this network, or they are not
        finite; the cache cannot be written.

    References
    ----------
    Zhan et al., SAGE-FM, arXiv:2601.15504 (2026); https://github.com/dayenai/SAGE-FM.

    Examples
    --------
    >>> import sagefm
    >>> checkpoint = sagefm.model.load_published("FILE.pt")  # doctest: +SKIP
    """
    copy = None if path is None else _checked(path)
    sha256 = PUBLISHED.sha256 if copy is None else file_sha256(copy)
    if sha256 != PUBLISHED.sha256:
        logger.warning(
            "%s is not the published file (sha256 %s, published %s): it is loaded as a training of your own.",
            copy,
            sha256,
            PUBLISHED.sha256,
        )
    folder = cache_folder() / "published" / sha256
    if not folder.exists():
        # Read before anything is written: a file that is refused leaves nothing in the cache.
        checkpoint = None if copy is None else read_published(copy, sha256=sha256)
        with writing(folder):
            # Another process may have converted it while this one waited.
            if not folder.exists():
                _convert(checkpoint, folder, progress=progress)
    try:
        return load_checkpoint(folder, name=PUBLISHED_NAME if sha256 == PUBLISHED.sha256 else str(copy))
    except CheckpointError as error:
        raise CheckpointError(f"{error} It belongs to the cache: delete {folder} and call again.") from error


def convert_published(path: str | os.PathLike[str], folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Convert the authors' ``.pt`` file to a checkpoint folder, and return the folder."""
    file = _checked(path)
    return save_checkpoint(read_published(file, sha256=file_sha256(file)), folder, overwrite=overwrite)


def read_published(path: Path, *, sha256: str) -> Checkpoint:
    """Read the authors' file, without running anything it may hold; `sha256` is its hash, for the record."""
    stored = _load_tensors(path)
    facts = {key: _plain(stored[key]) for key in _FACTS if key in stored}
    source: dict[str, Any] = {"file": _plain(path.name), "sha256": sha256, "size_bytes": path.stat().st_size}
    if sha256 == PUBLISHED.sha256:
        source |= asdict(PUBLISHED)
    else:
        source["note"] = f"sha256 differs from the published file ({PUBLISHED.sha256})"
    return Checkpoint(
        network=_make_network(dict(dict.items(stored.get(_STATE_KEY, stored))), path),
        vocabulary=published_vocabulary(),
        name=str(path),
        training={**facts, "source": source},
    )


# The cache


def _convert(checkpoint: Checkpoint | None, folder: Path, *, progress: bool) -> None:
    """Write a checkpoint to the cache; None: the published one, downloaded."""
    file = folder.with_name(f"{folder.name}.pt")
    if checkpoint is None:
        _download(file, progress=progress)
        checkpoint = read_published(file, sha256=PUBLISHED.sha256)
    save_checkpoint(checkpoint, folder)
    file.unlink(missing_ok=True)
    logger.info("Converted the checkpoint to %s.", folder)


def _download(file: Path, *, progress: bool) -> None:
    record = PUBLISHED
    if not file.exists():
        logger.warning(
            "Downloading the authors' checkpoint (%d MB) from %s. Its authors state no license: it is not part of "
            "sagefm, is kept in your cache (%s) alone, and is not to be redistributed.",
            round(record.size_bytes / 1e6),
            record.repository,
            file.parent,
        )
    try:
        fetch(record.url, file, sha256=record.sha256, size=record.size_bytes, progress=progress)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nBy hand: (1) where there is a network, download {record.url} "
            f"({record.size_bytes:,} bytes, sha256 {record.sha256}); (2) copy it to any folder of this machine; "
            f"(3) sagefm.model.load_published('FILE.pt'). After that, model='published' needs no network."
        ) from error


# The file


def _checked(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is safe to read."""
    path = as_path(path, name="path").expanduser()
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder; expected the authors' .pt file. A checkpoint folder is read by "
            f"sagefm.model.load_checkpoint({str(path)!r}), or passed as model={str(path)!r}."
        )
    try:
        # A pipe would wait for its writer, a device has no end, and some of what the system shows as files neither.
        if path.exists() and not (path.is_file() and path.stat().st_size):
            raise CheckpointError(f"{path} is empty, a pipe or a device; expected the authors' .pt file.")
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"Found no file {path}; expected the authors' .pt file. "
            f"sagefm.model.load_published() downloads it ({PUBLISHED.size_bytes / 1e6:.0f} MB)."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        check_archive(path)
    except ValueError as error:
        raise CheckpointError(_why_unreadable(path, head, str(error))) from error
    return path


def _load_tensors(path: Path) -> dict[str, Any]:
    """Return what a checked file holds; tensors stay in the file until they are copied."""
    try:
        # The one torch.load of this package. Mapped: nothing is read that is not asked for.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(_why_unreadable(path, b"", "torch cannot load it")) from error
    # By dict's own method: a stored object may hold others of the same names.
    stored = dict(dict.items(loaded)) if isinstance(loaded, dict) else {}
    if not _is_state(stored.get(_STATE_KEY, stored)):
        keys = [key if isinstance(key, str) else type(key).__name__ for key in list(stored)[:6]]
        content = f"the keys {shown(keys)}" if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"{path} holds {content}; expected a dictionary with {_STATE_KEY!r}, parameters by name, or just those."
        )
    return stored


def _is_state(stored: Any) -> bool:
    """Whether an object is a dictionary of parameters by name."""
    return (
        isinstance(stored, dict)
        and bool(stored)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in dict.items(stored))
    )


def _why_unreadable(path: Path, head: bytes, reason: str) -> str:
    """Say why a file that begins with `head` is refused."""
    code = re.search(r"GLOBAL (\S+)|it calls (\S+)", reason)
    if code:
        needed = next(group for group in code.groups() if group)
        return (
            f"{path} needs code to load ({shown(needed)}), and sagefm never runs code from a file: nothing of it was "
            f"run. Expected dense tensors and numbers alone. If you trained the network, save its parameters: "
            f"torch.save(model.state_dict(), 'FILE.pt')."
        )
    if head.startswith(b"version https://git-lfs"):
        return (
            f"{path} is a Git LFS pointer, not the file it stands for. Run git lfs pull in the clone it comes from, "
            f"or sagefm.model.load_published(), which downloads the file."
        )
    if head.startswith(_BEFORE_ZIP):
        return (
            f"{path} has the format that torch.save wrote before PyTorch 1.6; nothing of it was run. If you trust it, "
            f"save it anew: torch.save(torch.load({str(path)!r}), 'FILE.pt')."
        )
    return (
        f"{path} is no complete file of torch.save that holds tensors and numbers alone ({reason}); nothing of it was "
        f"run. It has {path.stat().st_size:,} bytes, the published file {PUBLISHED.size_bytes:,}: was its download "
        f"interrupted? Fetch it again, or call sagefm.model.load_published()."
    )


def _plain(value: Any) -> Any:
    """Return a setting as JSON types: a number, a short text, a list of such, or what else it is."""
    if isinstance(value, list | tuple) and len(value) <= _MAX_SETTINGS:
        return [_plain_scalar(item) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else tuple(value.shape)
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float | None) or (isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()):
        return value
    return ascii(value)[:_MAX_TEXT] if isinstance(value, str | torch.Size | tuple) else type(value).__name__


def _make_network(state: dict[str, Tensor], path: Path) -> PooledNetwork:
    """Return the network of the authors' parameters, copied out of the file."""
    n_genes = len(published_vocabulary())
    first = state.get("conv1.lin.weight")
    if first is not None and first.ndim == 2 and first.shape[1] != n_genes:
        raise CheckpointError(
            f"{path} is a network of {first.shape[1]:,} genes; expected the {n_genes:,} published ones. The file names "
            f"no genes, so a network of others cannot be used. Train one: sagefm.model.SAGEFM(adata)."
        )
    # The widths are those of the biases; strict loading tells whether all else fits them.
    biases = [state.get(f"conv{i}.bias", torch.zeros(1)) for i in range(1, len(PUBLISHED_HIDDEN) + 1)]
    hidden = [max(bias.numel(), 1) for bias in biases]
    try:
        with torch.device("meta"):
            network = PooledNetwork(NetworkConfig.of("published", n_genes=n_genes, hidden=hidden))
        network.load_state_dict(state, assign=True)
    except (RuntimeError, ArgumentError) as error:
        raise CheckpointError(
            f"{path} is not a SAGE-FM network of five graph convolutions and a read-out: {printable(error)}"
        ) from error
    for name, parameter in network.named_parameters():
        if parameter.dtype != torch.float32 or parameter.layout != torch.strided:
            raise CheckpointError(f"{path}: {name} is {parameter.layout} {parameter.dtype}; expected dense float32.")
        if parameter.nbytes > parameter.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {name} repeats few numbers to {parameter.nbytes:,} bytes; expected them all."
            )
        # The mapped file can be deleted, and no two parameters share memory.
        parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
    check_finite(network.state_dict(), path)
    return network.eval()
