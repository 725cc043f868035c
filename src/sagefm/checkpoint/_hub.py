"""Checkpoints from the Hugging Face Hub, and to it."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import sagefm
from sagefm._constants import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from sagefm.checkpoint._card import model_card, records
from sagefm.checkpoint._checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sagefm.data._files import file_sha256
from sagefm.errors import ArgumentError, CheckpointError, ModelNotFoundError

_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([^\s@]+))?", re.ASCII)


def hub_name(model: object) -> tuple[str, str | None] | None:
    """Return repository and revision of ``"organization/name"`` or ``"organization/name@revision"``; else None."""
    found = _NAME.fullmatch(model) if isinstance(model, str) else None
    return (found[1], found[2]) if found else None


def load_from_hub(repo_id: str, revision: str | None = None) -> Checkpoint:
    """Return a checkpoint of the Hub, from its cache where that is up to date or no network is there.

    Parameters
    ----------
    repo_id
        ``"organization/name"``.
    revision
        Branch, tag or commit; the main branch if left out.

    Returns
    -------
    The checkpoint; its name holds the commit, so that what results record stands for the same parameters for ever.

    Raises
    ------
    ModelNotFoundError
        There is no such model or revision, the Hub cannot be asked, or huggingface_hub is not installed.
    CheckpointError
        The download fails, or what was downloaded is no checkpoint.
    """
    found = f"Found no folder {repo_id!r}"
    hub = _client(ModelNotFoundError, f"{found}; to look for it on the Hugging Face Hub, install huggingface_hub")
    place, errors = hub.constants.ENDPOINT, hub.errors
    try:
        folder = Path(hub.hf_hub_download(repo_id, CONFIG_FILE, revision=revision)).parent
        # Of the same commit, though the branch may have moved on.
        hub.hf_hub_download(repo_id, WEIGHTS_FILE, revision=folder.name)
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"Found no revision {revision!r} of {repo_id}; expected a branch, a tag or a commit of {place}/{repo_id}."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFoundError(
            f"{found}, nor a model of that name on {place}. If it is there and private, or asks for consent: "
            f"hf auth login, or set HF_TOKEN. ({error})"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelNotFoundError(
            f"{found}, nor a copy of that model in {hub.constants.HF_HUB_CACHE}, and the Hub could not be asked "
            f"({error.__cause__ or error}). Load it once where there is a network, or pass the path of a folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(
            f"{repo_id} of {place} is no checkpoint; expected the files of push_to_hub(...), {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}. ({error})"
        ) from error
    except Exception as error:
        raise CheckpointError(f"Could not download {repo_id} from {place}: {error}. Call again.") from error
    name = f"{repo_id}@{folder.name}"
    try:
        return load_checkpoint(folder, name=name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} This is {name}, from the Hub; without {folder.parents[1]} it is downloaded anew."
        ) from error


def push_to_hub(checkpoint: Checkpoint, repo_id: str, *, license: str | None, private: bool | None, half: bool) -> str:
    """Upload a checkpoint with a model card; see :meth:`Checkpoint.push_to_hub`."""
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
    except ImportError as missing:
        raise error(f'{message}: pip install "sagefm[hub]"') from missing
    return huggingface_hub
