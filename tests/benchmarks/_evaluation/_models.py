"""A checkpoint's embeddings and imputations, and the same of its variants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from anndata import AnnData

from sagefm.checkpoint._checkpoint import Checkpoint
from sagefm.data import _genes
from sagefm.data._graph import averaging
from sagefm.data._input import SectionInput
from sagefm.data._reader import TableReader, read_table
from sagefm.inference._embed import embed_table
from sagefm.inference._impute_table import impute_table
from sagefm.module._center import make_network

# Small panels are to be scored too.
_genes.MIN_COVERAGE = 0.0
DEVICE = torch.device("cpu")
N_FOLDS = 3


class AloneReader(TableReader):
    """A table whose spots have no neighborhood: they read a deviation of zero."""

    def inputs(self, config) -> Iterator[SectionInput]:
        for section in super().inputs(config):
            yield replace(section, operator=section.operator * 0, shift=np.zeros_like(section.shift))


def reader_of(adata: AnnData, checkpoint: Checkpoint, *, alone: bool = False) -> TableReader:
    reader = read_table(adata, checkpoint.vocabulary)
    return AloneReader(**vars(reader)) if alone else reader


def random_weights(checkpoint: Checkpoint, seed: int = 2**20) -> Checkpoint:
    """Return an untrained checkpoint of the same architecture, vocabulary and prior."""
    # Far from the small seeds that models are made with: the same would be the same initial values.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(checkpoint.config).eval()
    for name, buffer in checkpoint.network.named_buffers():
        network.get_buffer(name).copy_(buffer)
    return replace(checkpoint, network=network, name="random weights", sha256="")


def impute(adata: AnnData, checkpoint: Checkpoint, n_hidden: int) -> np.ndarray:
    """Return expected counts of a network as it was trained (n_spots, n_vars), NaN outside the vocabulary."""
    reader = reader_of(adata, checkpoint)
    imputed = impute_table(
        reader, checkpoint, n_folds=N_FOLDS, n_hidden=n_hidden, adapt=False, scale="counts", device=DEVICE
    )
    return np.maximum(imputed.layer, 0)


def embed(adata: AnnData, checkpoint: Checkpoint) -> np.ndarray:
    return embed_table(reader_of(adata, checkpoint), checkpoint, device=DEVICE)


def average_around(adata: AnnData, values: np.ndarray) -> np.ndarray:
    """Return the mean of each spot and its neighbors (n_spots, n_columns)."""
    return averaging(adata.obsp["sagefm_connectivities"], with_center=True) @ values
