"""Write checkpoints of the present format, which every later sagefm must read: python tests/checkpoint/formats/make.py NAME

``1`` was written before a checkpoint held the sha256 of its parameters, ``1_sha256`` after that; ``2`` calls the
architecture center_neighborhood and covers architecture and genes by the hash. Folders are added and
never written anew. ``numbers.json`` beside the checkpoints holds a small section, what each network made of it, and
the sum of each parameter as it was read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

import sagefm
from sagefm.checkpoint._checkpoint import save_checkpoint
from sagefm.data._genes import Vocabulary
from sagefm.model import Checkpoint, load_checkpoint
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig

GENES = ("GFAP", "MBP", "PCP4", "SNAP25", "PLP1", "APOE", "CNP", "VIM")
KINDS = {
    "default": NetworkConfig.of(
        "center_neighborhood", n_genes=8, hidden=(6, 4), likelihood="negative_binomial", dropout=0.5
    ),
    "half": NetworkConfig.of("center_neighborhood", n_genes=8, hidden=(6, 4)),
    "published": NetworkConfig.of("published", n_genes=8, hidden=(6, 5, 5, 5, 4)),
}


def make_section(counts: list[list[int]], coordinates: list[list[float]]) -> AnnData:
    adata = AnnData(sparse.csr_matrix(np.array(counts, np.float32)))
    adata.var_names, adata.obs_names = GENES, [f"spot{i}" for i in range(adata.n_obs)]
    adata.obsm["spatial"] = np.array(coordinates)
    return adata


def sums(checkpoint: Checkpoint) -> dict[str, float]:
    return {name: float(tensor.double().sum()) for name, tensor in checkpoint.network.state_dict().items()}


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    counts, coordinates = rng.poisson(3, (16, 8)).tolist(), rng.uniform(0, 1000, (16, 2)).round(1).tolist()
    numbers: dict[str, object] = {"counts": counts, "coordinates": coordinates}
    for seed, (kind, config) in enumerate(KINDS.items()):
        network = make_network(config, seed)
        generator = torch.Generator().manual_seed(seed)
        for tensor in network.state_dict().values():
            # Also what is zero or equal at first, and would hide a mistake; positive, as the profile is.
            tensor.copy_(tensor + 0.1 * torch.rand(tensor.shape, generator=generator))
        training = {"is_trained": True, "n_spots": 16, "sections": {"made up": "0" * 64}}
        written = Checkpoint(network=network, vocabulary=Vocabulary(GENES), name=kind, training=training)
        checkpoint = load_checkpoint(save_checkpoint(written, folder / kind, half=kind == "half"))
        adata = make_section(counts, coordinates)
        sagefm.tl.embed(adata, checkpoint, device="cpu")
        numbers[kind] = {"embedding": adata.obsm["X_sagefm"].tolist(), "sums": sums(checkpoint)}
    (folder / "numbers.json").write_text(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main(Path(__file__).parent / sys.argv[1])
