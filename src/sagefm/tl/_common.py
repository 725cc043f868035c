"""What the verbs share: reading the table and the model, and recording provenance."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sagefm._constants import UNS_KEY
from sagefm.checkpoint._resolve import resolve_device, resolve_model
from sagefm.data._reader import TableReader, read_table
from sagefm.data._table import TableKeys, copy_data, entry, get_table
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from anndata import AnnData

    from sagefm.data._genes import Vocabulary


@dataclass(frozen=True)
class Run:
    """One call of a verb: the object that is returned, its checked table, model and device."""

    data: Any
    reader: TableReader
    #: None where a verb that can do without was told to.
    checkpoint: Any
    vocabulary: Vocabulary
    device: torch.device

    @property
    def table(self) -> AnnData:
        """The table that results are written to."""
        return self.reader.table


def begin(
    adata: Any,
    model: Any,
    keys: TableKeys,
    *,
    key_added: str,
    table_key: str | None,
    mod: str | None,
    device: str,
    copy: bool,
    reserved: tuple[str, ...] = (),
    needs_model: bool = True,
) -> Run:
    """Check model, device and table; nothing has been written to the user's object when this returns or raises.

    `key_added` must not be one of the inputs, nor one of the `reserved` keys, which hold other results. Without a model,
    where none is needed, the vocabulary is that of the table.
    """
    check_key_added(key_added, (keys.layer, keys.spatial_key, *reserved))
    checkpoint = resolve_model(model) if needs_model or model is not None else None
    if checkpoint is not None and not checkpoint.training.get("is_trained", True):
        warnings.warn("The model has not been trained: results are random. Call model.train().", stacklevel=3)
    resolved = resolve_device(device)
    data = copy_data(adata) if copy else adata
    if checkpoint is None:
        # What it imports takes half a second: not where there is a model.
        from sagefm.inference._network import own_vocabulary

        vocabulary = own_vocabulary(get_table(data, table_key=table_key, mod=mod), keys.gene_key)
    else:
        vocabulary = checkpoint.vocabulary
    reader = read_table(data, vocabulary, keys, table_key=table_key, mod=mod)
    return Run(data, reader, checkpoint, vocabulary, resolved)


def check_key_added(key_added: Any, taken: Iterable[str | None], *, prefixes: tuple[str, ...] = ("",)) -> None:
    """Raise unless `key_added` is a name which, after each of the `prefixes`, is none of the `taken` ones."""
    names = [name for name in taken if name is not None]
    is_name = isinstance(key_added, str) and bool(key_added)
    if not is_name or any(f"{prefix}{key_added}" in names for prefix in prefixes):
        raise ArgumentError(f"key_added={key_added!r}; expected a name other than {names}.")


def provenance(run: Run, extra: dict[str, Any]) -> dict[str, Any]:
    """Return parameters and provenance of a result, in types that h5ad and zarr store."""
    match = run.reader.match
    return {
        **({} if run.checkpoint is None else run.checkpoint.provenance()),
        **{name: value for name, value in asdict(run.reader.keys).items() if value is not None},
        **extra,
        "coverage": float(match.coverage),
        "n_genes_matched": len(match.genes),
        "n_genes_vocabulary": len(run.vocabulary),
    }


def record(table: AnnData, key: str, params: dict[str, Any]) -> None:
    """Write parameters and provenance of a result to ``uns["sagefm"][key]``."""
    # A new dictionary: that of a shallow copy of the user's object is left as it is.
    table.uns[UNS_KEY] = {**entry(table, UNS_KEY), key: params}
