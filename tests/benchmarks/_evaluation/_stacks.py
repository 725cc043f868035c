"""What `tl.impute` predicts, and what each of its predictors would predict alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from _evaluation import _models
from sagefm.checkpoint._checkpoint import Checkpoint
from sagefm.data._input import make_input
from sagefm.inference._impute import Alone, Predicted, SectionSpots, Stack, mean_weights, predict
from sagefm.inference._layout import Layout
from sagefm.inference._network_reader import NetworkReader

BLOCK_ROWS = 512
STACKED, WITHOUT = "tl.impute", "tl.impute, model=None"


def only(stack: Stack, name: str) -> Stack:
    """Return a stack in which one predictor has the weight 1, and the others 0."""
    alone, names = copy.copy(stack), list(stack.predictors)

    def unit(weights: np.ndarray, used: list[str]) -> np.ndarray:
        """Return weights (n_used, n_genes) of which those of one predictor are 1."""
        return np.tile(np.array([[used_name == name] for used_name in used], weights.dtype), (1, weights.shape[1]))

    alone.weights = {part: unit(weights.T, names).T for part, weights in stack.weights.items()}
    alone.chunks = [
        # Genes that are hardly seen have the network alone.
        chunk._replace(
            weights={part: unit(w, names if len(w) == len(names) else ["network"]) for part, w in chunk.weights.items()}
        )
        for chunk in stack.chunks
    ]
    return alone


@dataclass
class Stacks:
    """The stacks of a section with `n_hidden` folds hidden at a time, for the genes in `wanted` (of the vocabulary).

    Unless `whole`, only the stack that `tl.impute` uses is fitted.
    """

    adata: AnnData
    checkpoint: Checkpoint
    n_hidden: int
    wanted: np.ndarray
    whole: bool = True

    def __post_init__(self) -> None:
        reader = _models.reader_of(self.adata, self.checkpoint)
        (section,) = reader.sections()
        config = self.checkpoint.config
        self.layout = Layout(section, len(self.checkpoint.vocabulary), _models.N_FOLDS, 0)
        inputs = make_input(section, config.input, scale=config.scale)
        network = NetworkReader(self.checkpoint.network, inputs, self.layout, _models.DEVICE, BLOCK_ROWS)
        spots = SectionSpots(self.layout, self.adata.obs_names[section.rows], "center", 0)
        masks = spots.masks(self.wanted, self.n_hidden)
        self.parts = spots.parts.part
        self.models = {STACKED: [Stack(spots, mask, network) for mask in masks]}
        self.weights = mean_weights(self.models[STACKED])
        if not self.whole:
            return
        self.models[WITHOUT] = [Stack(spots, mask, None) for mask in masks]
        self.models["network, as trained"] = [Alone(mask, network, everywhere=False) for mask in masks]
        for source in (STACKED, WITHOUT):
            stacks = self.models[source]
            for name in stacks[0].predictors:
                self.models.setdefault(f"{name} alone", [only(stack, name) for stack in stacks])

    def predicted(self, name: str) -> Iterator[Predicted]:
        """Yield the predictions of a model, block by block of spots."""
        for _, blocks in predict(self.layout, self.models[name], self.parts, BLOCK_ROWS):
            yield from blocks
