"""Checkpoints loaded from the Hugging Face Hub and shared there, with a model card."""

from __future__ import annotations

import inspect
import re
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sagefm
from sagefm._constants import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from sagefm.checkpoint._checkpoint import (
    Checkpoint,
    empty_network,
    load_checkpoint,
    max_weights_bytes,
    save_checkpoint,
)
from sagefm.checkpoint._config_file import MAX_CONFIG_BYTES, read_config
from sagefm.data._files import file_sha256
from sagefm.errors import ArgumentError, CheckpointError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CARD = """\
---
{metadata}
---

# {name}

A network for 10x Visium sections, in the manner of [SAGE-FM](https://arxiv.org/abs/2601.15504): it predicts hidden
genes of a spot from the spot and its neighborhood. This card was written by `sagefm` from the checkpoint, and says what
that holds. A validation loss, if there is one, chose the epoch: it is no measure on new donors.

{facts}

## Use

```bash
pip install "sagefm[hub]"
```

```python
import sagefm

sagefm.tl.embed(adata, model="{name}")  # raw counts and spatial coordinates; so do tl.impute and tl.perturb
model = sagefm.model.SAGEFM.from_pretrained("{name}", adata, sha256="{sha256}")
```

## What it must not be used for

- Diagnosis, or any decision on a patient.
- Evidence of a mechanism: effects of `tl.perturb` are associations between neighbors that were learned from sections
  without any intervention.
- Figures of performance on sections that it was trained on, or on others of their donors: they are too good.
- Species, tissues and assays that are not among its sections, without a measurement of your own.

## Sections

{sections}
"""

_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([^\s@]+))?", re.ASCII)


def hub_name(model: object) -> tuple[str, str | None] | None:
    """Return repository and revision of ``"organization/name"`` or ``"organization/name@revision"``; else None."""
    match = _NAME.fullmatch(model) if isinstance(model, str) else None
    return (match[1], match[2]) if match else None


def load_from_hub(repo_id: str, revision: str | None = None) -> Checkpoint:
    """Return a checkpoint of the Hub, from the Hub's cache if that is up to date or there is no network.

    `revision` is a branch, tag or commit; default: the main branch. The checkpoint's name holds the commit: what results
    record loads the same parameters for ever.
    """
    no_folder = f"Found no folder {repo_id!r}"
    hub = _client(ModelNotFoundError, f"{no_folder}; to look for it on the Hugging Face Hub, install huggingface_hub")
    endpoint, errors = hub.constants.ENDPOINT, hub.errors
    try:
        folder = _download(hub, repo_id, CONFIG_FILE, revision, MAX_CONFIG_BYTES).parent
        with _from_hub(repo_id, folder):
            most = max_weights_bytes(empty_network(read_config(folder / CONFIG_FILE)))
        # Of the same commit, even if the branch has moved on meanwhile.
        _download(hub, repo_id, WEIGHTS_FILE, folder.name, most)
    except CheckpointError:
        raise
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"Found no revision {revision!r} of {repo_id}; expected a branch, a tag or a commit of {endpoint}/{repo_id}."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFoundError(
            f"{no_folder}, nor a model of that name on {endpoint}. If it is there and private, or asks for consent: "
            f"hf auth login, or set HF_TOKEN. ({error})"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelNotFoundError(
            f"{no_folder}, nor a copy of that model in {hub.constants.HF_HUB_CACHE}, and the Hub could not be asked "
            f"({error.__cause__ or error}). Load it once where there is a network, or pass the path of a folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(
            f"{repo_id} of {endpoint} is no checkpoint; expected the files of push_to_hub(...), {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}. ({error})"
        ) from error
    except Exception as error:
        raise CheckpointError(f"Could not download {repo_id} from {endpoint}: {error}. Call again.") from error
    with _from_hub(repo_id, folder):
        return load_checkpoint(folder, name=f"{repo_id}@{folder.name}")


@contextmanager
def _from_hub(repo_id: str, folder: Path) -> Iterator[None]:
    """Say of a checkpoint that cannot be used where it comes from."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} This is {repo_id}@{folder.name}, from the Hub: delete {folder.parents[1]} and call again to "
            f"download it anew."
        ) from error


def _download(hub: Any, repo_id: str, file: str, revision: str | None, most: int) -> Path:
    """Return where the Hub's cache has a file; a download of more than `most` bytes ends with a CheckpointError."""

    def check(n_bytes: int | None) -> None:
        if (n_bytes or 0) > most:
            raise CheckpointError(
                f"{file} of {repo_id} on {hub.constants.ENDPOINT} has more than {most:,} bytes, the most that it can have."
            )

    class Bar(hub.utils.tqdm):
        """The Hub's progress bar, which is told of every piece even where it is not shown."""

        n_received = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            check(kwargs.get("total"))
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            self.n_received += int(n or 0)
            check(self.n_received)
            return super().update(n)

    if "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters:
        return Path(hub.hf_hub_download(repo_id, file, revision=revision, tqdm_class=Bar))
    # An earlier huggingface_hub: the size that the Hub tells. If it cannot, the download says why, or takes the cache.
    n_bytes = None
    with suppress(Exception):
        n_bytes = hub.get_hf_file_metadata(hub.hf_hub_url(repo_id, file, revision=revision)).size
    check(n_bytes)
    return Path(hub.hf_hub_download(repo_id, file, revision=revision))


def push_to_hub(
    checkpoint: Checkpoint,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    half: bool = False,
) -> str:
    """Share a checkpoint on the Hugging Face Hub: its two files, and a model card written from them.

    What is there under these three names is replaced; the Hub keeps earlier revisions.

    Parameters
    ----------
    checkpoint
        The checkpoint.
    repo_id
        ``"organization/name"`` or ``"user/name"``; created if it does not exist.
    license
        Identifier of the license you give, e.g. ``"bsd-3-clause"``. Default: the card says that there is none.
    private
        Whether a new repository is private. Default: the organization's setting.
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
    >>> sagefm.model.push_to_hub(checkpoint, "organization/name", license="bsd-3-clause")  # doctest: +SKIP
    """
    named = hub_name(repo_id)
    if named is None or named[1] is not None:
        raise ArgumentError(f"repo_id={repo_id!r}; expected 'organization/name'.")
    if license is None and any("license" in record.get("source", {}) for record in records(checkpoint.training)):
        raise ArgumentError(
            "The parameters come from the authors' checkpoint, which has no license and is not to be redistributed. "
            "With its authors' consent, pass license=..., the terms that they gave."
        )
    hub = _client(CheckpointError, "To share a model on the Hugging Face Hub, install huggingface_hub")
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_checkpoint(checkpoint, Path(scratch) / "model", half=half)
        stored = replace(checkpoint, sha256=file_sha256(folder / WEIGHTS_FILE))
        (folder / CARD_FILE).write_text(model_card(stored, repo_id, license), encoding="utf-8")
        try:
            api = hub.HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=f"Checkpoint of sagefm {sagefm.__version__}"
            )
        except Exception as error:
            raise CheckpointError(
                f"Could not push to {hub.constants.ENDPOINT}/{repo_id}: {error}"
                f"{f' ({error.__cause__})' if error.__cause__ else ''}\n"
                f"Pushing needs a token that may write there: hf auth login, or set HF_TOKEN."
            ) from error
    return f"{repo_id}@{commit.oid}"


