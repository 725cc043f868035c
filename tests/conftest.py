"""Small sections, small trained models, and what every test of an input asks: was the object left as it was?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

# Before torch is imported: the models are small, and test processes may run side by side. numba raises the number of
# OpenMP threads again when squidpy uses it; those that wait must not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, settings
from scipy import sparse

import sagefm
from sagefm.model import Checkpoint, load_checkpoint

# The same examples everywhere, however long one takes.
settings.register_profile("sagefm", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sagefm")

HIDDEN = {"default": (32, 16), "published": (32, 24, 24, 24, 20)}


@pytest.fixture(scope="session")
def _section() -> AnnData:
    return sagefm.datasets.simulate(400, n_genes=300, rng=1)


@pytest.fixture
def section(_section: AnnData) -> AnnData:
    """A hexagonal section, 400 spots x 300 genes, all of the models' vocabulary."""
    return _section.copy()


@pytest.fixture(scope="session")
def _sections() -> AnnData:
    return sagefm.datasets.simulate(150, n_genes=300, n_sections=2, rng=2)


@pytest.fixture
def sections(_sections: AnnData) -> AnnData:
    """Two sections of 150 spots in one table, ``obs["library"]``; both begin at (0, 0)."""
    return _sections.copy()


@pytest.fixture(scope="session")
def _synovium() -> AnnData:
    return sagefm.datasets.synovium()


@pytest.fixture
def synovium(_synovium: AnnData) -> AnnData:
    """A real section on a square array, 302 spots x 15,005 genes."""
    return _synovium.copy()


@pytest.fixture(scope="session")
def trained(_section: AnnData) -> dict[str, Any]:
    """A trained `SAGEFM` of each architecture, vocabulary: the 300 genes of `section`."""
    from sagefm.model import SAGEFM

    models = {}
    for architecture, hidden in HIDDEN.items():
        adata = _section.copy()
        SAGEFM.setup_anndata(adata)
        models[architecture] = SAGEFM(adata, architecture=architecture, hidden=hidden)
        models[architecture].train(max_epochs=3, accelerator="cpu", batch_size=64, lr=3e-3)
    return models


