"""A network with its vocabulary, stored as safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import sagefm
from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm._replacing import left_aside, replacing, typed_errors
from sagefm._tensor_files import write_tensors
from sagefm.data._files import file_sha256
from sagefm.data._genes import Vocabulary
from sagefm.errors import CheckpointError, ModelNotFoundError, OutputExistsError
from sagefm.module._center import CenterNeighborhoodNetwork, make_network
from sagefm.module._config import NetworkConfig
from sagefm.module._pooled import PooledNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Raised when an older sagefm could not read what is written, or would misread it. 2: "center_neighborhood" for
#: "default", and a hash of architecture and genes in the header of the weights file.
FORMAT_VERSION: Final = 2
#: Where that hash stands in the header.
_DIGEST: Final = "network_and_genes_sha256"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network and what is needed to use it.

    Attributes
    ----------
    network
        The network, in evaluation mode.
    vocabulary
        Genes of its columns.
    name
        Name or folder it came from.
    sha256
        Hash of the stored parameters; empty if they were never stored.
    training
        How it was trained: parameters, sections, versions.
    setup
        Arguments of ``setup_anndata`` it was trained with.
    history
        Losses by epoch, a list a metric.

    Examples
    --------
    >>> import sagefm
    >>> checkpoint = sagefm.model.SAGEFM.from_pretrained("default").to_checkpoint()
    >>> checkpoint.config.hidden
    (256, 64)
    >>> checkpoint.provenance()["model"]
    'default'
    """

    network: PooledNetwork | CenterNeighborhoodNetwork
    vocabulary: Vocabulary
    name: str
    sha256: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def config(self) -> NetworkConfig:
        """Architecture of the network."""
        return self.network.config

    def provenance(self) -> dict[str, str]:
        """Return what is written to ``uns`` beside a result.

        Returns
        -------
        Model, architecture, hash of the parameters, and versions.
        """
        return {
            "model": self.name,
            "architecture": self.config.architecture,
            "checkpoint_sha256": self.sha256,
            "sagefm_version": sagefm.__version__,
            "torch_version": str(torch.__version__),
        }


