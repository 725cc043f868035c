"""A network with its vocabulary, stored as safetensors and JSON."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import sagefm
from sagefm._constants import CONFIG_FILE, WEIGHTS_FILE
from sagefm.data._files import file_sha256
from sagefm.data._genes import Vocabulary
from sagefm.errors import CheckpointError, ModelNotFoundError, OutputExistsError
from sagefm.module._center import CenterNeighborhoodNetwork, make_network
from sagefm.module._config import NetworkConfig
from sagefm.module._pooled import PooledNetwork

#: Raised when an older sagefm could not read what is written, or would read it wrongly.
FORMAT_VERSION = 1


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

    def push_to_hub(
        self, repo_id: str, *, license: str | None = None, private: bool | None = None, half: bool = False
    ) -> str:
        """Share the checkpoint on the Hugging Face Hub: its two files, and a model card written from them.

        What is there under these three names is replaced; the Hub keeps earlier revisions.

        Parameters
        ----------
        repo_id
            ``"organization/name"`` or ``"user/name"``; created if it does not exist.
        license
            Identifier of the license you give, e.g. ``"bsd-3-clause"``; the card says that there is none if left out.
        private
            Whether a new repository is private; as the organization has it if left out.
        half
            Store parameters in half precision, for half the size.

        Returns
        -------
        ``"organization/name@commit"``, which stands for these parameters wherever a model is asked for.

        Raises
        ------
        ArgumentError
            `repo_id` is no such name; or the parameters come from the authors' checkpoint, and no license is given.
        CheckpointError
            The Hub refuses or cannot be reached, or huggingface_hub is not installed.

        Examples
        --------
        >>> import sagefm
        >>> checkpoint = sagefm.model.load_checkpoint("folder")  # doctest: +SKIP
        >>> checkpoint.push_to_hub("organization/name", license="bsd-3-clause")  # doctest: +SKIP
        """
        from sagefm.checkpoint._hub import push_to_hub

        return push_to_hub(self, repo_id, license=license, private=private, half=half)


def save_checkpoint(
    checkpoint: Checkpoint, folder: str | os.PathLike[str], *, overwrite: bool = False, half: bool = False
) -> Path:
    """Write a checkpoint as a folder of ``model.safetensors`` and ``config.json``; all of it or nothing.

    With `half`, parameters are rounded to half precision; they are read as float32.

    Raises
    ------
    OutputExistsError
        The folder exists and `overwrite` is false.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} exists. Choose another folder, or pass overwrite=True.")
    if folder.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
        if names - {CONFIG_FILE, WEIGHTS_FILE}:
            raise OutputExistsError(
                f"{folder} is no checkpoint, or holds more than one: it is not overwritten. Choose another folder."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = {
        "format_version": FORMAT_VERSION,
        "sha256": "",
        "network": checkpoint.config.to_dict(),
        "training": checkpoint.training,
        "setup": checkpoint.setup,
        "history": checkpoint.history,
        "genes": list(checkpoint.vocabulary.symbols),
    }
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.network.state_dict().items()}
        if half:
            # The profile spans more orders of magnitude than half precision does.
            tensors = {name: tensor if name == "prior" else tensor.half() for name, tensor in tensors.items()}
        save_file(tensors, staging / WEIGHTS_FILE)
        config["sha256"] = file_sha256(staging / WEIGHTS_FILE)
        (staging / CONFIG_FILE).write_text(json.dumps(config, indent=1))
        staging.chmod(0o755)
        # safetensors writes for the user alone.
        (staging / WEIGHTS_FILE).chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def load_checkpoint(folder: str | os.PathLike[str], *, name: str | None = None) -> Checkpoint:
    """Read a checkpoint folder.

    Parameters
    ----------
    folder
        Folder with ``model.safetensors`` and ``config.json``.
    name
        Name recorded beside results; the folder where left out.

    Returns
    -------
    The :class:`Checkpoint`, its parameters as float32.

    Raises
    ------
    ModelNotFoundError
        The folder does not exist.
    CheckpointError
        The folder is no checkpoint, is of a newer format, or its files do not belong together.

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
        raise ModelNotFoundError(f"Found no folder {folder}; expected one written by SAGEFM.save(...).")
    missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is no checkpoint: it has no {' and no '.join(missing)}.")
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text())
        version = stored["format_version"]
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{folder} has format {version}; this sagefm reads up to {FORMAT_VERSION}. pip install --upgrade sagefm"
            )
        config = NetworkConfig.from_dict(stored["network"])
        vocabulary = Vocabulary(tuple(stored["genes"]))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is not what SAGEFM.save(...) writes: {error}.") from error
    if len(vocabulary) != config.n_genes:
        raise CheckpointError(f"{folder} lists {len(vocabulary)} genes for a network of {config.n_genes}.")
    try:
        read = load_file(folder / WEIGHTS_FILE)
        # Copied, which aligns them: where the file has them, products round otherwise than those of the saved model.
        tensors = {name: read.pop(name).to(torch.float32, copy=True) for name in list(read)}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} cannot be read as safetensors: {error}.") from error
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    # Checkpoints of before the hash was stored have none.
    if sha256 != stored.get("sha256", sha256):
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} is not the file that {CONFIG_FILE} was written with: its sha256 is {sha256}, "
            f"expected {stored['sha256']}. Get both files anew from where they come from."
        )
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
