"""``sagefm.tl.domains``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import sagefm
from sagefm._arguments import as_seed, key_name, whole_number
from sagefm._constants import DOMAIN_BASIS, DOMAIN_KEY, SPATIAL_KEY
from sagefm._progress import ProgressBar
from sagefm.data._blocks import take_columns
from sagefm.data._check_sections import find_background
from sagefm.data._counts import get_counts
from sagefm.data._findings import tell
from sagefm.data._genes import get_gene_names, is_gene
from sagefm.data._graph import check_places, get_neighbors, with_library_key
from sagefm.data._reader import check_counts
from sagefm.data._table import TableKeys, copy_data, find_spots, get_embedding, get_table, untouched_on_error
from sagefm.errors import ArgumentError, CoordinatesError
from sagefm.inference._domains import N_COMPONENTS, count_components, embedding_components, find_domains
from sagefm.inference._filter import nearest_graph, symmetric
from sagefm.tl._common import check_key_added

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

    from sagefm.data._table import Spots
    from sagefm.inference._domains import Components, Domains

#: A spot and its nearest six.
_MIN_SPOTS = 7
#: Genes that describe an end of a component.
_N_GENES = 5


def domains(
    adata: Any,
    n_domains: int | None = None,
    *,
    library_key: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    neighbors_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    use_rep: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = DOMAIN_KEY,
    progress: bool = True,
    copy: bool = False,
) -> Any:
    """Find the domains of a section, or of several sections together.

    No trained model is used and no parameter needs tuning: how far the tissue is smoothed follows from the counts
    themselves, for each principal component on its own. Genes of any species and of small panels will do.

    Parameters
    ----------
    adata
        AnnData, SpatialData or MuData with raw counts and spot coordinates.
    n_domains
        Number of domains. Default: chosen between 1 and 15, see the notes.
    library_key
        Column of ``obs`` that names the section of each spot. Several sections get domains in common: components are
        those of the deviations from each section's mean, so that differences between donors do not make domains.
        Default: as in :func:`sagefm.tl.embed`.
    layer
        Layer with raw counts. Default: ``X``.
    gene_key
        Column of ``var`` with the gene names that describe the components. Default: ``var_names``.
    spatial_key
        Key of the coordinates in ``obsm`` (n_spots, 2), in any unit.
    neighbors_key
        Key of a spatial graph of your own, e.g. ``"spatial"`` for squidpy's. Default: the six nearest spots of each
        spot, and those that are as near as the sixth. It is not stored.
    table_key
        Table of a SpatialData object.
    mod
        Modality of a MuData object.
    use_rep
        Key of an embedding in ``obsm`` (n_spots, n_latent) to use instead of the counts, e.g. ``"X_sagefm"``.
    rng
        Seed, or a generator, for the initializations of the mixture.
    key_added
        Column of ``obs`` for the domains; also used to name the other results.
    progress
        As in :func:`sagefm.tl.embed`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets the following fields:

    ``adata.obs[key_added]``
        Domain, categorical: ``"0"`` is the largest.
    ``adata.obs[f"{key_added}_probability"]``
        Probability of that domain, given the smoothed components; float32.
    ``adata.obsm["X_sagefm_domains"]``
        Principal components of the smoothed components, float32 (n_spots, at most 12), for Leiden, UMAP and other
        methods. With another `key_added`, ``obsm[f"X_{key_added}"]``.
    ``adata.uns[key_added]``
        ``"components"``, a table with a row for each section and component: ``range`` (in squared distances of
        neighboring spots), ``signal_share`` (the part of the variance that is spatial), ``variance``, and the genes
        with the highest and lowest loadings. ``"criterion"``, a table of the numbers of domains that were tried, if
        `n_domains` is None. ``"params"``, the parameters.

    Raises
    ------
    sagefm.errors.SagefmError
        Counts, coordinates, graph or keys that :func:`sagefm.tl.embed` refuses; a section has fewer than 7 spots; all
        spots are alike; an argument is outside its range.

    Notes
    -----
    1. ``u = log(1 + 5 median(total) x / total)``, less each section's mean. The 2,000 genes of largest covariance
       between neighboring spots, each over the standard deviation of what neighbors do not share, give 30 principal
       components. With `use_rep`, they are those of the embedding.
    2. Each component k is a smooth signal and white noise, ``Cov = v_k [share_k s_k(L) + (1 - share_k) I]`` with
       ``s_k(w) = (1 + range_k w)^-2``, scaled to mean 1, and L the Laplacian of the graph over its mean number of
       neighbors. Range and share have the largest marginal likelihood on that section.
    3. The posterior mean of the signal (a Wiener filter on the graph), and 12 principal components of it.
    4. A Gaussian mixture with one covariance for all domains, the best of 10 initializations.

    If `n_domains` is None, mixtures of up to 15 domains are compared by the Bayesian information criterion of the
    components *before* smoothing, normal around the mean of their domain: their noise is white, which that of smoothed
    components is not. The least number is taken that has 95 % of the largest gain over a single domain. It finds the
    number of domains of simulated sections. On tissue, where expression changes within a domain, it is more than a
    pathologist tells apart.

    The result does not depend on the order of spots and genes, nor on rotations and reflections of the tissue, up to
    rounding. Genes, loadings, mixture and number of domains of more than 20,000 spots are those of as many, drawn at
    random; all are smoothed.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.domains(adata, 4)
    >>> adata.obs["sagefm_domain"].cat.categories.to_list()
    ['0', '1', '2', '3']
    >>> adata.obsm["X_sagefm_domains"].shape
    (302, 12)
    """
    seed = as_seed(rng)
    if n_domains is not None:
        n_domains = whole_number(n_domains, name="n_domains", minimum=2)
    if use_rep is not None:
        key_name(use_rep, name="use_rep")
    keys = TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key)
    check_key_added(key_added, (spatial_key, library_key, use_rep), prefixes=("", "X_"))
    data = copy_data(adata) if copy else adata
    table = get_table(data, table_key=table_key, mod=mod)
    keys = with_library_key(table, keys)
    spots = find_spots(data, table, keys)
    _check_sections(spots, n_domains)
    if neighbors_key is None:
        # Domains may be of bins.
        odd = check_places(table, keys, spots, n_spots=_MIN_SPOTS)
        tell([finding for finding in odd if finding.what != "bins"], stacklevel=2)
    with untouched_on_error(table):
        if neighbors_key is None:
            graph = nearest_graph(spots.coordinates, spots.libraries)
        else:
            graph = symmetric(get_neighbors(table, keys, spots))
        with ProgressBar("domains: principal components", progress=progress):
            components, names = _components(table, keys, spots, graph, use_rep, seed)
        result = find_domains(components.scores, graph, spots.libraries, n_domains, seed, progress=progress)

    basis = DOMAIN_BASIS if key_added == DOMAIN_KEY else f"X_{key_added}"
    categories = [str(code) for code in range(result.domains.max() + 1)]
    table.obs[key_added] = pd.Categorical.from_codes(result.domains, categories)
    table.obs[f"{key_added}_probability"] = result.probability.astype(np.float32)
    table.obsm[basis] = result.smoothed.astype(np.float32)
    table.uns[key_added] = {
        "components": _describe(spots.names, result, components, names),
        "criterion": pd.DataFrame({"n_domains": list(result.criterion), "criterion": list(result.criterion.values())}),
        "params": {
            **{name: value for name, value in vars(keys).items() if value is not None},
            **({} if use_rep is None else {"use_rep": use_rep}),
            "n_domains": len(categories),
            "is_chosen": n_domains is None,
            "basis": basis,
            "rng": seed,
            "sagefm_version": sagefm.__version__,
        },
    }
    return data if copy else None


def _check_sections(spots: Spots, n_domains: int | None) -> None:
    """Raise unless every section has enough spots."""
    sizes = np.bincount(spots.libraries, minlength=len(spots.names))
    small = [f"{spots.names[i] or 'the section'} ({sizes[i]})" for i in np.flatnonzero(sizes < _MIN_SPOTS)]
    if small:
        raise CoordinatesError(
            f"A section needs at least {_MIN_SPOTS} spots, one and its six neighbors; fewer were found in "
            f"{', '.join(small[:5])}. Leave these sections out."
        )
    if n_domains is not None and n_domains > sizes.sum():
        raise ArgumentError(f"n_domains={n_domains}; expected at most the {sizes.sum()} spots.")


def _components(
    table: AnnData, keys: TableKeys, spots: Spots, graph: sparse.csr_matrix, use_rep: str | None, seed: int
) -> tuple[Components, pd.Index]:
    """Return components of the counts or of an embedding, and the names of all genes or columns."""
    if use_rep is not None:
        values = get_embedding(table, use_rep)
        components = embedding_components(values, spots.libraries, N_COMPONENTS)
        names = pd.Index([f"{use_rep} {i}" for i in range(values.shape[1])])
    else:
        genes = np.flatnonzero(is_gene(table))
        names = get_gene_names(table, keys.gene_key)[genes]
        counts, odd = check_counts(table, keys, spots, get_counts(table, keys.layer), None)
        tell([*find_background(table), *odd], stacklevel=3)
        if len(genes) < table.n_vars:
            counts = take_columns(counts, genes)
        components = count_components(counts, graph, spots.libraries, N_COMPONENTS, seed)
    if not components.scores.any():
        raise ArgumentError("All spots of each section are alike: there are no domains to find.")
    return components, names


def _describe(sections: list[str], result: Domains, components: Components, names: pd.Index) -> pd.DataFrame:
    """Return a row for each section and component: its covariance, and the genes at its two ends."""
    order = components.columns[np.argsort(components.loadings, axis=1, kind="stable")]
    listed = lambda positions: [", ".join(map(str, names[row])) for row in positions]
    tables = [
        pd.DataFrame(
            {
                "section": section,
                "component": np.arange(len(order)),
                "range": fit.ranges,
                "signal_share": fit.shares,
                "variance": fit.variances,
                "high": listed(order[:, : -_N_GENES - 1 : -1]),
                "low": listed(order[:, :_N_GENES]),
            }
        )
        for section, fit in zip(sections, result.fits, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)
