"""What a network is made of; stored beside its parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

#: Widths of the five graph convolutions of the published network; the last is the embedding's.
PUBLISHED_HIDDEN: Final = (1024, 512, 512, 512, 1024)


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a network.

    Attributes
    ----------
    architecture
        ``"default"`` (center and neighborhood apart) or ``"published"`` (five graph convolutions).
    n_genes
        Size of the vocabulary.
    hidden
        Widths of the layers; the last is the embedding's.
    likelihood
        ``"poisson"`` or ``"negative_binomial"`` on counts (default), ``"mse"`` on log1p counts (published).
    scale
        Counts that a spot is brought to before log1p (default architecture).
    dropout
        Share of hidden units dropped in training (default architecture).
    """

    architecture: str
    n_genes: int
    hidden: tuple[int, ...]
    likelihood: str
    scale: float = 1e4
    dropout: float = 0.0

    @property
    def input(self) -> str:
        """Kind of input, see :mod:`sagefm.data._corpus`."""
        return "log1p" if self.architecture == "published" else "relative"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> NetworkConfig:
        """Inverse of :meth:`to_dict`."""
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})
