"""Embedding on a Dask cluster of two worker processes is embedding."""

from __future__ import annotations

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from scipy import sparse

import sagefm
from sagefm.errors import ArgumentError, CountsError
from tests import OTHER_KERNELS


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as made,
    ):
        yield made


def in_chunks(counts):
    return da.from_array(counts.toarray(), chunks=(70, -1)).map_blocks(sparse.csr_matrix)


def stored(section, form, folder):
    """The section with its counts elsewhere."""
    if form == "dask":
        section.X = in_chunks(section.X)
    elif form == "backed":
        section.write_h5ad(folder / "s.h5ad")
        return ad.read_h5ad(folder / "s.h5ad", backed="r")
    elif form == "lazy":
        section.write_zarr(folder / "s.zarr")
        return ad.experimental.read_lazy(folder / "s.zarr")
    return section


@pytest.mark.parametrize("form", ["csr", "dask", "backed"])
def test_same_embedding(form, section, checkpoint, client, tmp_path, monkeypatch):
    monkeypatch.setattr("sagefm.inference._dask._TASK_ROWS", 70)
    expected = sagefm.tl.embed(section, checkpoint, batch_size=70, copy=True).obsm["X_sagefm"]
    section = stored(section, form, tmp_path)
    sagefm.tl.embed(section, checkpoint, batch_size=70, client=client)
    found = section.obsm["X_sagefm"]
    np.testing.assert_allclose(found, expected, **OTHER_KERNELS)


@pytest.mark.parametrize("form", ["csr", "dask", "backed", "lazy"])
def test_libraries_in_any_order(form, sections, checkpoint, client, tmp_path):
    """Two libraries that alternate: products of other numbers of rows, which round otherwise."""
    sections = sections[np.random.default_rng(0).permutation(sections.n_obs)].copy()
    expected = sagefm.tl.embed(sections, checkpoint, library_key="library", copy=True).obsm["X_sagefm"]
    sections = stored(sections, form, tmp_path)
    sagefm.tl.embed(sections, checkpoint, library_key="library", client=client)
    found = sections.obsm["X_sagefm"]
    np.testing.assert_allclose(found, expected, **OTHER_KERNELS)


def test_scheduler_address(section, default, client):
    expected = sagefm.tl.embed(section, default, copy=True).obsm["X_sagefm"]
    sagefm.tl.embed(section, default, client=client.scheduler.address)
    # To the bit where a worker has as many threads as this process.
    np.testing.assert_allclose(section.obsm["X_sagefm"], expected, **OTHER_KERNELS)


def test_workers_are_used(section, default, client):
    """Both processes, and not this one."""
    section.X = in_chunks(section.X)

    # Within the test, so that they reach the workers by value.
    def count():
        import sagefm.inference._dask as module

        original, module.n_products = module.project_counts, 0

        def counted(*args, **kwargs):
            module.n_products += 1
            return original(*args, **kwargs)

        module.project_counts = counted

    def counted():
        import sagefm.inference._dask as module

        return module.n_products

    client.run(count)
    sagefm.tl.embed(section, default, client=client)
    done = client.run(counted)
    assert len(done) == 2
    assert sum(done.values()) == 6
    assert min(done.values()) > 0


def test_errors(section, default, client):
    counts = section.X.toarray()
    counts[-1, 0] = -1
    section.X = in_chunks(sparse.csr_matrix(counts))
    with pytest.raises(CountsError, match="negative"):
        sagefm.tl.embed(section, default, client=client)
    assert not section.obsp
    with pytest.raises(ArgumentError, match=r"distributed\.Client"):
        sagefm.tl.embed(section, default, client=3)
    seconds = dask.config.set({"distributed.comm.timeouts.connect": "1s"})
    with seconds, pytest.raises(ArgumentError, match="no Dask scheduler answers"):
        sagefm.tl.embed(section, default, client="tcp://127.0.0.1:9")
