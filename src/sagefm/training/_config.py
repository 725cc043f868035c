"""How a network is trained; stored beside its parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import nan
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

from sagefm._arguments import as_seed, number, one_of, whole_number
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

    from sagefm.module._config import NetworkConfig

#: Smallest values of whole numbers; the second ones may be None.
_WHOLE: Final = {"max_epochs": 1, "batch_size": 1, "lr_patience": 0}
_WHOLE_OR_NONE: Final = {"patience": 0, "n_shards": 1, "sections_in_memory": 1}
_RANGES: Final = {
    "lr": (lambda value: value > 0, "a learning rate above 0"),
    "weight_decay": (lambda value: value >= 0, "a number of at least 0"),
    "lr_factor": (lambda value: 0 < value < 1, "a factor between 0 and 1"),
    "validation_size": (lambda value: 0 <= value < 1, "a share of at least 0 and below 1"),
}
#: Zhan et al. 2026.
_PUBLISHED: Final[dict[str, Any]] = {
    "decoupled": False,
    "lr": 5e-5,
    "weight_decay": 1e-4,
    "mask_fraction": 0.3,
    "lr_factor": 0.9,
    "lr_patience": 5,
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of training, by the names of :meth:`sagefm.model.SAGEFM.train` and :func:`sagefm.model.pretrain`.

    Attributes
    ----------
    decoupled
        Whether weight decay is decoupled (AdamW), or part of the gradient (Adam).
    lr_factor, lr_patience
        Schedule ``"plateau"``: the learning rate is multiplied by the factor after more epochs than this without a
        better validation loss.
    """

    decoupled: bool = True
    lr: float = 1e-3
    weight_decay: float = 1e-2
    #: Range of each spot's share of hidden genes.
    mask_fraction: tuple[float, float] = (0.1, 0.7)
    lr_factor: float = 0.5
    lr_patience: int = 4
    schedule: str = "plateau"
    max_epochs: int = 100
    batch_size: int = 256
    validation_size: float = 0.1
    #: Epochs without a better validation loss before training stops; None: it does not stop early.
    patience: int | None = 10
    n_shards: int | None = None
    sections_in_memory: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {"mask_fraction": _as_range(self.mask_fraction)}
        for name, minimum in (_WHOLE | _WHOLE_OR_NONE).items():
            if (value := getattr(self, name)) is not None or name in _WHOLE:
                checked[name] = whole_number(value, name=name, minimum=minimum)
        for name, (is_valid, expected) in _RANGES.items():
            checked[name] = number(getattr(self, name), name=name, is_valid=is_valid, expected=expected)
        one_of(self.schedule, ("plateau", "cosine"), name="schedule")
        # Plain numbers, which JSON takes.
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        network: NetworkConfig,
        *,
        early_stopping: bool = True,
        rng: int | np.random.Generator = 0,
        **settings: Any,
    ) -> TrainingConfig:
        """Return the settings that are given, the others as the architecture has them."""
        for name in ("lr", "weight_decay", "mask_fraction"):
            if settings.get(name, 0) is None:
                del settings[name]
        if not early_stopping:
            settings["patience"] = None
        defaults = _PUBLISHED if network.architecture == "published" else {}
        return cls(**{**defaults, **settings}, seed=as_seed(rng))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "mask_fraction": list(self.mask_fraction)}


#: Names that :meth:`TrainingConfig.of` takes, beside `rng`.
SETTINGS: Final = {field.name for field in fields(TrainingConfig)} - {"decoupled", "seed"} | {"early_stopping"}


def _as_range(fraction: Any) -> tuple[float, float]:
    """Return a share, or a range of shares, as its two ends."""
    try:
        low, high = (float(end) for end in ((fraction, fraction) if isinstance(fraction, Real) else fraction))
    except (TypeError, ValueError):
        low = high = nan
    if not 0 < low <= high <= 1:
        raise ArgumentError(f"mask_fraction={fraction!r}; expected a share above 0 and at most 1, or a range of such.")
    return low, high
