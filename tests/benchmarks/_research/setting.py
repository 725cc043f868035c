"""The options of a run, and the donors by which they were chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields

#: Donors by which settings were chosen.
DEV = (
    "Br8325",
    "RA1",
    "breast_tnbc_visium_396A",
    "heart_CN73",
    "her2st_B",
    "her2st_D",
    "liver_hcc1_2000genes",
    "melanoma_st_mel1_rep1",
)
INPUTS, NEIGHBORHOODS = ("log", "sqrt", "root", "nb", "nbf"), ("two", "none")


@dataclass(frozen=True)
class Options:
    """A setting; see the head of this file."""

    input: str = "log"
    norm: bool = True
    depth: bool = False
    neighborhood: str = "two"
    mask: tuple[float, float] = (0.3, 0.3)
    hidden: int = 256
    latent: int = 64
    dropout: float = 0.5
    lr: float = 2e-3
    weight_decay: float = 0.0
    latent_dropout: float = 0.0
    epochs: int = 12
    genes: int = 6000
    cap: int = 800
    seed: int = 0

    def __str__(self) -> str:
        parts = [self.input] + ([] if self.norm else ["no norm"]) + (["depth"] if self.depth else [])
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in ("input", "norm", "depth"):
                shown = "{:g} to {:g}".format(*value) if field.name == "mask" else value
                parts.append(f"{field.name.replace('_', ' ')} {shown}")
        return ", ".join(parts)
