"""Tables and models are let go of: scvi-tools keeps what it knows of each, and with it the table, for ever."""

from __future__ import annotations

import weakref
from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.data import AnnDataManager
    from scvi.model.base import BaseModelClass


class TableManagers(dict[str, Any]):
    """Managers of the tables that were set up, by the id of the table, until the table is gone."""

    def __setitem__(self, key: str, manager: AnnDataManager) -> None:
        super().__setitem__(key, (_with_table(manager, None), weakref.ref(manager.adata, self._forget(key))))

    def __getitem__(self, key: str) -> AnnDataManager:
        manager, table = super().__getitem__(key)
        return _with_table(manager, table())

    def _forget(self, key: str) -> Any:
        def forget(gone: weakref.ref[AnnData]) -> None:
            # A copy of the table has the same id: once it is set up, the entry is its own.
            if self.get(key, (None, None))[1] is gone:
                del self[key]

        return forget


def forget_with(model: BaseModelClass) -> None:
    """Forget the managers of a model when it is gone."""
    weakref.finalize(model, model._per_instance_manager_store.pop, model.id, None)


def _with_table(manager: AnnDataManager, table: AnnData | None) -> AnnDataManager:
    manager = copy(manager)
    manager.adata = table
    return manager