@pytest.fixture(scope="session")
def folders(trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The folder to which each model of `trained` was saved."""
    folder = tmp_path_factory.mktemp("models")
    for architecture, model in trained.items():
        model.save(folder / architecture)
    return {architecture: folder / architecture for architecture in trained}


@pytest.fixture(params=["default", "published"])
def checkpoint(request: pytest.FixtureRequest, folders: dict[str, Any]) -> Checkpoint:
    """The checkpoint of each architecture in turn."""
    return load_checkpoint(folders[request.param])


@pytest.fixture
def default(folders: dict[str, Any]) -> Checkpoint:
    """The checkpoint of the default architecture."""
    return load_checkpoint(folders["default"])


@pytest.fixture(scope="session")
def synovium_model(_synovium: AnnData) -> Checkpoint:
    """A small model of the synovium's 15,005 genes."""
    from sagefm.model import SAGEFM

    adata = _synovium.copy()
    SAGEFM.setup_anndata(adata)
    model = SAGEFM(adata, hidden=(16, 8))
    model.train(max_epochs=1, accelerator="cpu", lr=3e-3)
    return model.to_checkpoint()


@pytest.fixture(scope="session")
def pairs(_section: AnnData) -> pd.DataFrame:
    """Four pairs of genes of `section`, of four sources."""
    return _section.uns["truth"][["source", "target"]].iloc[[0, 1, 10, 11]].reset_index(drop=True)


@pytest.fixture(scope="session")
def run_verbs(pairs: pd.DataFrame) -> Callable[..., SimpleNamespace]:
    """Return a function that runs all three verbs on a table and returns what they wrote."""

    def run(adata: Any, model: Any, *, table: Callable[[Any], AnnData] = lambda adata: adata, **kwargs: Any) -> Any:
        sagefm.tl.embed(adata, model, **kwargs)
        sagefm.tl.impute(adata, model, progress=False, **kwargs)
        sagefm.tl.perturb(adata, model, pairs=pairs, per_spot=True, progress=False, **kwargs)
        written = table(adata)
        return SimpleNamespace(
            embedding=np.array(written.obsm["X_sagefm"]),
            imputed=np.array(written.layers["sagefm_imputed"]),
            r=written.var["sagefm_imputed_r"].to_numpy(),
            scores=written.uns["sagefm_perturb"]["scores"],
            curves=written.uns["sagefm_perturb"]["curves"],
            per_spot=written.obsm["sagefm_perturb"],
        )

    return run


@pytest.fixture(scope="session")
def of_section(_section: AnnData, folders: dict[str, Any], run_verbs: Callable[..., SimpleNamespace]) -> Any:
    """What the verbs write to `section`, by the default architecture."""
    return run_verbs(_section.copy(), folders["default"])


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Return a function that compares two results of `run_verbs`; to the bit, if no tolerance is given."""

    def check(found: SimpleNamespace, expected: SimpleNamespace, *, rtol: float = 0, atol: float = 0) -> None:
        for name in ("embedding", "imputed", "r"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), rtol=rtol, atol=atol, err_msg=name
            )
        for name in ("scores", "curves"):
            tables = getattr(found, name), getattr(expected, name)
            pd.testing.assert_frame_equal(*tables, rtol=rtol, atol=atol, check_exact=rtol == atol == 0)
        np.testing.assert_allclose(found.per_spot.to_numpy(), expected.per_spot.to_numpy(), rtol=rtol, atol=atol)

    return check


@pytest.fixture(scope="session")
def state() -> Callable[[Any], dict[str, Any]]:
    """Return a function that tells the state of AnnData, SpatialData or MuData: hashes of values, and all keys."""
    return _state


@pytest.fixture
def rejects() -> Callable[..., str]:
    """Return a function that checks an error: its type, what its message names, and that the object is untouched."""

    def check(error: type[Exception], data: Any, call: Callable[[], Any], *words: str) -> str:
        before = _state(data)
        with pytest.raises(error) as raised:
            call()
        assert type(raised.value) is error
        assert isinstance(raised.value, sagefm.errors.SagefmError)
        message = str(raised.value)
        missing = [word for word in words if word not in message]
        assert not missing, f"{missing} not in: {message}"
        assert _state(data) == before
        return message

    return check


def _state(data: Any) -> dict[str, Any]:
    for tables in ("tables", "mod"):
        if hasattr(data, tables):
            return {name: _state(table) for name, table in getattr(data, tables).items()}
    state = {
        "X": _digest(data.X),
        "layers": {key: _digest(data.layers[key]) for key in data.layers if key is not None},
        "obsm": {key: _digest(data.obsm[key]) for key in data.obsm},
        "obsp": {key: _digest(data.obsp[key]) for key in data.obsp},
        "varm": sorted(data.varm),
        "obs": _digest(data.obs),
        "var": _digest(data.var),
        "uns": _nested(data.uns),
        "is_view": data.is_view,
    }
    return state


def _nested(uns: Any) -> Any:
    return {key: _nested(value) for key, value in uns.items()} if hasattr(uns, "keys") else repr(uns)


def _digest(values: Any) -> tuple[str, str]:
    if values is None:
        return "None", ""
    if hasattr(values, "to_memory"):
        values = values.to_memory()
    elif hasattr(values, "compute"):
        values = values.compute()
    if isinstance(values, pd.DataFrame):
        digest = hashlib.sha256(pd.util.hash_pandas_object(values.astype(str)).to_numpy().tobytes())
        return f"{list(values.columns)} {list(values.dtypes)}", digest.hexdigest()
    digest = hashlib.sha256()
    # Order of stored values and explicit zeros count: nothing may be sorted or pruned in place.
    parts = [values.data, values.indices, values.indptr] if sparse.issparse(values) else [np.asarray(values)]
    for part in parts:
        digest.update(repr(part).encode() if part.dtype == object else np.ascontiguousarray(part).tobytes())
    return f"{type(values).__name__} {values.shape} {parts[0].dtype}", digest.hexdigest()
