"""The verbs in other processes, by joblib and Dask, and on arrays of a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from joblib import Parallel, delayed
from scipy import sparse

import sagefm
from tests import OTHER_KERNELS
from tests.recipes import run_recipe


@pytest.fixture(scope="module")
def client():
    with pytest.MonkeyPatch.context() as patch:
        # Workers import this file by its name, however pytest was started.
        patch.syspath_prepend(Path(__file__).parents[1])
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
            Client(cluster) as made,
        ):
            yield made


@pytest.fixture
def parts(sections):
    """The two sections, each in its own table."""
    return [sections[sections.obs["library"] == name].copy() for name in ("section1", "section2")]


def every_verb(adata, model, pairs):
    sagefm.tl.embed(adata, model)
    sagefm.tl.impute(adata, model, genes=["DBI"], progress=False)
    sagefm.tl.perturb(adata, model, pairs=pairs, progress=False)
    return adata


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.obsm["X_sagefm"], other.obsm["X_sagefm"], **OTHER_KERNELS)
        imputed = [adata[:, "DBI"].layers["sagefm_imputed"].toarray() for adata in (one, other)]
        np.testing.assert_allclose(*imputed, **OTHER_KERNELS)
        scores = [adata.uns["sagefm_perturb"]["scores"]["effect"] for adata in (one, other)]
        np.testing.assert_allclose(*scores, **OTHER_KERNELS)


@pytest.mark.slow
def test_recipe(parts, folders, client, state):
    """The sections that were sent are as they were."""
    before = [state(part) for part in parts]
    names = {"sections": parts, "model": folders["default"], "client": client, "sagefm": sagefm}
    made = run_recipe("interoperability.md", "joblib and Dask", Parallel=Parallel, delayed=delayed, **names)
    for found in (made["embedded"], made["again"]):
        for adata, part in zip(found, parts, strict=True):
            expected = sagefm.tl.embed(part, folders["default"], copy=True)
            np.testing.assert_allclose(adata.obsm["X_sagefm"], expected.obsm["X_sagefm"], **OTHER_KERNELS)
    assert [state(part) for part in parts] == before


@pytest.mark.parametrize("form", ["checkpoint", "model"])
def test_models_go_to_dask_workers(form, parts, default, trained, pairs, client):
    """Whatever form the model has, it gets there."""
    model = {"checkpoint": default, "model": trained["default"]}[form]
    expected = [every_verb(part.copy(), model, pairs) for part in parts]
    assert_close(client.gather(client.map(every_verb, parts, model=model, pairs=pairs)), expected)


# Filters of warnings are the process's: one thread takes back what another is in.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_threads_of_joblib(parts, default, pairs):
    expected = [every_verb(part.copy(), default, pairs) for part in parts]
    with Parallel(n_jobs=2, backend="threading") as parallel:
        assert_close(parallel(delayed(every_verb)(part, default, pairs) for part in parts), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_cupy(form, section, default, of_section, run_verbs, assert_same):
    """Counts that are on a GPU, as rapids-singlecell keeps them, and stay there."""
    cupy = pytest.importorskip("cupy")
    if not cupy.is_available():
        pytest.skip("no GPU")
    from cupyx.scipy.sparse import csr_matrix

    section.X = csr_matrix(section.X) if form == "csr" else cupy.asarray(section.X.toarray())
    given = section.X
    assert_same(run_verbs(section, default, device="cpu"), of_section)
    assert section.X is given
    assert not sparse.issparse(section.X)
