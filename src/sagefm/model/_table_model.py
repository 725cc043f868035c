"""A network on tables: their set-up in the manner of scvi-tools, and what is computed on them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401  scvi-tools 1.4 uses it in view_anndata_setup without importing it
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from sagefm._arguments import as_seed
from sagefm._constants import SPATIAL_KEY
from sagefm.checkpoint._resolve import resolve_device
from sagefm.data._graph import with_library_key
from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys, coordinates_in_table, get_libraries, get_table
from sagefm.errors import ArgumentError
from sagefm.inference._embed import embed_table
from sagefm.inference._impute_table import impute_frame
from sagefm.inference._intervention import Intervention
from sagefm.inference._pairs import check_pairs
from sagefm.inference._perturb_table import perturb_table
from sagefm.model._fields import table_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from sagefm.checkpoint._checkpoint import Checkpoint
    from sagefm.data._reader import TableReader


class TableModel(BaseModelClass):
    """A network with its vocabulary, used on the table that it is set up with, or on another with the same keys."""

    #: What was loaded or trained; its network is `module`.
    _checkpoint: Checkpoint
    #: Names of the table of SpatialData, and of the modality of MuData.
    _within: dict[str, str | None]

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        spatial_key: str = SPATIAL_KEY,
        library_key: str | None = None,
        gene_key: str | None = None,
        neighbors_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register counts, coordinates, libraries and the spatial graph, which is built if there is none.

        Parameters
        ----------
        adata
            Table of raw counts.
        layer, spatial_key, library_key, gene_key, neighbors_key
            As in :func:`sagefm.tl.embed`.
        **kwargs
            Passed by scvi-tools when a setup is transferred to another table.

        Raises
        ------
        sagefm.errors.SagefmError
            The table cannot be used; the message says why, and the table is left unchanged.
        """
        if not isinstance(adata, AnnData):
            raise ArgumentError(f"Found {type(adata).__name__}: call setup_spatialdata or setup_mudata.")
        if not isinstance(adata.obs, pd.DataFrame):
            raise ArgumentError("adata.obs is read lazily, which scvi-tools cannot: adata.obs = adata.obs.to_memory()")
        # What scvi-tools passes comes with the registry of another table.
        if kwargs and "source_registry" not in kwargs:
            check_setup(kwargs)
        setup_method_args = cls._get_setup_method_args(**locals())
        keys = TableKeys(layer, gene_key, spatial_key, library_key, neighbors_key)
        manager = AnnDataManager(fields=table_fields(get_table(adata), keys), setup_method_args=setup_method_args)
        if adata.is_view:  # where a graph was built it is none any more
            raise ArgumentError("adata is a view of another table, which scvi-tools cannot use: adata = adata.copy()")
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_spatialdata(cls, sdata: Any, *, table_key: str | None = None, **kwargs: Any) -> None:
        """Set up the table of a SpatialData object.

        Parameters
        ----------
        sdata
            The object. If its table has no coordinates, the centroids of the shapes that it annotates are used.
        table_key
            Name of the table, needed if there are several.
        **kwargs
            As in :meth:`setup_anndata`.

        Raises
        ------
        sagefm.errors.SagefmError
            There is no such table, or it cannot be used; the message says why.
        """
        table = get_table(sdata, table_key=table_key)
        with coordinates_in_table(sdata, table, kwargs.get("spatial_key", SPATIAL_KEY)):
            cls.setup_anndata(table, **kwargs)

    @classmethod
    def setup_mudata(cls, mdata: Any, *, mod: str | None = None, **kwargs: Any) -> None:
        """Set up a modality of a MuData object.

        Parameters
        ----------
        mdata, mod
            The object, and the name of the modality, needed if there are several.
        **kwargs
            As in :meth:`setup_anndata`.

        Raises
        ------
        sagefm.errors.SagefmError
            There is no such modality, or it cannot be used; the message says why.
        """
        cls.setup_anndata(get_table(mdata, mod=mod), **kwargs)

    @property
    def device(self) -> Any:
        """Device that holds the parameters."""
        return next(self.module.parameters()).device

    def to_checkpoint(self) -> Checkpoint:
        """Return the network and its vocabulary as a checkpoint.

        Returns
        -------
        The :class:`~sagefm.model.Checkpoint`, with the current parameters of the model. Training the model further does
        not change it.
        """
        return replace(self._checkpoint, network=self.module.eval(), setup=asdict(self._keys()))

    def get_latent_representation(
        self, adata: Any = None, *, batch_size: int | None = None, device: str = "auto"
    ) -> NDArray[np.float32]:
        """Return the embedding of every spot; see :func:`sagefm.tl.embed`.

        Parameters
        ----------
        adata
            Another table, read with the same keys as the one the model was set up with; its genes may differ. Default:
            the latter.
        batch_size, device
            As in :func:`sagefm.tl.embed`.

        Returns
        -------
        Embedding, float32 (n_spots, n_latent).

        Raises
        ------
        sagefm.errors.SagefmError
            The table cannot be used; the message says why.
        """
        self._check_if_trained()
        reader, checkpoint = self._reader(adata), self.to_checkpoint()
        return embed_table(reader, checkpoint, device=resolve_device(device), batch_size=batch_size)

    def impute(
        self,
        adata: Any = None,
        *,
        genes: Sequence[str] | None = None,
        mask: Literal["center", "neighborhood"] = "center",
        n_folds: int = 4,
        rng: int | np.random.Generator = 0,
        device: str = "auto",
    ) -> pd.DataFrame:
        """Return imputed values; see :func:`sagefm.tl.impute`.

        Parameters
        ----------
        adata
            Another table, read with the same keys as the one the model was set up with. Default: the latter.
        genes, mask, n_folds, rng, device
            As in :func:`sagefm.tl.impute`.

        Returns
        -------
        DataFrame (n_spots, n_genes) of `genes`, in that order, or of all measured genes, in the order of the table.

        Raises
        ------
        sagefm.errors.SagefmError
            The table or the genes cannot be used; the message says why.
        """
        self._check_if_trained()
        reader, checkpoint, resolved = self._reader(adata), self.to_checkpoint(), resolve_device(device)
        seed = as_seed(rng)
        return impute_frame(reader, checkpoint, genes=genes, mask=mask, n_folds=n_folds, rng=seed, device=resolved)

    def perturb(
        self,
        adata: Any = None,
        *,
        pairs: pd.DataFrame | None = None,
        sources: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        where: Literal["neighborhood", "center", "both"] = "neighborhood",
        levels: int | Sequence[float] | Literal["knockout"] = 5,
        scale: Literal["range", "quantile", "fold"] = "range",
        device: str = "auto",
    ) -> pd.DataFrame:
        """Return the scores of perturbed pairs; see :func:`sagefm.tl.perturb`.

        Parameters
        ----------
        adata
            Another table, read with the same keys as the one the model was set up with. Default: the latter.
        pairs, sources, targets, where, levels, scale, device
            As in :func:`sagefm.tl.perturb`; `pairs` must be a DataFrame.

        Returns
        -------
        DataFrame with one row per pair, the same as ``uns[key_added]["scores"]`` of :func:`sagefm.tl.perturb`.

        Raises
        ------
        sagefm.errors.SagefmError
            The table or the pairs cannot be used; the message says why.
        """
        self._check_if_trained()
        intervention, resolved = Intervention.of(where, levels, scale), resolve_device(device)
        reader, checkpoint = self._reader(adata), self.to_checkpoint()
        checked = check_pairs(reader, checkpoint, pairs, sources, targets)
        return perturb_table(reader, checkpoint, checked, intervention=intervention, device=resolved).scores

    def _take(self, checkpoint: Checkpoint) -> None:
        """Hold a checkpoint, its parts where scvi-tools looks for them."""
        self._checkpoint, self.module = checkpoint, checkpoint.network
        self.is_trained_ = bool(checkpoint.training.get("is_trained", True))
        self.history_ = {
            name: pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name="epoch"))
            for name, values in checkpoint.history.items()
        }
        self.train_indices_, self.validation_indices_ = self._find_split(checkpoint.training)
        config = checkpoint.config.to_dict()
        self._model_summary_string = "SAGEFM: " + ", ".join(f"{name} {value}" for name, value in config.items())
        self.init_params_ = {"kwargs": {}, "non_kwargs": config}

    def _find_split(self, training: dict[str, Any]) -> tuple[Any, Any]:
        """Return the spots that were trained and validated on, if they are those of the table."""
        if self.adata is None or training.get("spots_sha256") != spots_sha256(self.adata):
            return None, None
        if "validation_spots" in training:
            is_held = np.isin(np.arange(self.adata.n_obs), training["validation_spots"])
        else:
            codes, names = get_libraries(self.adata, with_library_key(self.adata, self._keys()).library_key)
            if not set(training["validation_sections"]) <= set(names):
                return None, None  # set up with other libraries
            is_held = np.isin(names, training["validation_sections"])[codes]
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def _keys(self) -> TableKeys:
        arguments = self.registry_["setup_args"]
        return TableKeys(**{key.name: arguments[key.name] for key in fields(TableKeys) if key.name in arguments})

    def _reader(self, adata: Any) -> TableReader:
        adata = self.adata if adata is None else adata
        if adata is None:
            raise ArgumentError("The model was loaded without a table: pass adata=...")
        return read_table(adata, self._checkpoint.vocabulary, self._keys(), **self._within)


def check_setup(names: Iterable[str]) -> None:
    """Raise an ArgumentError unless `setup_anndata` has arguments of all these names."""
    expected = [key.name for key in fields(TableKeys)]
    unknown = [name for name in names if name not in expected]
    if unknown:
        raise ArgumentError(f"setup_anndata has no argument {', '.join(unknown)}; expected some of {expected}.")


def spots_sha256(table: AnnData) -> str:
    """Return the hash of the names of the spots."""
    return hashlib.sha256("\n".join(map(str, table.obs_names)).encode()).hexdigest()
