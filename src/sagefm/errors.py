"""Errors raised for a user's input.

Every message says what was found, what was expected, and the call that repairs it.
All derive from :class:`SagefmError` and from the built-in error that a caller would expect.

Examples
--------
>>> import sagefm
>>> try:
...     sagefm.tl.embed(sagefm.datasets.synovium(), layer="counts")
... except sagefm.errors.SagefmError as error:
...     print(type(error).__name__, error)
MissingKeyError layer='counts' is not in adata.layers; found []. Expected raw counts, which were found in adata.X: pass
layer=None
"""

from __future__ import annotations

from sagefm._text import plain

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "CoordinatesError",
    "CountsError",
    "GenesError",
    "MissingKeyError",
    "ModelNotFoundError",
    "NeighborsError",
    "OutputError",
    "OutputExistsError",
    "SagefmError",
]


class SagefmError(Exception):
    """Base of all errors of this package."""

    def __str__(self) -> str:
        # KeyError would print the quoted representation of the message.
        # Names of genes, sections and files may hold anything.
        return plain(self.args[0]) if self.args else ""


class MissingKeyError(SagefmError, KeyError):
    """A layer, key, column, modality or table that is not there."""


class ArgumentError(SagefmError, ValueError):
    """An argument outside its range."""


class CountsError(SagefmError, ValueError):
    """Values that are not raw counts."""


class CoordinatesError(SagefmError, ValueError):
    """Spatial coordinates or libraries that cannot be used."""


class GenesError(SagefmError, ValueError):
    """Gene names that do not match the vocabulary."""


class NeighborsError(SagefmError, ValueError):
    """A spatial graph that cannot be used."""


class CheckpointError(SagefmError, ValueError):
    """A checkpoint that cannot be read, downloaded or shared."""


class ModelNotFoundError(CheckpointError, LookupError):
    """A model name that is not known, or a folder that does not exist."""


class OutputError(SagefmError, OSError):
    """An output that cannot be written: its folder, its name, or the room on its disk."""


class OutputExistsError(OutputError, FileExistsError):
    """An output that is already there and would have been overwritten."""
