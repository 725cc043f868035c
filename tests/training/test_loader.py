"""Batches of several sections: as if each section had a batch of its own, and genes not measured are not zeros."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import sparse

from sagefm.data._input import make_input
from sagefm.data._section import Section
from sagefm.inference._products import as_torch, average
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig
from sagefm.module._losses import masked_deviance, masked_loss
from sagefm.training._device_rows import ResidentInput
from sagefm.training._loader import SpotBatches, make_batch
from sagefm.training._sections import TableSections

N_GENES = 30
CONFIG = NetworkConfig.of("published", n_genes=N_GENES)


def make_section(genes: np.ndarray, seed: int, n_spots: int = 40) -> Section:
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.8, (n_spots, len(genes))).astype(np.float32))
    ring = np.arange(n_spots)
    rows, columns = np.repeat(ring, 4), np.concatenate([(i + np.array([-2, -1, 1, 2])) % n_spots for i in ring])
    graph = sparse.csr_matrix((np.ones(rows.size, np.float32), (rows, columns)), (n_spots, n_spots))
    return Section(counts, genes, graph, ring, np.column_stack([ring, ring]).astype(float), f"s{seed}")


PANELS = {
    "same": [np.arange(N_GENES)] * 3,
    "same panel": [np.arange(3, 20)] * 3,
    "different": [np.arange(N_GENES), np.arange(0, N_GENES, 2), np.arange(5, 25)],
}


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize(
    ("architecture", "likelihood"),
    [("published", "mse"), ("default", "poisson"), ("default", "negative_binomial")],
)
def test_mixed_batch_is_its_sections(architecture, likelihood, panel):
    """Loss, deviances and gradients of a mixed batch are those of the sections, weighted by what is hidden."""
    torch.manual_seed(0)
    hidden = (8, 6) if architecture == "default" else (8, 6, 6, 6, 5)
    chosen = {} if likelihood == "mse" else {"likelihood": likelihood}
    config = NetworkConfig.of(architecture, n_genes=N_GENES, hidden=hidden, dropout=0.0, **chosen)
    network = make_network(config).double().eval()
    torch.nn.init.normal_(network.fc_gene.weight, std=0.1)
    sections = [make_section(genes, seed) for seed, genes in enumerate(PANELS[panel])]
    inputs = [make_input(section, config.input, scale=config.scale) for section in sections]
    rows = [np.array([0, 3, 9]), np.array([1]), np.array([2, 5, 30, 31])]

    def double(batch):
        changed = {
            f.name: getattr(batch, f.name).double()
            for f in dataclasses.fields(batch)
            if isinstance(getattr(batch, f.name), torch.Tensor) and getattr(batch, f.name).is_floating_point()
        }
        return dataclasses.replace(batch, **changed)

    mixed = double(make_batch(list(zip(inputs, rows, strict=True)), N_GENES, ((8, 7),)))
    mask = mixed.draw_mask((0.4, 0.4))
    network.zero_grad()
    loss = masked_loss(network, mixed, mask)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    deviances = masked_deviance(network, mixed, mask)

    network.zero_grad()
    expected, sums, start = torch.zeros(()), torch.zeros(2), 0
    for section_input, chosen_rows in zip(inputs, rows, strict=True):
        own = double(make_batch([(section_input, chosen_rows)], N_GENES, ((len(chosen_rows), 0),)))
        own_mask = mask[start : start + len(chosen_rows)]
        if own.genes is not None and mask.shape[1] == N_GENES and len(own.genes) < N_GENES:
            assert not own_mask[:, np.setdiff1d(np.arange(N_GENES), own.genes)].any(), "not measured, not hidden"
            own_mask = own_mask[:, own.genes]
        part = masked_loss(network, own, own_mask) * own_mask.sum() / mask.sum()
        part.backward()
        expected = expected + part.detach()
        sums = sums + torch.stack(masked_deviance(network, own, own_mask)[1:])
        start += len(chosen_rows)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert [d.item() for d in deviances] == pytest.approx([expected.item(), *sums.tolist()], rel=1e-6)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-8)


def batches_of(n_shards: int, own: range, epoch: int = 0, **kwargs: object) -> list:
    sections = TableSections([make_section(np.arange(N_GENES), seed, 20 + 7 * seed) for seed in range(4)], CONFIG)
    spots = [np.arange(size) for size in sections.sizes]
    made = SpotBatches(sections, spots, n_vocabulary=N_GENES, batch_size=8, seed=3, n_shards=n_shards, **kwargs)
    made.own, made.epoch = own, epoch
    found = list(made)
    assert len(found) == len(made)
    return found


def test_shards_on_several_processes_make_the_same_steps():
    one = batches_of(2, range(2))
    two = [batches_of(2, range(rank, 2, 2)) for rank in range(2)]
    for step, whole in enumerate(one):
        parts = [process[step] for process in two]
        torch.testing.assert_close(whole.counts, torch.cat([part.counts for part in parts]))
        masks = torch.cat([part.draw_mask((0.3, 0.3)) for part in parts])
        assert torch.equal(whole.draw_mask((0.3, 0.3)), masks)


def test_epochs_differ_and_validation_does_not():
    first, again, second = (batches_of(1, range(1), epoch) for epoch in (0, 0, 1))
    assert all(torch.equal(a.counts, b.counts) and a.seeds == b.seeds for a, b in zip(first, again, strict=True))
    assert not all(
        torch.equal(a.counts, b.counts) for a, b in zip(first, second, strict=True) if len(a.counts) == len(b.counts)
    )
    assert {a.seeds for a in first}.isdisjoint({b.seeds for b in second})
    held = [batches_of(1, range(1), epoch, shuffle=False) for epoch in (0, 1)]
    assert all(torch.equal(a.counts, b.counts) and a.seeds == b.seeds for a, b in zip(*held, strict=True))


def test_a_process_without_spots_waits():
    """More shards than spots a section can give: the last steps of some shards are empty, and have no loss."""
    sections = TableSections([make_section(np.arange(N_GENES), 0, 20)], CONFIG)
    made = SpotBatches(sections, [np.arange(3)], n_vocabulary=N_GENES, batch_size=1, seed=0, n_shards=2)
    made.own = range(1, 2)
    sizes = [len(batch.counts) for batch in made]
    assert sizes == [1, 0]
    network = make_network(NetworkConfig.of("published", n_genes=N_GENES, hidden=(8, 6, 6, 6, 5)))
    batch = list(made)[1]
    loss = masked_loss(network, batch, batch.draw_mask((0.3, 0.3)))
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize("kind", ["log1p", "relative"])
@pytest.mark.parametrize("panel", PANELS)
def test_batches_made_on_a_device(panel, kind):
    """The code of a GPU, on the CPU: the same batches."""
    inputs = [make_input(make_section(genes, seed), kind) for seed, genes in enumerate(PANELS[panel])]
    rows = [np.array([0, 3, 9]), np.array([], dtype=np.int64), np.array([2, 5, 30, 31])]
    seeds = ((7, 1),)
    expected = make_batch(list(zip(inputs, rows, strict=True)), N_GENES, seeds)
    # The last did not fit there.
    resident = [ResidentInput(section, torch.device("cpu")) for section in inputs[:2]] + inputs[2:]
    found = make_batch(list(zip(resident, rows, strict=True)), N_GENES, seeds)
    for field in dataclasses.fields(found):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        else:
            assert a == b


def test_products_on_a_device():
    """The products and averages of a GPU, on the CPU."""
    section = make_input(make_section(np.arange(N_GENES), 0), "relative")
    matrix = as_torch(section.values, torch.device("cpu"))
    np.testing.assert_array_equal(matrix.to_dense().numpy(), section.values.toarray())
    product = torch.rand((40, 5))
    expected = average(section.operator, product)
    torch.testing.assert_close(as_torch(section.operator, torch.device("cpu")) @ product, expected)


def test_a_section_that_shards_share_is_read_once_an_epoch():
    """It was dropped after the last step of the last shard, though another shard had spots of it left."""
    sections = TableSections([make_section(np.arange(N_GENES), seed) for seed in range(3)], CONFIG)
    sections.keep = False
    read = []
    original = sections._read
    sections._read = lambda i: read.append(i) or original(i)
    for seed in range(10):
        batches = SpotBatches(
            sections, [np.arange(40)] * 3, n_vocabulary=N_GENES, batch_size=2, seed=seed, window=1, n_shards=5
        )
        read.clear()
        assert sum(len(batch.counts) for batch in batches) == 120
        assert sorted(read) == [0, 1, 2]
