"""What a network is made of; stored beside its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from sagefm._arguments import number, one_of, shown, whole_number
from sagefm.errors import ArgumentError

#: Widths of the five graph convolutions of the published network; the last is the embedding's.
PUBLISHED_HIDDEN: Final = (1024, 512, 512, 512, 1024)
DEFAULT_HIDDEN: Final = (256, 64)
#: Checkpoints and code of before 0.2 say "default".
_ALIASES: Final = {"default": "center_neighborhood"}
_LIKELIHOODS: Final = {"center_neighborhood": ("poisson", "negative_binomial"), "published": ("mse",)}
#: What a network may be at most, so that neither a slip nor a hostile file asks for all the memory there is. The
#: largest number of weights, 2 GB, is that of 16 published networks.
MAX_GENES: Final = 500_000
MAX_WIDTH: Final = 16_384
MAX_LAYERS: Final = 32
MAX_WEIGHTS: Final = 500_000_000


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
    hidden: Sequence[int]
    likelihood: str
    scale: float = 1e4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        one_of(self.architecture, ("center_neighborhood", "published"), name="architecture")
        one_of(self.likelihood, _LIKELIHOODS[self.architecture], name="likelihood")
        is_list = isinstance(self.hidden, Sequence) and not isinstance(self.hidden, str | bytes)
        if not is_list or not 2 <= len(self.hidden) <= MAX_LAYERS:
            raise ArgumentError(f"hidden={shown(self.hidden)}; expected 2 to {MAX_LAYERS} widths.")
        checked = {
            "n_genes": whole_number(self.n_genes, name="n_genes", minimum=1, maximum=MAX_GENES),
            "hidden": tuple(whole_number(n, name="hidden", minimum=1, maximum=MAX_WIDTH) for n in self.hidden),
            "scale": number(self.scale, name="scale", is_valid=lambda x: x > 0, expected="a number above 0"),
            "dropout": number(
                self.dropout,
                name="dropout",
                is_valid=lambda x: 0 <= x < 1,
                expected="a share of at least 0 and below 1",
            ),
        }
        # Plain numbers, which JSON takes.
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self._n_weights > MAX_WEIGHTS:
            raise ArgumentError(
                f"hidden={self.hidden}, n_genes={self.n_genes}: a network of {self._n_weights:,} weights; expected at "
                f"most {MAX_WEIGHTS:,}. Pass smaller widths or fewer genes."
            )

    @property
    def _n_weights(self) -> int:
        """Number of weights of the matrices."""
        first = 1 if self.architecture == "published" else 2
        dense = sum(n_in * n_out for n_in, n_out in zip(self.hidden[:-1], self.hidden[1:], strict=True))
        return self.n_genes * (first * self.hidden[0] + self.hidden[-1]) + dense

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
        architecture = one_of(_alias(architecture), _LIKELIHOODS, name="architecture")
        published = architecture == "published"
        if hidden is None:
            hidden = PUBLISHED_HIDDEN if published else DEFAULT_HIDDEN
        if published:
            # The published network has one loss; `likelihood`, `scale` and `dropout` are of the other.
            return cls(architecture, n_genes, hidden, "mse")
        return cls(architecture, n_genes, hidden, likelihood, scale, dropout)

    @property
    def input(self) -> str:
        """Kind of input, see :mod:`sagefm.data._section`."""
        return "log1p" if self.architecture == "published" else "relative"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, stored: Any) -> NetworkConfig:
        """Inverse of :meth:`to_dict`, of anything that was stored.

        Raises
        ------
        ArgumentError
            No dictionary, a field that is missing or unknown, or a value out of its range.
        """
        names = {field.name for field in fields(cls)}
        required = names - {"scale", "dropout"}
        if not isinstance(stored, dict) or not required <= stored.keys() <= names:
            content = sorted(map(str, stored)) if isinstance(stored, dict) else stored
            raise ArgumentError(f"The network is {shown(content)}; expected the fields {sorted(names)}.")
        return cls(**{**stored, "architecture": _alias(stored["architecture"])})


def _alias(architecture: Any) -> Any:
    """Return the present name of an architecture."""
    return _ALIASES.get(architecture, architecture) if isinstance(architecture, str) else architecture
