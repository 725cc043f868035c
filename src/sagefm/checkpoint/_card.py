"""What a checkpoint says of itself, as rows and as a model card; nothing that it does not hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagefm.checkpoint._checkpoint import Checkpoint

_CARD = """\
---
{front}
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


def records(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of all trainings that led to the parameters, the last one first."""
    return [training, *reversed(training.get("before", []))]


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """Return a text by label: architecture, genes, training, losses, hash."""
    config, training, history = checkpoint.config, checkpoint.training, checkpoint.history
    best = training.get("best_epoch")
    rows = {
        "architecture": f"{config.architecture}, widths {', '.join(map(str, config.hidden))}, {config.likelihood}",
        "parameters": f"{sum(parameter.numel() for parameter in checkpoint.network.parameters()):,}",
        "embedding": f"{config.hidden[-1]} dimensions",
        "genes": f"{len(checkpoint.vocabulary):,}",
    }
    seen = dict.fromkeys(
        f"{record['n_spots']:,} spots of {record.get('n_sections', 1)} section(s)"
        for record in records(training)
        if "n_spots" in record
    )
    if seen:
        rows["trained on"] = "; before that on ".join(seen)
    if not training.get("is_trained", True):
        rows["trained on"] = "nothing: its parameters are random"
    if "epochs" in training:
        settings = [f"{name} {training[name]}" for name in ("lr", "batch_size", "seed") if name in training]
        kept = "" if best is None else f", best {best}"
        rows["training"] = f"{training['epochs']} epochs{kept}; {', '.join(settings)}"
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
    """Return the card of a checkpoint in Markdown, with the metadata that the Hugging Face Hub reads.

    Parameters
    ----------
    checkpoint
        The checkpoint, with the hash of its stored parameters.
    name
        Name by which it is loaded.
    license
        Identifier of its license; None where none was stated.
    """
    front = [] if license is None else [f"license: {json.dumps(license)}"]
    front += ["library_name: sagefm", "tags: [biology, spatial-transcriptomics, visium]"]
    sections = {
        section: sha256
        for record in records(checkpoint.training)
        for section, sha256 in record.get("sections", {}).items()
    }
    return _CARD.format(
        front="\n".join(front),
        name=name,
        sha256=checkpoint.sha256,
        facts=_table("", "", {**describe(checkpoint), "license": license or "none stated"}),
        sections=_table("section", "sha256", sections) if sections else "The checkpoint does not name them.",
    )


def _table(left: str, right: str, rows: dict[str, str]) -> str:
    cells = [(left, right), ("---", "---"), *rows.items()]
    # A row of the table is a line, and its cells end at a bar.
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) + " |" for row in cells
    )
