"""Embedding and training on a GPU: throughput as a share of the device's product rate, agreement of its precisions.

Each precision is float32, TF32 or bfloat16 (autocast, training alone: embedding has no mixed precision). The product rate
is that of one dense product of the shape and precision of the first layer, on matrices that are there already. Differences
are relative to the largest value of the float32 embedding on the CPU; the exit status is 1 if one is above its tolerance.
The epoch of the published corpus (981,074 spots) is projected from steps that are measured. The default network, on
simulated counts.

python tests/benchmarks/gpu.py [--device cuda] [--spots 20000] [--batch-size 1024] [--steps 50]

`--device cpu --spots 300 --steps 2` tries the script on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from embed import N_GENES, checkpoint, seconds, section

import sagefm
from sagefm.data._reader import read_table
from sagefm.inference._embed import embed_section
from sagefm.module._losses import masked_loss
from sagefm.training._config import TrainingConfig
from sagefm.training._loader import SpotBatches
from sagefm.training._sections import TableSections

#: Spots of the published corpus (Zhan et al. 2026).
CORPUS_SPOTS = 981_074
#: Largest difference of embeddings from the CPU's, relative to their largest value: TF32 has 10 bits.
TOLERANCES = {"float32": 1e-4, "TF32": 5e-3}


def in_precision(precision: str, device: torch.device, function: Callable[[], Any]) -> Any:
    """Return what a function returns with products in this precision, when the device has finished."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
    cast = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with cast:
        result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result


def training_step(model: Any, inputs: Any, batch_size: int, device: torch.device) -> Callable[[], None]:
    """Return a training step of the default settings, on batches that never end."""
    network = copy.deepcopy(model.network).to(device).train().requires_grad_(True)
    settings = TrainingConfig.of(model.config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    spots = [np.arange(inputs.section.n_spots)]
    batches = SpotBatches(
        TableSections([inputs.section], model.config), spots, n_vocabulary=N_GENES, batch_size=batch_size, seed=0
    )
    batches.device = device

    def endless() -> Any:
        while True:
            yield from batches
            batches.epoch += 1

    iterator = endless()

    def step() -> None:
        batch = next(iterator)
        optimizer.zero_grad()
        masked_loss(network, batch, batch.draw_mask(settings.mask_fraction)).backward()
        optimizer.step()

    return step


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--spots", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    adata = section(arguments.spots)
    sagefm.pp.spatial_neighbors(adata)
    model = checkpoint("default")
    (inputs,) = read_table(adata, model.vocabulary).inputs(model.config)
    expected = embed_section(model.network, inputs, torch.device("cpu"))
    network = copy.deepcopy(model.network).to(device)
    width = model.config.hidden[0]
    # Center and neighborhood: two products with counts, and two for the gradients of their weights.
    embedding_flops = 2 * 2 * N_GENES * width
    training_flops = 2 * 4 * N_GENES * width + 3 * 2 * N_GENES * model.config.hidden[-1]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}: {adata.n_obs:,} spots x {N_GENES:,} genes, training batches of {arguments.batch_size}")
    print(
        "| precision | product, TFLOP/s | embedding, spots/s | share | largest difference "
        "| training, spots/s | share | epoch of 981,074 spots, s |\n" + "|---" * 8 + "|",
        flush=True,
    )
    too_far = []
    for precision in (*TOLERANCES, "bfloat16"):
        run = partial(in_precision, precision, device)
        x, weight = (torch.rand(n, N_GENES, device=device) for n in (4096, width))
        step = training_step(model, inputs, arguments.batch_size, device)
        calls: dict[str, Callable[[], Any]] = {
            "product": partial(run, lambda x=x, weight=weight: x @ weight.T),
            "train": partial(run, lambda step=step: [step() for _ in range(arguments.steps)]),
        }
        if precision in TOLERANCES:
            calls["embed"] = partial(run, partial(embed_section, network, inputs, device))
        for call in calls.values():
            call()
        times = {name: statistics.median(seconds(call) for _ in range(3)) for name, call in calls.items()}
        rate = 2 * len(x) * N_GENES * width / times["product"]
        batch_size = min(arguments.batch_size, adata.n_obs)
        trained = arguments.steps * batch_size / times["train"]
        cells = "| |"
        if precision in TOLERANCES:
            embedded = adata.n_obs / times["embed"]
            difference = float(np.abs(calls["embed"]() - expected).max() / np.abs(expected).max())
            too_far += [precision] * (not difference <= TOLERANCES[precision])
            cells = f"{embedded:,.0f} | {embedded * embedding_flops / rate:.2f} | {difference:.1e}"
        training = f"{trained:,.0f} | {trained * training_flops / rate:.2f} | {CORPUS_SPOTS / trained:,.0f}"
        print(f"| {precision} | {rate / 1e12:.2f} | {cells} | {training} |", flush=True)
    if too_far:
        raise SystemExit(f"Embeddings differ by more than {TOLERANCES}: {', '.join(too_far)}")


if __name__ == "__main__":
    main()
