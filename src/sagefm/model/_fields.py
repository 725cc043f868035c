"""A table's counts, coordinates, libraries and spatial graph as scvi-tools fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import BaseAnnDataField, CategoricalObsField, LayerField, ObsmField

from sagefm._constants import NEIGHBORS_KEY
from sagefm.data._counts import get_counts
from sagefm.data._genes import get_gene_names
from sagefm.data._graph import get_neighbors, with_library_key

if TYPE_CHECKING:
    from anndata import AnnData

    from sagefm.data._table import TableKeys


def table_fields(table: AnnData, keys: TableKeys) -> list[BaseAnnDataField]:
    """Check a table and return its fields; on an error, the table is as it was."""
    keys = with_library_key(table, keys)
    get_gene_names(table, keys.gene_key)
    get_counts(table, keys.layer)
    # Built before scvi-tools writes anything.
    neighbors = NeighborsField(keys)
    neighbors.validate_field(table)
    return [
        LayerField("X", keys.layer, is_count_data=False, correct_data_format=False),
        CoordinatesField("spatial", keys.spatial_key, correct_data_format=False),
        CategoricalObsField("library", keys.library_key),
        neighbors,
    ]


class CoordinatesField(ObsmField):
    """Coordinates of each spot in ``obsm``, whose columns have no names: scvi-tools says so at each set-up."""

    def _setup_column_names(self, adata: AnnData) -> Any:
        return np.arange(self.get_field_data(adata).shape[1])


class NeighborsField(BaseAnnDataField):
    """Neighbors of each spot in ``obsp``; built where there is no graph yet."""

    registry_key = "neighbors"
    attr_name = "obsp"
    attr_key = ""
    is_empty = False

    def __init__(self, keys: TableKeys) -> None:
        self.attr_key = f"{keys.neighbors_key or NEIGHBORS_KEY}_connectivities"
        self._keys = keys

    def validate_field(self, adata: AnnData) -> None:
        """Raise if the graph cannot be used."""
        get_neighbors(adata, self._keys)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Return the number of edges."""
        return {"n_edges": int(get_neighbors(adata, self._keys).nnz)}

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Register another table, which has its own graph."""
        return self.register_field(adata_target)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Return the number of edges."""
        return {"n_edges": state_registry["n_edges"]}

    def view_state_registry(self, state_registry: dict[str, Any]) -> None:
        """Show nothing: the summary has the number of edges."""