def save_checkpoint(
    checkpoint: Checkpoint, folder: str | os.PathLike[str], *, overwrite: bool = False, half: bool = False
) -> Path:
    """Write a checkpoint as a folder of ``model.safetensors`` and ``config.json``; all of it or nothing.

    With `half`, parameters are rounded to half precision; they are read as float32. A link stays a link: the folder
    that it points to is written.
    """
    folder = Path(folder)
    with typed_errors(folder):
        _check_folder(folder, overwrite=overwrite)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.network.state_dict().items()}
    check_finite(tensors, "The model cannot be saved")
    if half:
        # The profile spans more orders of magnitude than half precision does.
        tensors = {name: tensor if name == "prior" else tensor.half() for name, tensor in tensors.items()}
        check_finite(tensors, "The model cannot be saved with half=True", hint="Half precision ends at 65,504.")
    network, genes = checkpoint.config.to_dict(), list(checkpoint.vocabulary.symbols)
    with replacing(folder, overwrite=overwrite) as staged:
        staged.mkdir()
        write_tensors(tensors, staged / WEIGHTS_FILE, {_DIGEST: _digest(network, genes)})
        config = {
            "format_version": FORMAT_VERSION,
            "sha256": file_sha256(staged / WEIGHTS_FILE),
            "network": network,
            "training": checkpoint.training,
            "setup": checkpoint.setup,
            "history": checkpoint.history,
            "genes": genes,
        }
        (staged / CONFIG_FILE).write_text(json.dumps(config, indent=1))
    return folder


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise if a folder exists, unless it is a checkpoint and may be overwritten."""
    if not folder.exists():
        return
    if not overwrite:
        raise OutputExistsError(f"{folder} exists. Choose another folder, or pass overwrite=True.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if names - {CONFIG_FILE, WEIGHTS_FILE}:
        raise OutputExistsError(
            f"{folder} is no checkpoint, or holds more than one: it is not overwritten. Choose another folder."
        )


def load_checkpoint(folder: str | os.PathLike[str], *, name: str | None = None) -> Checkpoint:
    """Read a checkpoint folder.

    Parameters
    ----------
    folder
        Folder with ``model.safetensors`` and ``config.json``.
    name
        Name recorded beside results. Default: the folder.

    Returns
    -------
    The :class:`Checkpoint`, its parameters as float32.

    Raises
    ------
    ModelNotFoundError
        The folder does not exist.
    CheckpointError
        The folder is no checkpoint or has a newer format, its files do not belong together or were changed, or
        parameters are NaN or infinite.

    Examples
    --------
    >>> import sagefm
    >>> sagefm.model.SAGEFM.from_pretrained("default").save("folder")
    >>> checkpoint = sagefm.model.load_checkpoint("folder")
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.embed(adata, checkpoint)
    """
    folder = Path(folder)
    if not folder.exists():
        kept = " and ".join(map(str, left_aside(folder)))
        hint = f" A process that was killed while it replaced it left {kept}: give one its name." if kept else ""
        raise ModelNotFoundError(f"Found no folder {folder}; expected one written by SAGEFM.save(...).{hint}")
    missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is no checkpoint: it has no {' and no '.join(missing)}.")
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text())
        if stored["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"{folder} has format {stored['format_version']}; this sagefm reads up to {FORMAT_VERSION}. "
                f"pip install --upgrade sagefm"
            )
        config = NetworkConfig.from_dict(stored["network"])
        vocabulary = Vocabulary(tuple(stored["genes"]))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is not what SAGEFM.save(...) writes: {error}.") from error
    if len(vocabulary) != config.n_genes:
        raise CheckpointError(f"{folder} lists {len(vocabulary)} genes for a network of {config.n_genes}.")
    tensors, sha256 = _read_parameters(folder, stored)
    with torch.device("meta"):
        network = make_network(config)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {error}") from error
    return Checkpoint(
        network=network.eval(),
        vocabulary=vocabulary,
        name=name or str(folder),
        sha256=sha256,
        training=stored.get("training", {}),
        setup=stored.get("setup", {}),
        history=stored.get("history", {}),
    )


def _read_parameters(folder: Path, stored: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Return the parameters as float32, and their file's hash; `stored` is what config.json says."""
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as file:
            digest = (file.metadata() or {}).get(_DIGEST)
            # Copied, which aligns them: where the file has them, products round otherwise than those of the saved model.
            tensors = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error
    anew = "Get both files anew from where they come from."
    sha256 = file_sha256(path)
    # The first checkpoints held no hash.
    if sha256 != stored.get("sha256", sha256):
        raise CheckpointError(
            f"{path} is not the file that {CONFIG_FILE} was written with: its sha256 is {sha256}, "
            f"expected {stored['sha256']}. {anew}"
        )
    # Format 1 has no digest. Where there is one it counts, so that no edit of format_version turns the check off.
    is_covered = digest is not None or stored["format_version"] > 1
    if is_covered and digest != _digest(stored["network"], stored["genes"]):
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not the file that {WEIGHTS_FILE} was written with: its architecture or genes "
            f"were changed. {anew}"
        )
    check_finite(tensors, path)
    return tensors, sha256


def check_finite(
    tensors: Mapping[str, Tensor], where: object, *, hint: str = "Its training failed: train again, with a lower lr."
) -> None:
    """Raise a CheckpointError that begins with `where` if parameters are NaN or infinite."""
    names = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if names:
        raise CheckpointError(f"{where}: NaN or infinite values in {', '.join(names[:3])}. {hint}")


def _digest(network: dict[str, Any], genes: list[str]) -> str:
    """Return the hash of architecture and genes; as the weights file holds it, the hash of that file covers both."""
    return hashlib.sha256(json.dumps({"network": network, "genes": genes}, sort_keys=True).encode()).hexdigest()
