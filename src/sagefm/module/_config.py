"""What a network is made of; stored beside its parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Widths of the five graph convolutions of the published network; the last is the embedding's.
PUBLISHED_HIDDEN: Final = (1024, 512, 512, 512, 1024)
DEFAULT_HIDDEN: Final = (256, 64)
#: Checkpoints and code of before 0.2 say "default".
_ALIASES: Final = {"default": "center_neighborhood"}


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a network.

    Attributes
    ----------
    architecture
        ``"center_neighborhood"`` (the two kept apart) or ``"published"`` (five graph convolutions).
    n_genes
        Size of the vocabulary.
    hidden
        Widths of the layers; the last is the embedding's.
    likelihood
        ``"poisson"`` or ``"negative_binomial"`` on counts (center_neighborhood), ``"mse"`` on log1p counts (published).
    scale
        Counts that a spot is brought to before log1p (center_neighborhood).
    dropout
        Share of hidden units dropped in training (center_neighborhood).
    """

    architecture: str
    n_genes: int
    hidden: tuple[int, ...]
    likelihood: str
    scale: float = 1e4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.architecture not in ("center_neighborhood", "published"):
            raise ArgumentError(f"architecture={self.architecture!r}; expected 'center_neighborhood' or 'published'.")
        known = ("mse",) if self.architecture == "published" else ("poisson", "negative_binomial")
        if self.likelihood not in known:
            raise ArgumentError(f"likelihood={self.likelihood!r}; expected one of {known}.")
        if self.n_genes < 1 or len(self.hidden) < 2 or min(self.hidden) < 1:
            raise ArgumentError(
                f"hidden={self.hidden}, n_genes={self.n_genes}; expected two or more widths of at least 1."
            )
        if not 0 <= self.dropout < 1 or not self.scale > 0:
            raise ArgumentError(f"dropout={self.dropout}, scale={self.scale}; expected a share below 1, and above 0.")

    @classmethod
    def of(
        cls,
        architecture: str,
        *,
        n_genes: int,
        hidden: Sequence[int] | None = None,
        likelihood: str = "poisson",
        scale: float = 1e4,
        dropout: float = 0.0,
    ) -> NetworkConfig:
        """Return the configuration of an architecture, with its widths where none are given.

        Raises
        ------
        ArgumentError
            A value out of its range.
        """
        architecture = _ALIASES.get(architecture, architecture)
        published = architecture == "published"
        widths = tuple(int(width) for width in hidden or (PUBLISHED_HIDDEN if published else DEFAULT_HIDDEN))
        if published:
            # The published network has one loss; `likelihood`, `scale` and `dropout` are of the other.
            return cls(architecture, n_genes, widths, "mse")
        return cls(architecture, n_genes, widths, likelihood, float(scale), float(dropout))

    @property
    def input(self) -> str:
        """Kind of input, see :mod:`sagefm.data._section`."""
        return "log1p" if self.architecture == "published" else "relative"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> NetworkConfig:
        """Inverse of :meth:`to_dict`."""
        architecture = _ALIASES.get(fields["architecture"], fields["architecture"])
        return cls(
            **{**fields, "architecture": architecture, "hidden": tuple(int(width) for width in fields["hidden"])}
        )
