"""A network with its vocabulary, stored as safetensors and JSON."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import sagefm
from sagefm._arguments import key_name, printable, shown
from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm._replacing import left_aside, replacing, typed_errors
from sagefm._tensor_files import write_tensors
from sagefm.checkpoint._config_file import FORMAT_VERSION, ConfigFile, check_config, network_digest, read_config
from sagefm.data._files import file_sha256
from sagefm.errors import ArgumentError, CheckpointError, ModelNotFoundError, OutputExistsError
from sagefm.module._center import CenterNeighborhoodNetwork, make_network
from sagefm.module._config import NetworkConfig
from sagefm.module._pooled import PooledNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sagefm.data._genes import Vocabulary

#: Where the hash of architecture and genes stands in the header of the weights file.
_DIGEST: Final = "network_and_genes_sha256"
#: Bytes of that header: it names some twenty parameters, and lists what the published network has in 1,100 bytes.
_MAX_HEADER_BYTES: Final = 100_000
#: Types of numbers that a parameter may be stored as, by their names in the header.
_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_MAX_NUMBER_BYTES: Final = 8
_ANEW: Final = "Get both files anew from where they come from."


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
    check_storable(checkpoint)
    stored = _stored(checkpoint)
    with replacing(folder, overwrite=overwrite) as staged:
        staged.mkdir()
        write_tensors(tensors, staged / WEIGHTS_FILE, {_DIGEST: network_digest(stored["network"], stored["genes"])})
        stored["sha256"] = file_sha256(staged / WEIGHTS_FILE)
        (staged / CONFIG_FILE).write_text(json.dumps(stored, indent=1))
    return folder


def check_storable(checkpoint: Checkpoint) -> None:
    """Raise a CheckpointError if what describes a network would be refused when it is loaded: before it is trained."""
    check_config(_stored(checkpoint))


def _stored(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what config.json holds; the hash of the parameters follows when they are stored."""
    return {
        "format_version": FORMAT_VERSION,
        "sha256": "0" * 64,
        "network": checkpoint.config.to_dict(),
        "training": checkpoint.training,
        "setup": checkpoint.setup,
        "history": checkpoint.history,
        "genes": list(checkpoint.vocabulary.symbols),
    }


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
        parameters are NaN or infinite. Folders may come from anybody: no code in them is run, and time and memory are
        bounded by the sizes of the two files.

    Examples
    --------
    >>> import sagefm
    >>> sagefm.model.SAGEFM.from_pretrained("default").save("folder")
    >>> checkpoint = sagefm.model.load_checkpoint("folder")
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.embed(adata, checkpoint)
    """
    if not isinstance(folder, str | os.PathLike):
        raise ArgumentError(f"folder={shown(folder)}; expected the path of a folder written by SAGEFM.save(...).")
    folder = Path(folder)
    if not exists(folder):
        kept = " and ".join(map(str, left_aside(folder)))
        hint = f" A process that was killed while it replaced it left {kept}: give one its name." if kept else ""
        raise ModelNotFoundError(
            f"Found no folder {shown(str(folder))}; expected one written by SAGEFM.save(...).{hint}"
        )
    missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is no checkpoint: it has no {' and no '.join(missing)}.")
    config = read_config(folder / CONFIG_FILE)
    network = empty_network(config)
    tensors, sha256 = _read_parameters(folder, config, network)
    network.load_state_dict(tensors, assign=True)
    return Checkpoint(
        network=network.eval(),
        vocabulary=config.vocabulary,
        name=str(folder) if name is None else key_name(name, name="name"),
        sha256=sha256,
        training=config.training,
        setup=config.setup,
        history=config.history,
    )


def max_weights_bytes(network: torch.nn.Module, header_bytes: int = _MAX_HEADER_BYTES) -> int:
    """Return the bytes that the weights file of a network has at most."""
    n_numbers = sum(tensor.numel() for tensor in network.state_dict().values())
    return 8 + header_bytes + _MAX_NUMBER_BYTES * n_numbers


def empty_network(config: ConfigFile) -> PooledNetwork | CenterNeighborhoodNetwork:
    """Return the network that a config.json describes, without memory for its parameters."""
    with torch.device("meta"):
        return make_network(config.network)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something at a path; there is nothing at one that no file can have."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _read_parameters(folder: Path, config: ConfigFile, network: torch.nn.Module) -> tuple[dict[str, Tensor], str]:
    """Return the parameters as float32, which must have the network's shapes, and their file's hash."""
    path = folder / WEIGHTS_FILE
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    try:
        if not (n_bytes := path.stat().st_size):
            raise CheckpointError(f"{path} cannot be read: it is empty.")
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path} cannot be read: its header has {header_bytes:,} bytes; expected at most {_MAX_HEADER_BYTES:,}."
            )
        if n_bytes > (most := max_weights_bytes(network, header_bytes)):
            raise CheckpointError(
                f"{path} does not fit {CONFIG_FILE}: it has {n_bytes:,} bytes, expected at most {most:,}."
            )
        with safe_open(path, framework="pt") as file:
            # Before anything is read: a file that does not fit takes neither time nor memory.
            digest = (file.metadata() or {}).get(_DIGEST)
            # Format 1 has none. Where there is one it counts, so that no edit of format_version turns the check off.
            if digest != config.digest and (digest is not None or config.format_version > 1):
                raise CheckpointError(
                    f"{folder / CONFIG_FILE} is not the file that {WEIGHTS_FILE} was written with: its architecture or "
                    f"genes were changed. {_ANEW}"
                )
            _check_shapes(file, shapes, path)
            # Copied, which aligns them: where the file has them, products round otherwise than those of the saved model.
            tensors = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {printable(error)}.") from error
    sha256 = file_sha256(path)
    # The first checkpoints held no hash.
    if sha256 != (config.sha256 or sha256):
        raise CheckpointError(
            f"{path} is not the file that {CONFIG_FILE} was written with: its sha256 is {sha256}, "
            f"expected {config.sha256}. {_ANEW}"
        )
    check_finite(tensors, path)
    return tensors, sha256


def _check_shapes(file: Any, shapes: dict[str, list[int]], path: Path) -> None:
    """Raise a CheckpointError unless an open file of safetensors holds floats of these shapes, and no others."""
    names = set(file.keys())
    differences = [f"has no {name}" for name in sorted(shapes.keys() - names)]
    differences += [f"holds {shown(name)}" for name in sorted(names - shapes.keys())]
    for name, expected in shapes.items():
        if name in names:
            stored = file.get_slice(name)
            shape, kind = stored.get_shape(), str(stored.get_dtype())
            if shape != expected or kind not in _FLOATS:
                differences.append(f"{name} is {kind} of the shape {shown(shape)}, expected floats of {expected}")
    if differences:
        raise CheckpointError(f"{path} does not fit {CONFIG_FILE}: {'; '.join(differences[:3])}.")


def check_finite(
    tensors: Mapping[str, Tensor], where: object, *, hint: str = "Its training failed: train again, with a lower lr."
) -> None:
    """Raise a CheckpointError that begins with `where` if parameters are NaN or infinite."""
    names = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if names:
        raise CheckpointError(f"{where}: NaN or infinite values in {', '.join(names[:3])}. {hint}")