def _client(error: type[CheckpointError], message: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as missing:
        raise error(f'{message}: pip install "sagefm[hub]"') from missing
    return huggingface_hub


def records(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of all trainings that led to the parameters, the last one first."""
    return [training, *reversed(training.get("before", []))]


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what a checkpoint says of itself, a text by label: architecture, genes, training, losses, hash."""
    config, training, history = checkpoint.config, checkpoint.training, checkpoint.history
    best = training.get("best_epoch")
    rows = {
        "architecture": f"{config.architecture}, widths {', '.join(map(str, config.hidden))}, {config.likelihood}",
        "parameters": f"{sum(parameter.numel() for parameter in checkpoint.network.parameters()):,}",
        "embedding": f"{config.hidden[-1]} dimensions",
        "genes": f"{len(checkpoint.vocabulary):,}",
    }
    sections = dict.fromkeys(
        f"{record['n_spots']:,} spots of {record.get('n_sections', 1)} section(s)"
        for record in records(training)
        if "n_spots" in record
    )
    if sections:
        rows["trained on"] = "; before that on ".join(sections)
    if not training.get("is_trained", True):
        rows["trained on"] = "nothing: its parameters are random"
    if "epochs" in training:
        # Older records call the seed so, newer ones rng.
        names = [name for name in ("lr", "batch_size", "seed", "rng") if name in training]
        settings = ", ".join(f"{name} {training[name]}" for name in names)
        rows["training"] = f"{training['epochs']} epochs{'' if best is None else f', best {best}'}; {settings}"
    for name in ("validation_loss", "validation_d2"):
        if best is not None and name in history:
            rows[name.replace("_d2", "_D2").replace("_", " ")] = f"{history[name][best]:.4f}"
    for record in records(training):
        if "source" in record:
            rows["source"] = ", ".join(f"{name} {value}" for name, value in record["source"].items())
    rows["sagefm"] = str(training.get("sagefm_version", "unknown"))
    rows["sha256"] = checkpoint.sha256
    return rows


def model_card(checkpoint: Checkpoint, name: str, license: str | None) -> str:
    """Return the model card, in Markdown; `name` is that by which it is loaded, no `license` means none was stated."""
    from huggingface_hub import ModelCardData

    tags = ["biology", "spatial-transcriptomics", "visium"]
    sections = {
        section: sha256
        for record in records(checkpoint.training)
        for section, sha256 in record.get("sections", {}).items()
    }
    return _CARD.format(
        metadata=ModelCardData(license=license, library_name="sagefm", tags=tags).to_yaml(),
        name=name,
        sha256=checkpoint.sha256,
        facts=_table("", "", {**describe(checkpoint), "license": license or "none stated"}),
        sections=_table("section", "sha256", sections) if sections else "The checkpoint does not name them.",
    )


def _table(left: str, right: str, rows: dict[str, str]) -> str:
    """Return a table of two columns in Markdown."""
    cells = [(left, right), ("---", "---"), *rows.items()]
    # A row of the table is a line, and its cells end at a bar.
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) + " |" for row in cells
    )
