"""Embeddings and losses on a GPU are those of the CPU, in each precision."""

from __future__ import annotations

import pytest
import torch

import sagefm
from sagefm.data._reader import read_table
from sagefm.module._losses import masked_loss
from sagefm.training._loader import make_batch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def difference(a, b):
    return abs(a - b).max() / abs(b).max()


@pytest.fixture
def precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("highest", 1e-4), ("high", 5e-3)], indirect=["precision"], ids=["float32", "TF32"]
)
def test_embedding(section, checkpoint, precision, tolerance):
    cpu, gpu = (sagefm.tl.embed(section, checkpoint, device=name, copy=True) for name in ("cpu", "cuda"))
    assert difference(gpu.obsm["X_sagefm"], cpu.obsm["X_sagefm"]) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_loss(section, checkpoint, dtype, tolerance):
    (inputs,) = read_table(section, checkpoint.vocabulary).inputs(checkpoint.config)
    batch = make_batch([(inputs, inputs.section.rows[:32])], checkpoint.config.n_genes, ((32, 0),))
    mask = batch.draw_mask((0.3, 0.3))
    with torch.no_grad():
        expected = masked_loss(checkpoint.network.cpu(), batch, mask)
        device = torch.device("cuda")
        with torch.autocast("cuda", dtype, enabled=dtype == torch.bfloat16):
            loss = masked_loss(checkpoint.network.to(device), batch.to(device), mask.to(device)).cpu()
    checkpoint.network.cpu()
    assert difference(loss, expected) < tolerance
