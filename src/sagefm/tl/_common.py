"""What the verbs share: reading the table and the model, and recording provenance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sagefm.checkpoint._resolve import resolve_device, resolve_model
from sagefm.data._reader import TableReader, read_table
from sagefm.data._table import copy_data, find_coordinates, get_table, library_column
from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from sagefm.checkpoint._checkpoint import Checkpoint


@dataclass(frozen=True)
class Run:
    """One call of a verb: the object that is returned, its table, the checked reader, model and device."""

    data: Any
    table: AnnData
    reader: TableReader
    checkpoint: Checkpoint
    device: torch.device
    params: dict[str, Any]


def begin(
    adata: Any,
    model: Any,
    *,
    key_added: str,
    table_key: str | None,
    mod: str | None,
    device: str,
    copy: bool,
    **arguments: Any,
) -> Run:
    """Check model, device and table; nothing has been written to the user's object when this returns or raises."""
    inputs = [arguments["layer"], arguments["spatial_key"]]
    if not isinstance(key_added, str) or not key_added or key_added in inputs:
        raise ArgumentError(f"key_added={key_added!r}; expected a name that is not that of an input, {inputs}.")
    checkpoint = resolve_model(model)
    if not checkpoint.training.get("is_trained", True):
        warnings.warn("The model has not been trained: results are random. Call model.train().", stacklevel=3)
    resolved = resolve_device(device)
    data = copy_data(adata) if copy else adata
    table = get_table(data, table_key=table_key, mod=mod)
    coordinates = find_coordinates(data, table, arguments["spatial_key"])
    arguments["library_key"] = library_column(table, arguments["library_key"])
    reader = read_table(table, checkpoint.vocabulary, coordinates=coordinates, **arguments)
    params = {name: value for name, value in arguments.items() if value is not None}
    return Run(data, table, reader, checkpoint, resolved, params)


def provenance(run: Run, extra: dict[str, Any]) -> dict[str, Any]:
    """Return parameters and provenance of a result, in types that h5ad and zarr store."""
    match = run.reader.match
    return {
        **run.checkpoint.provenance(),
        **run.params,
        **extra,
        "coverage": float(match.coverage),
        "n_genes_matched": len(match.genes),
        "n_genes_vocabulary": len(run.checkpoint.vocabulary),
    }


def record(run: Run, uns_key: str, key: str, extra: dict[str, Any]) -> None:
    """Write parameters and provenance to ``uns[uns_key][key]``."""
    # A new dictionary: that of a shallow copy of the user's object is left as it is.
    run.table.uns[uns_key] = {**run.table.uns.get(uns_key, {}), key: provenance(run, extra)}
