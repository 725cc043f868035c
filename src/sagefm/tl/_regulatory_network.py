"""``sagefm.tl.regulatory_network``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from sagefm._arguments import key_name, one_of, whole_number
from sagefm._constants import NEIGHBORS_KEY, NETWORK_KEY, SPATIAL_KEY, UNS_KEY
from sagefm.checkpoint._resolve import resolve_device, resolve_model
from sagefm.data._corpus import Corpus
from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys, copy_data, get_table
from sagefm.errors import ArgumentError
from sagefm.inference._network import couple_corpus, couple_table, own_vocabulary
from sagefm.tl._common import check_key_added

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from sagefm.inference._couplings_table import Network
    from sagefm.model import SAGEFM, Checkpoint


def regulatory_network(
    adata: Any,
    sources: Sequence[str] | Literal["ligands", "receptors"] | None = None,
    targets: Sequence[str] | Literal["ligands", "receptors"] | None = None,
    *,
    model: str | os.PathLike[str] | SAGEFM | Checkpoint | None = None,
    n_components: int = 20,
    neighborhood: bool = True,
    null: Literal["rotation"] | None = None,
    fields: bool = False,
    donor_key: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    library_key: str | None = None,
    neighbors_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = NETWORK_KEY,
    device: str = "auto",
    progress: bool = True,
    copy: bool = False,
) -> Any:
    r"""Find couplings: genes whose expression at a spot goes with that of other genes in the spots around it.

    A coupling is a conditional association between neighbors: what is left of it once depth, cell types and domains
    (components of the other genes) and everything that source and target share at one spot are taken off. It is not
    a proof that one gene acts on another, and with neighborhoods that are mutual it has no direction.

    Parameters
    ----------
    adata, layer, gene_key, spatial_key, library_key, neighbors_key, table_key, mod, device, progress, copy
        As in :func:`sagefm.tl.embed`; or a :class:`sagefm.datasets.Corpus`, whose sections are read one at a time with its
        own keys, for named `sources` and `targets`.
    sources, targets
        Genes around the spot, and genes at the spot; complexes as subunits joined by ``_``, which count as their least
        abundant subunit. ``"ligands"`` and ``"receptors"`` are those of LIANA's consensus resource (needs
        ``pip install liana``, which is GPL-3) whose genes were seen in at least 5 % of the spots. Default: all genes
        seen in as many.
    model
        Take expected counts from :func:`sagefm.tl.impute` with this model (as in :func:`sagefm.tl.embed`). Default: from
        the section alone, the gene's share of the counts times the spot's depth; a model has not been shown to do better.
    n_components
        Adjust for at most this many principal components; those that do not stand out from noise are left out.
    neighborhood
        False reads the source at the spot itself instead of around it: co-expression, for comparison.
    null
        ``"rotation"``: also turn and mirror the tissue of the sources, which leaves their pattern and breaks every
        coupling, and compare p-values with those expected.
    fields
        Also write the residuals that are compared, for :func:`sagefm.pl.coupling`. Sources and targets must be named, at
        most 200 of each.
    donor_key
        Column of ``obs``, or of a corpus' metadata, that names the donor of each library. Default: each library counts as a donor.
    key_added
        Key of the result in ``uns``.

    Returns
    -------
    None, or the copy; of a corpus, what would be in ``uns[key_added]``. Sets the following fields:

    ``adata.uns[key_added]["edges"]``
        DataFrame with a row for each pair, by ``pval``: all of them if both sides are named and there are at most a million,
        otherwise those with ``qval`` below 0.05. ``source``, ``target``; ``effect``, change of the target's log rate per standard deviation of the source
        around, and its standard error ``se``; ``r``, correlation of the target's residual with the source's around, and
        ``shared``, the part of it that what they share explains;
        ``z``, the coupling in standard deviations; ``pval`` (two-sided), ``qval`` (Benjamini-Hochberg, over all pairs
        tested); ``same_spot``, correlation of the residuals at one spot; ``detectable_effect``, smallest effect that
        would be found with a power of 0.8 at p < 0.05; ``n_spots``. With several libraries also ``library``: the
        combined couplings come first, under ``"combined"``.
    ``adata.uns[key_added]["null"]``
        With ``null="rotation"``: DataFrame with the share of pairs with p below a ``level``, on ``turned`` tissue (mean
        over ``n_turns``) and as ``observed``.
    ``adata.obsm[f"{key_added}_around"]``, ``adata.obsm[f"{key_added}_center"]``
        With `fields`: DataFrames of the sources' residuals around each spot (n_spots, n_sources) and of the targets' at
        the spot (n_spots, n_targets): M and E of the notes, with mean 0 and standard deviation 1 in each library.
    ``adata.uns[key_added]["params"]``
        Parameters, number of pairs tested, version.
    ``adata.obsp["sagefm_connectivities"]``, ``adata.obsp["sagefm_distances"]``, ``adata.uns["sagefm_neighbors"]``
        The graph, if this call built it.

    Raises
    ------
    sagefm.errors.SagefmError
        A gene was not measured, a key does not exist, values are not raw counts, a library has several donors, or
        `fields` were asked for without names of sources and targets.

    Notes
    -----
    With residuals E of counts at a spot (adjusted), and M their mean over its neighbors, without the spot itself:

    .. math::

        c_{st} &= \tfrac1n \sum_i M_{is} E_{it}, \qquad c^0_{st} = \tfrac1n \sum_i E_{is} E_{it} \\
        z_{st} &= \operatorname{sign}(c_{st}) \, \frac{\max\big(|c_{st}| - \text{shared}_{st}, 0\big)}{\operatorname{sd}(c_{st})},
        \qquad \text{shared}_{st} = \min\big(\max(\operatorname{sign}(c_{st}) c^0_{st} - \tfrac12 \operatorname{sd}(c^0_{st}), 0), \sqrt{c_{ss} c_{tt}}\big)

    Whatever two genes have in common cannot make them covary between neighbors more than at one spot, nor more than each
    covaries with itself. The variance is that of two autocorrelated fields (Clifford, Richardson and Hemon 1989).
    ``sagefm/inference/_couplings.py`` holds the equations. Sections are combined by Stouffer's method, first those of a
    donor, then donors; effects by inverse variance.

    A source that is smooth itself, or a mere marker of one cell type, has no power left: see ``detectable_effect``.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.synovium()
    >>> sagefm.tl.regulatory_network(adata, sources=["CXCL12", "CCL19"], targets=["CXCR4", "CCR7", "CD74"])
    >>> edges = adata.uns["sagefm_network"]["edges"]
    >>> len(edges)
    6
    """
    if null is not None:
        one_of(null, ("rotation",), name="null")
    if donor_key is not None:
        key_name(donor_key, name="donor_key")
    whole_number(n_components, name="n_components", minimum=0)
    keys = TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key)
    check_key_added(key_added, (UNS_KEY, f"{NEIGHBORS_KEY}_neighbors"))
    checkpoint = None if model is None else resolve_model(model)
    settings: dict[str, Any] = {
        "donor_key": donor_key,
        "n_components": n_components,
        "neighborhood": neighborhood,
        "rotate": null is not None,
        "device": resolve_device(device),
        "progress": progress,
    }
    if isinstance(adata, Corpus):
        if sources is None or targets is None or checkpoint is not None or fields:
            raise ArgumentError("Of a corpus, pass both sources= and targets=, and neither model= nor fields=True.")
        return _result(couple_corpus(adata, sources, targets, **settings), settings)
    data = copy_data(adata) if copy else adata
    table = get_table(data, table_key=table_key, mod=mod)
    vocabulary = own_vocabulary(table, gene_key)
    reader = read_table(data, vocabulary, keys, table_key=table_key, mod=mod)
    network = couple_table(reader, vocabulary, sources, targets, checkpoint=checkpoint, keep_fields=fields, **settings)
    given = {} if checkpoint is None else checkpoint.provenance()
    given |= {name: value for name, value in asdict(reader.keys).items() if value is not None}
    table.uns[key_added] = _result(network, settings, given)
    for name, values in (("around", network.around), ("center", network.center)):
        # An earlier call may have left those of other genes.
        table.obsm.pop(f"{key_added}_{name}", None)
        if values is not None:
            table.obsm[f"{key_added}_{name}"] = values.reindex(range(table.n_obs)).set_axis(table.obs_names)
    return data if copy else None


def _result(network: Network, settings: dict[str, Any], given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what is stored of a network, in types that h5ad and zarr hold."""
    params = {
        **(given or {}),
        **{
            name: settings[name] for name in ("donor_key", "n_components", "neighborhood") if settings[name] is not None
        },
        "n_pairs": network.n_pairs,
        "effect_unit": "log rate per standard deviation around",
        "sagefm_version": version("sagefm"),
    }
    result = {"edges": network.edges, "params": params}
    return result if network.null is None else {**result, "null": network.null}
