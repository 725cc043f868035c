"""Clustering and annotation from embeddings, with controls that know no network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sagefm
from _evaluation._models import average_around, embed, random_weights
from _evaluation._sections import labels_of
from sagefm.data._counts import log_normalize
from sagefm.model import SAGEFM, Checkpoint
from sagefm.tl._classifier import fit, make_folds

if TYPE_CHECKING:
    from collections.abc import Callable

N_COMPONENTS = 20


def _as_annotate(x: np.ndarray, y: np.ndarray, donors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Label as `sagefm.tl.annotate` does: the penalty is that of the best log loss on left-out donors of the reference."""
    classes, codes = np.unique(y, return_inverse=True)
    _, libraries = np.unique(donors, return_inverse=True)
    folds = make_folds(codes, libraries if libraries.max() else None, 5, 0)
    classifier = fit(x, codes, folds, method="logistic", n_neighbors=15)
    return classes[classifier.probability(queries).argmax(axis=1)]


LEARNERS = {
    "tl.annotate": _as_annotate,
    "logistic": lambda x, y, donors, queries: (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y).predict(queries)
    ),
    "neighbors": lambda x, y, donors, queries: (
        make_pipeline(StandardScaler(), KNeighborsClassifier(15)).fit(x, y).predict(queries)
    ),
}


def _pca(values: sparse.csr_matrix) -> np.ndarray:
    return PCA(N_COMPONENTS, svd_solver="arpack", random_state=0).fit_transform(values)


def embedders(
    adata: AnnData, checkpoint: Checkpoint | None, published: Checkpoint | None
) -> dict[str, Callable[[], np.ndarray]]:
    """Return what makes each embedding of a section (n_spots, n_latent) from its counts, by name."""
    found: dict[str, Callable[[], np.ndarray]] = {}
    if checkpoint is not None:
        found["model"] = lambda: embed(adata, checkpoint)
        found["model, mean of 15 spots"] = lambda: average_around(adata, embed(adata, checkpoint))
    if published is not None:
        found["published"] = lambda: embed(adata, published)
    if checkpoint is not None:
        found["random weights"] = lambda: embed(adata, random_weights(checkpoint))
    found["PCA of the spot"] = lambda: _pca(_log_normalized(adata))
    found["PCA of the mean of 15 spots"] = lambda: _pca(
        sparse.csr_matrix(average_around(adata, _log_normalized(adata)))
    )
    return found


def finetuned(adata: AnnData, start: Checkpoint | None, epochs: int) -> dict[str, Callable[[], np.ndarray]]:
    """Return what makes the embeddings of a network that was trained on the section, which no label reaches."""
    found: dict[str, np.ndarray] = {}

    def train() -> np.ndarray:
        SAGEFM.setup_anndata(adata)
        model = SAGEFM(adata, dropout=0.3) if start is None else SAGEFM.from_pretrained(start, adata)
        # New weights want the rate of the recipe, trained ones half of it.
        rate = {"lr": 2e-3 if start is None else 1e-3, "schedule": "cosine"}
        model.train(max_epochs=epochs, validation_size=0.0, early_stopping=False, accelerator="cpu", **rate)
        found["own"] = embed(adata, model.to_checkpoint())
        return found["own"]

    name = "trained on the section alone" if start is None else "model, fine-tuned on the section"
    return {name: train, f"{name}, mean of 15 spots": lambda: average_around(adata, found["own"])}


def _log_normalized(adata: AnnData) -> sparse.csr_matrix:
    return log_normalize(adata.X, 1e4).astype(np.float64)


def has_classes(adata: AnnData) -> bool:
    """Return whether an expert's labels tell at least two classes apart."""
    labels = labels_of(adata)
    return labels is not None and labels.nunique() > 1


def evaluate_clustering(make: Callable[[], np.ndarray], adata: AnnData, n_seeds: int) -> dict[str, float]:
    """Return scores of one embedding, mean and standard deviation over seeds, and the seconds that making it took."""
    start, cpu_start = time.perf_counter(), time.process_time()
    embedding = make()
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    scores = sagefm.metrics.clustering(embedding, labels_of(adata), coordinates=adata.obsm["spatial"], n_seeds=n_seeds)
    spread = scores.std(ddof=0).add_suffix("_sd")
    return {**scores.mean().to_dict(), **spread.to_dict(), **seconds}


def _features(sections: dict[str, AnnData], checkpoint: Checkpoint, published: Checkpoint | None) -> dict:
    """Return embeddings of all sections by name and section; principal components are of the genes they share."""
    own = {name: embed(adata, checkpoint) for name, adata in sections.items()}
    found = {"model": own, "model, mean of 15 spots": {n: average_around(sections[n], e) for n, e in own.items()}}
    if published is not None:
        found["published"] = {name: embed(adata, published) for name, adata in sections.items()}
    genes = sorted(set.intersection(*(set(adata.var_names) for adata in sections.values())))
    u = {n: log_normalize(sparse.csr_matrix(a[:, genes].X), 1e4).astype(np.float64) for n, a in sections.items()}
    around = {n: sparse.csr_matrix(average_around(sections[n], values)) for n, values in u.items()}
    edges = np.cumsum([values.shape[0] for values in u.values()])[:-1]
    found["PCA of the spot"] = _joint(_pca(sparse.csr_matrix(sparse.vstack(list(u.values())))), u, edges)
    found["PCA of the mean of 15 spots"] = _joint(
        _pca(sparse.csr_matrix(sparse.vstack(list(around.values())))), u, edges
    )
    loadings = sagefm.metrics.fit_components([sparse.csr_matrix(a[:, genes].X) for a in sections.values()])
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    found["PCA of deviations"] = {n: (values - values.mean(axis=0)) @ loadings.T for n, values in u.items()}
    return found


def _joint(values: np.ndarray, names: dict, edges: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(names, np.split(values, edges), strict=True))


def evaluate_annotation(
    sections: dict[str, AnnData],
    groups: dict[str, str],
    checkpoint: Checkpoint,
    published: Checkpoint | None,
) -> pd.DataFrame:
    """Return a row a features, learner and group left out.

    Components are of all sections, none of which needs a label for it; classifiers are fitted without the group.

    Parameters
    ----------
    sections
        Labelled sections of one tissue, by name.
    groups
        Donor of each section, which is left out as a whole.
    checkpoint, published
        Networks to embed with.
    """
    labels = {name: labels_of(adata) for name, adata in sections.items()}
    rows = []
    for features, found in _features(sections, checkpoint, published).items():
        for group in dict.fromkeys(groups.values()):
            inside = [name for name in sections if groups[name] == group]
            outside = [name for name in sections if groups[name] != group]
            x, y = _stack(found, labels, outside)
            queries, truth = _stack(found, labels, inside)
            if not len(truth) or len(set(y)) < 2:
                continue
            donors = np.repeat([groups[name] for name in outside], [labels[name].notna().sum() for name in outside])
            for learner, predict in LEARNERS.items():
                scores = sagefm.metrics.annotation(truth, list(predict(x, np.array(y), donors, queries))).to_dict()
                rows.append({"left_out": group, "features": features, "learner": learner, **scores})
    return pd.DataFrame(rows)


def _stack(found: dict, labels: dict, names: list[str]) -> tuple[np.ndarray, list[str]]:
    kept = {name: labels[name].notna().to_numpy() for name in names}
    values = [np.asarray(found[name])[kept[name]] for name in names]
    return np.concatenate(values) if values else np.empty((0, 0)), [
        str(label) for name in names for label in labels[name][kept[name]]
    ]
