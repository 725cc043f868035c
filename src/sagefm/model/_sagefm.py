"""The model class, in the manner of scvi-tools."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401  scvi-tools 1.4 uses it in view_anndata_setup without importing it
from anndata import AnnData
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField, ObsmField
from scvi.model.base import BaseModelClass

import sagefm
from sagefm._constants import SPATIAL_KEY, WEIGHTS_FILE
from sagefm.data._corpus import TableSections
from sagefm.data._counts import get_counts
from sagefm.data._files import file_sha256
from sagefm.data._genes import get_gene_names, make_vocabulary
from sagefm.data._table import coordinates_in_table, get_coordinates, get_libraries, get_table
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.model._checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sagefm.model._embedding import embed_table
from sagefm.model._fields import NeighborsField
from sagefm.model._impute_table import impute_table
from sagefm.model._inputs import TableReader, read_table, resolve_device
from sagefm.model._perturb_table import check_pairs, perturb_table
from sagefm.model._pretrained import resolve_model
from sagefm.model._train import as_frame, fit
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray


class SAGEFM(BaseModelClass):
    """Graph model of spatial transcriptomics, trained to predict hidden genes of a spot.

    Parameters
    ----------
    adata
        Table set up with :meth:`setup_anndata`; or the SpatialData or MuData object that holds it.
    architecture
        ``"default"``: the spot and its neighborhood apart, deviations from the section's profile, Poisson counts.
        ``"published"``: the five graph convolutions of SAGE-FM (arXiv 2601.15504), log1p counts, mean squared error.
    hidden
        Widths of the layers, the last that of the embedding. (256, 64) or the published widths if left out.
    likelihood
        ``"poisson"`` or ``"negative_binomial"`` (default architecture).
    dropout, scale
        Share of hidden units dropped in training, and counts that spots are brought to before log1p (default
        architecture).
    vocabulary
        Genes of the model, in order; ``"published"`` for the 14,558 of the published network; those of `adata` if
        left out.
    seed
        Seed of the parameters' initial values.
    table_key, mod
        Table of a SpatialData object, modality of a MuData object.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.dlpfc()
    >>> sagefm.model.SAGEFM.setup_anndata(adata)
    >>> model = sagefm.model.SAGEFM(adata)
    >>> model.train(max_epochs=20)
    >>> adata.obsm["X_sagefm"] = model.get_latent_representation()

    Notes
    -----
    Saved as safetensors and JSON, never as pickle. The equations are those of :mod:`sagefm.module`.
    """

    def __init__(
        self,
        adata: Any,
        *,
        architecture: Literal["default", "published"] = "default",
        hidden: Sequence[int] | None = None,
        likelihood: Literal["poisson", "negative_binomial"] = "poisson",
        dropout: float = 0.5,
        scale: float = 1e4,
        vocabulary: Sequence[str] | Literal["published"] | None = None,
        seed: int = 0,
        table_key: str | None = None,
        mod: str | None = None,
    ) -> None:
        table = get_table(adata, table_key=table_key, mod=mod)
        if "_scvi_uuid" not in table.uns:
            raise MissingKeyError("The table has not been set up: call SAGEFM.setup_anndata(adata) first.")
        super().__init__(table)
        names = get_gene_names(table, self._setup_arguments()["gene_key"])
        self._vocabulary = make_vocabulary(names, vocabulary)
        config = NetworkConfig.of(
            architecture,
            n_genes=len(self._vocabulary),
            hidden=hidden,
            likelihood=likelihood,
            scale=scale,
            dropout=dropout,
        )
        self.module = make_network(config, seed).eval()
        self._name, self._sha256 = "SAGEFM", ""
        self._training: dict[str, Any] = {}
        self._describe()

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
            Passed on by scvi-tools when a setup is transferred.

        Raises
        ------
        SagefmError
            `adata` is then as it was.
        """
        if not isinstance(adata, AnnData):
            raise ArgumentError(f"Found {type(adata).__name__}: call setup_spatialdata or setup_mudata.")
        if not isinstance(adata.obs, pd.DataFrame):
            raise ArgumentError("adata.obs is read lazily, which scvi-tools cannot: adata.obs = adata.obs.to_memory()")
        setup_method_args = cls._get_setup_method_args(**locals())
        get_table(adata)
        get_gene_names(adata, gene_key)
        get_coordinates(adata, spatial_key)
        get_libraries(adata, library_key)
        get_counts(adata, layer)
        # Built before scvi-tools writes anything, so that an error leaves the table as it was.
        neighbors = NeighborsField(neighbors_key, spatial_key, library_key)
        neighbors.validate_field(adata)
        fields = [
            LayerField("X", layer, is_count_data=False, correct_data_format=False),
            ObsmField("spatial", spatial_key, correct_data_format=False),
            CategoricalObsField("library", library_key),
            neighbors,
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_spatialdata(cls, sdata: Any, *, table_key: str | None = None, **kwargs: Any) -> None:
        """Set up the table of a SpatialData object; further arguments as in :meth:`setup_anndata`."""
        table = get_table(sdata, table_key=table_key)
        with coordinates_in_table(sdata, table, kwargs.get("spatial_key", SPATIAL_KEY)):
            cls.setup_anndata(table, **kwargs)

    @classmethod
    def setup_mudata(cls, mdata: Any, *, mod: str | None = None, **kwargs: Any) -> None:
        """Set up a modality of a MuData object; further arguments as in :meth:`setup_anndata`."""
        cls.setup_anndata(get_table(mdata, mod=mod), **kwargs)

    def train(
        self,
        max_epochs: int = 100,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int = 256,
        validation_size: float = 0.1,
        mask_fraction: float | tuple[float, float] | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        early_stopping: bool = True,
        patience: int = 10,
        n_shards: int | None = None,
        state_file: str | os.PathLike[str] | None = None,
        seed: int = 0,
        progress: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on the table's sections.

        Of several sections, whole ones are held out for validation, never spots: neighbors share counts. Of a single
        one, square tiles are. The parameters of the best epoch are kept.

        Parameters
        ----------
        max_epochs
            Passes through the training spots.
        accelerator, devices
            As in Lightning; one device unless ``strategy="ddp"`` is passed, and then each trains on sections of its own.
        batch_size
            Spots of a step.
        validation_size
            Share of the spots to hold out; 0 for none.
        mask_fraction
            Share of each spot's genes that is hidden, or its range.
        lr, weight_decay
            Learning rate and weight decay; those of the architecture if left out (published: 5e-5 and 1e-4).
        early_stopping, patience
            Stop after `patience` epochs without a better validation loss.
        n_shards
            Parts that the sections are cut into, one for each process if left out. A step takes `batch_size` spots of
            each: the same number gives the same steps on one process and on several.
        state_file
            File that the state of training is written to after every epoch. If it is there, training goes on from it,
            to the same parameters as without the stop.
        seed
            Seed of split, order and masks: the same seed gives the same parameters on the same machine.
        progress
            Show a progress bar, on a terminal.
        **trainer_kwargs
            Of :class:`lightning.pytorch.Trainer`.
        """
        config, sections = self.module.config, self._reader(None).sections()
        history = fit(
            self.module,
            TableSections(sections, config.input, config.scale),
            self._vocabulary.symbols,
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            validation_size=validation_size,
            mask_fraction=mask_fraction,
            lr=lr,
            weight_decay=weight_decay,
            patience=patience if early_stopping else None,
            n_shards=n_shards,
            state_file=state_file,
            seed=seed,
            progress=progress and sys.stderr.isatty(),
            **trainer_kwargs,
        )
        self.history_ = {name: as_frame(name, values) for name, values in history.losses.items()}
        self.train_indices_, self.validation_indices_ = (
            np.concatenate([section.rows[rows] for section, rows in zip(sections, spots, strict=True)])
            for spots in (history.train_spots, history.validation_spots)
        )
        self._training = {**history.training, "n_spots": self.adata.n_obs}
        self._name, self._sha256 = "SAGEFM", ""
        self.is_trained_ = True
        self._describe()

    def get_latent_representation(
        self, adata: Any = None, *, batch_size: int | None = None, device: str = "auto"
    ) -> NDArray[np.float32]:
        """Return the embedding of every spot, float32 (n_spots, n_latent); see :func:`sagefm.tl.embed`.

        Parameters
        ----------
        adata
            Another table, read as the one the model was set up with; its genes may differ.
        batch_size, device
            As in :func:`sagefm.tl.embed`.
        """
        self._check_if_trained()
        on = resolve_device(device)
        return embed_table(self._reader(adata), self.to_checkpoint(), device=on, batch_size=batch_size)

    def impute(
        self,
        adata: Any = None,
        *,
        genes: Sequence[str] | None = None,
        mask: Literal["center", "neighborhood"] = "center",
        n_folds: int = 4,
        rng: int = 0,
        device: str = "auto",
    ) -> pd.DataFrame:
        """Return imputed values (n_spots, n_genes) of `genes`, or of all measured genes; see :func:`sagefm.tl.impute`."""
        self._check_if_trained()
        reader, checkpoint = self._reader(adata), self.to_checkpoint()
        report = reader.match.report
        names = list(report["gene"][report["matched"]] if genes is None else genes)
        on = resolve_device(device)
        result = impute_table(reader, checkpoint, genes=names, mask=mask, n_folds=n_folds, rng=rng, device=on)
        imputed = result.recovery["imputed"].to_numpy()
        values = sparse.csr_matrix(result.layer)[:, np.flatnonzero(imputed)].toarray()
        measured = pd.DataFrame(values, index=reader.table.obs_names, columns=report["gene"].to_numpy()[imputed])
        return pd.concat([measured, result.outside], axis=1)

    def perturb(
        self,
        adata: Any = None,
        *,
        pairs: pd.DataFrame | None = None,
        sources: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        levels: int = 5,
        n_null: int = 100,
        rng: int = 0,
        device: str = "auto",
    ) -> pd.DataFrame:
        """Return the scores of :func:`sagefm.tl.perturb`."""
        self._check_if_trained()
        reader, checkpoint = self._reader(adata), self.to_checkpoint()
        checked = check_pairs(reader, checkpoint, pairs, sources, targets, levels, n_null, rng)
        on = resolve_device(device)
        return perturb_table(reader, checkpoint, checked, levels=levels, n_null=n_null, rng=rng, device=on).scores

    def to_checkpoint(self) -> Checkpoint:
        """Return network and vocabulary as a :class:`~sagefm.model.Checkpoint`; parameters are shared, not copied."""
        history = {name: [float(v) for v in frame.iloc[:, 0]] for name, frame in (self.history_ or {}).items()}
        return Checkpoint(
            network=self.module.eval(),
            vocabulary=self._vocabulary,
            name=self._name,
            sha256=self._sha256,
            training={**self._training, "is_trained": self.is_trained_, "sagefm_version": sagefm.__version__},
            setup=self._setup_arguments(),
            history=history,
        )

    def save(self, dir_path: str | os.PathLike[str], *, overwrite: bool = False, half: bool = False) -> None:
        """Write ``model.safetensors`` and ``config.json`` to a folder.

        Parameters
        ----------
        dir_path
            Folder, which must not exist.
        overwrite
            Replace the checkpoint in an existing folder; an error otherwise.
        half
            Store parameters in half precision, for half the size.
        """
        folder = save_checkpoint(self.to_checkpoint(), dir_path, overwrite=overwrite, half=half)
        self._name, self._sha256 = str(folder), file_sha256(folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, dir_path: str | os.PathLike[str], adata: Any = None, **setup: Any) -> Self:
        """Read a model from a folder written by :meth:`save`; see :meth:`from_pretrained`."""
        return cls.from_pretrained(load_checkpoint(dir_path), adata, **setup)

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str] | Checkpoint, adata: Any = None, **setup: Any) -> Self:
        """Return a model from a folder, or by the name of a bundled one.

        Parameters
        ----------
        model
            Folder or name.
        adata
            Table to attach, set up as the one of training. Without it, the methods are passed one.
        **setup
            Arguments of :meth:`setup_anndata` that differ from those of training.

        Raises
        ------
        CheckpointError
            There is no checkpoint.
        """
        checkpoint = resolve_model(model)
        self, arguments = cls.__new__(cls), {**checkpoint.setup, **setup}
        if adata is None:
            registry = {"model_name": cls.__name__, "field_registries": {}, "setup_args": arguments}
            BaseModelClass.__init__(self, registry=registry)
        else:
            table = get_table(adata)
            cls.setup_anndata(table, **arguments)
            BaseModelClass.__init__(self, table)
        self.module, self._vocabulary = checkpoint.network, checkpoint.vocabulary
        self._name, self._sha256, self._training = checkpoint.name, checkpoint.sha256, checkpoint.training
        self.is_trained_ = bool(checkpoint.training.get("is_trained", True))
        self.history_ = {name: as_frame(name, values) for name, values in checkpoint.history.items()}
        self._describe()
        return self

    def _setup_arguments(self) -> dict[str, Any]:
        arguments = self.registry_["setup_args"]
        names = ("layer", "spatial_key", "library_key", "gene_key", "neighbors_key")
        return {name: arguments.get(name, SPATIAL_KEY if name == "spatial_key" else None) for name in names}

    def _reader(self, adata: Any) -> TableReader:
        adata = self.adata if adata is None else adata
        if adata is None:
            raise ArgumentError("The model was loaded without a table: pass adata=...")
        return read_table(get_table(adata), self._vocabulary, **self._setup_arguments())

    def _describe(self) -> None:
        fields = self.module.config.to_dict()
        self._model_summary_string = "SAGEFM: " + ", ".join(f"{name} {value}" for name, value in fields.items())
        self.init_params_ = {"kwargs": {}, "non_kwargs": fields}
