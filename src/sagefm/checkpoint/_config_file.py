"""config.json of a checkpoint: it may come from anybody, and is checked before anything is built from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from sagefm._arguments import shown
from sagefm._constants import CONFIG_FILE
from sagefm.data._genes import Vocabulary
from sagefm.data._table import TableKeys
from sagefm.errors import ArgumentError, CheckpointError, GenesError
from sagefm.module._config import NetworkConfig

if TYPE_CHECKING:
    from pathlib import Path

#: Raised when an older sagefm could not read what is written, or would misread it. 2: "center_neighborhood" for
#: "default", and a hash of architecture and genes in the header of the weights file.
FORMAT_VERSION: Final = 2

#: Bytes of the file; that of a network of 12,121 genes, trained on 69 sections, has 0.2 MB.
MAX_CONFIG_BYTES: Final = 1 << 24
#: Lists and objects in it, which take more memory than their two characters, and how deep they may be nested.
_MAX_CONTAINERS: Final = 100_000
_MAX_DEPTH: Final = 16
_MAX_GENE_LENGTH: Final = 200
#: Control characters, which a terminal would obey, and halves of surrogate pairs, which no file can be written with.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ConfigFile:
    """What config.json says; `digest` is the hash of its architecture and genes."""

    format_version: int
    network: NetworkConfig
    vocabulary: Vocabulary
    sha256: str | None
    digest: str
    training: dict[str, Any]
    setup: dict[str, Any]
    history: dict[str, list[float]]


def network_digest(network: dict[str, Any], genes: list[str]) -> str:
    """Return the hash of architecture and genes; as the weights file holds it, the hash of that file covers both."""
    return hashlib.sha256(json.dumps({"network": network, "genes": genes}, sort_keys=True).encode()).hexdigest()


def read_config(path: Path) -> ConfigFile:
    """Return what a config.json says; raise a CheckpointError unless all of it is what ``SAGEFM.save`` writes."""
    try:
        # Before it is read.
        _check_size(path.stat().st_size)
        with path.open("rb") as file:
            stored = _load(file.read(MAX_CONFIG_BYTES))
        version = stored.get("format_version") if isinstance(stored, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path.parent} has format {version}; this sagefm reads up to {FORMAT_VERSION}. "
                f"pip install --upgrade sagefm"
            )
        return _parse(stored)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (ArgumentError, GenesError) as error:
        raise CheckpointError(f"{path} is not what SAGEFM.save(...) writes: {error}") from error


def check_config(stored: dict[str, Any]) -> None:
    """Raise a CheckpointError if a config.json with these values would be refused when it is read."""
    try:
        text = json.dumps(stored, indent=1)
        _check_size(len(text))
        _parse(_load(text.encode()))
    except (ArgumentError, GenesError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The model cannot be saved, as it could not be loaded: {CONFIG_FILE} is refused where {error}"
        ) from error


def _parse(stored: Any) -> ConfigFile:
    """Return what a config.json says; raise an ArgumentError or GenesError unless it can be used."""
    _check_values(stored)
    _check(stored, _FIELDS, "it", required=("format_version", "network", "genes"))
    network, vocabulary = NetworkConfig.from_dict(stored["network"]), Vocabulary(tuple(stored["genes"]))
    if len(vocabulary) != network.n_genes:
        raise ArgumentError(f"it lists {len(vocabulary)} genes for a network of {network.n_genes}")
    training, history = stored.get("training", {}), stored.get("history", {})
    _check_training(training, history)
    _check(stored.get("setup", {}), _SETUP, "setup", only_these=True)
    return ConfigFile(
        format_version=stored["format_version"],
        network=network,
        vocabulary=vocabulary,
        sha256=stored.get("sha256"),
        digest=network_digest(stored["network"], stored["genes"]),
        training=training,
        setup=stored.get("setup", {}),
        history=history,
    )


def _check_size(n_bytes: int) -> None:
    if not 0 < n_bytes <= MAX_CONFIG_BYTES:
        raise ArgumentError(f"it has {n_bytes:,} bytes; expected at most {MAX_CONFIG_BYTES:,}.")


def _load(content: bytes) -> Any:
    """Return what a text holds, of a bounded number of containers."""
    n_containers = content.count(b"[") + content.count(b"{")
    if n_containers > _MAX_CONTAINERS:
        raise ArgumentError(f"it holds {n_containers:,} lists and objects; expected at most {_MAX_CONTAINERS:,}.")
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{error}.") from error


def _check_values(stored: Any) -> None:
    """Raise an ArgumentError for values nested too deeply, texts that cannot be printed, and numbers without bounds."""
    level, depth = [stored], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ArgumentError(f"it is nested more than {_MAX_DEPTH} levels deep.")
        nested: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if _UNPRINTABLE.search(value):
                    raise ArgumentError(f"it holds {shown(value)}, which cannot be printed.")
            elif isinstance(value, list):
                nested += value
            elif isinstance(value, dict):
                nested += value
                nested += value.values()
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ArgumentError(f"it holds {shown(value)}, a number of more than 64 bits.")
        level = nested


# Fields: what each must be, and how an error says so


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _list_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_item, value))


def _object_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_item, value.values()))


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


_Fields = dict[str, tuple[Callable[[Any], bool], str]]
_FIELDS: Final[_Fields] = {
    "format_version": (lambda value: _is_count(value) and value > 0, "a whole number above 0"),
    "network": (_is_object, "an object"),
    "genes": (
        _list_of(lambda gene: isinstance(gene, str) and 0 < len(gene) <= _MAX_GENE_LENGTH),
        f"gene names of at most {_MAX_GENE_LENGTH} characters",
    ),
    "sha256": (lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None, "64 hexadecimal digits"),
    "training": (_is_object, "an object"),
    "setup": (_is_object, "an object"),
    # A loss may be NaN.
    "history": (_object_of(_list_of(_is_number)), "lists of numbers by name"),
}
_SETUP: Final[_Fields] = {field.name: (_is_name, "a name or null") for field in fields(TableKeys)}
#: What is read again of the record of a training; the rest is shown as it is.
_TRAINING: Final[_Fields] = {
    "is_trained": (_is_flag, "true or false"),
    "epochs": (_is_count, "a whole number of at least 0"),
    "n_spots": (_is_count, "a whole number of at least 0"),
    "n_sections": (_is_count, "a whole number of at least 0"),
    "best_epoch": (lambda value: value is None or _is_count(value), "a whole number of at least 0, or null"),
    "sections": (_object_of(_is_text), "hashes by name"),
    "source": (_object_of(_is_scalar), "texts and numbers by name"),
    "spots_sha256": (_is_text, "a hash"),
    "validation_sections": (_list_of(_is_text), "names"),
    "validation_spots": (_list_of(_is_count), "positions of spots"),
}


def _check(
    stored: Any, expected: _Fields, name: str, *, required: tuple[str, ...] = (), only_these: bool = False
) -> None:
    """Raise an ArgumentError unless `stored` is an object whose fields are what is expected of them."""
    if not isinstance(stored, dict):
        raise ArgumentError(f"{name} is {shown(stored)}; expected an object.")
    missing = [field for field in required if field not in stored]
    if missing:
        raise ArgumentError(f"{name} has no {' and no '.join(missing)}.")
    unknown = sorted(stored.keys() - expected.keys())
    if only_these and unknown:
        raise ArgumentError(f"{name} holds {shown(unknown)}; expected some of {list(expected)}.")
    for field, (is_valid, description) in expected.items():
        if field in stored and not is_valid(stored[field]):
            raise ArgumentError(f"{field} is {shown(stored[field])}; expected {description}.")


def _check_training(training: dict[str, Any], history: dict[str, list[float]]) -> None:
    """Raise an ArgumentError unless the records of the trainings can be read again."""
    before = training.get("before", [])
    if not isinstance(before, list):
        raise ArgumentError(f"before is {shown(before)}; expected the records of earlier trainings.")
    for record in (training, *before):
        _check(record, _TRAINING, "a record of training")
    if "validation_spots" not in training and "spots_sha256" in training and "validation_sections" not in training:
        raise ArgumentError("the record of training has no validation_spots and no validation_sections.")
    best = training.get("best_epoch")
    short = [name for name, values in history.items() if best is not None and len(values) <= best]
    if short:
        raise ArgumentError(f"best_epoch is {best}, and the history of {shown(short)} ends before it.")
