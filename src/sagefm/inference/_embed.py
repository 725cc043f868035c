"""Embedding: the first layer, then a few small dense layers, spot by spot."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sagefm._constants import BLOCK_ROWS
from sagefm._progress import ProgressBar
from sagefm.data._table import untouched_on_error
from sagefm.inference._products import block_rows_of, first_layer, project_counts

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._input import SectionInput
    from sagefm.data._reader import TableReader
    from sagefm.inference._products import Projector
    from sagefm.module._reading import SpotNetwork


@torch.inference_mode()
def embed_section(
    network: SpotNetwork,
    inputs: SectionInput,
    device: torch.device,
    *,
    block_rows: int = BLOCK_ROWS,
    projector: Projector = project_counts,
) -> NDArray[np.float32]:
    """Return the embedding of every spot of a section, float32 (n_spots, n_latent)."""
    n_spots = inputs.section.n_spots
    first = first_layer(network, inputs, device, block_rows=block_rows, projector=projector)
    embedding = np.empty((n_spots, network.config.hidden[-1]), np.float32)
    for start in range(0, n_spots, block_rows):
        rows = slice(start, start + block_rows)
        embedding[rows] = network.encode(first.h(rows)).cpu().numpy()
    return embedding


def embed_table(
    reader: TableReader,
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    batch_size: int | None = None,
    client: Any = None,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Return the embedding of every spot of a table, float32 (n_spots, n_latent)."""
    block_rows = block_rows_of(batch_size)
    network = checkpoint.network.to(device)
    embedding = np.empty((reader.table.n_obs, checkpoint.config.hidden[-1]), dtype=np.float32)
    if client is None:
        projectors: AbstractContextManager[Projector] = nullcontext(project_counts)
    else:
        # distributed takes a second to import.
        from sagefm.inference._dask import cluster_projector

        projectors = cluster_projector(client)
    bar = ProgressBar("embed", reader.table.n_obs, "spot", progress=progress)
    with bar, untouched_on_error(reader.table), projectors as projector:
        projector = partial(projector, done=bar.update)
        for inputs in reader.inputs(checkpoint.config, table_order=True):
            embedding[inputs.section.rows] = embed_section(
                network, inputs, device, block_rows=block_rows, projector=projector
            )
    return embedding
