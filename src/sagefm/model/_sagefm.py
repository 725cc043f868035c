"""The model class, in the manner of scvi-tools."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
from scvi.model.base import BaseModelClass

from sagefm._arguments import as_path, as_seed
from sagefm._constants import SPATIAL_KEY, WEIGHTS_FILE
from sagefm.checkpoint._checkpoint import Checkpoint, check_storable, load_checkpoint, save_checkpoint
from sagefm.checkpoint._hub import push_to_hub
from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._files import file_sha256
from sagefm.data._genes import get_gene_names, is_gene, make_vocabulary
from sagefm.data._table import coordinates_in_table, get_table
from sagefm.errors import MissingKeyError
from sagefm.model._managers import TableManagers, forget_with
from sagefm.model._table_model import TableModel, check_setup, spots_sha256
from sagefm.module._center import make_network
from sagefm.module._config import NetworkConfig
from sagefm.training._config import TrainingConfig
from sagefm.training._fit import fit
from sagefm.training._sections import TableSections

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


#: Name and hash of parameters that were not stored.
_NEW: Final[dict[str, Any]] = {"name": "SAGEFM", "sha256": ""}


class SAGEFM(TableModel):
    """Graph neural network for spatial transcriptomics, trained to predict hidden genes of a spot.

    Parameters
    ----------
    adata
        AnnData set up with :meth:`setup_anndata`; or the SpatialData or MuData object that holds it.
    architecture
        ``"center_neighborhood"``: reads the spot and its neighborhood separately, as deviations from the section's
        profile, and predicts counts. ``"published"``: the five graph convolutions of SAGE-FM (arXiv 2601.15504), which
        read and predict log1p counts and are trained on the mean squared error.
    hidden
        Widths of the layers; the last is the width of the embedding. Default: (256, 64), or the published widths.
    likelihood
        ``"poisson"`` or ``"negative_binomial"`` (only for ``"center_neighborhood"``).
    dropout
        Share of hidden units dropped in training (only for ``"center_neighborhood"``).
    scale
        Total count that spots are normalized to before log1p (only for ``"center_neighborhood"``).
    vocabulary
        Genes of the model, in order, or ``"published"`` for the 14,558 genes of the published network. Default: the
        genes of `adata`.
    rng
        Seed, or random generator, for the initial values of the parameters.
    table_key, mod
        Table of a SpatialData object, modality of a MuData object.

    Raises
    ------
    sagefm.errors.SagefmError
        The table has not been set up, the architecture or likelihood is unknown, or the widths do not fit it.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(200, n_genes=300)
    >>> sagefm.model.SAGEFM.setup_anndata(adata)
    >>> model = sagefm.model.SAGEFM(adata, hidden=(64, 16))
    >>> model.train(max_epochs=5)
    >>> adata.obsm["X_sagefm"] = model.get_latent_representation()
    >>> adata.obsm["X_sagefm"].shape
    (200, 16)

    The methods of the model return what the functions of ``sagefm.tl`` write into the table:

    >>> source, target = adata.uns["truth"].loc["0", ["source", "target"]]
    >>> model.impute(genes=[source, target]).shape
    (200, 2)
    >>> scores = model.perturb(sources=[source], targets=[target])

    Save a model to a folder, and load it with or without a table. ``sagefm.tl`` needs only its checkpoint:

    >>> model.save("folder")
    >>> model = sagefm.model.SAGEFM.load("folder", adata)
    >>> model.to_checkpoint().config.hidden
    (64, 16)

    Fine-tune a pretrained model on a table of your own:

    >>> section = sagefm.datasets.synovium()
    >>> sagefm.model.SAGEFM.setup_anndata(section)
    >>> model = sagefm.model.SAGEFM.from_pretrained("default", section)
    >>> model.train(max_epochs=1)

    Set up tables inside MuData and SpatialData objects:

    >>> from mudata import MuData
    >>> mdata = MuData({"rna": sagefm.datasets.simulate(50, n_genes=300)})
    >>> sagefm.model.SAGEFM.setup_mudata(mdata, mod="rna")
    >>> from spatialdata import SpatialData
    >>> sdata = SpatialData(tables={"table": sagefm.datasets.simulate(50, n_genes=300)})
    >>> sagefm.model.SAGEFM.setup_spatialdata(sdata, table_key="table")
    """

    #: Of several processes that trained together, the first writes.
    _saves = True

    def __init__(
        self,
        adata: Any,
        *,
        architecture: Literal["center_neighborhood", "published"] = "center_neighborhood",
        hidden: Sequence[int] | None = None,
        likelihood: Literal["poisson", "negative_binomial"] = "poisson",
        dropout: float = 0.5,
        scale: float = 1e4,
        vocabulary: Sequence[str] | Literal["published"] | None = None,
        rng: int | np.random.Generator = 0,
        table_key: str | None = None,
        mod: str | None = None,
    ) -> None:
        table = get_table(adata, table_key=table_key, mod=mod)
        if "_scvi_uuid" not in table.uns:
            raise MissingKeyError("The table has not been set up: call SAGEFM.setup_anndata(adata) first.")
        super().__init__(table)
        forget_with(self)
        genes = make_vocabulary(get_gene_names(table, self._keys().gene_key)[is_gene(table)], vocabulary)
        config = NetworkConfig.of(
            architecture, n_genes=len(genes), hidden=hidden, likelihood=likelihood, scale=scale, dropout=dropout
        )
        network = make_network(config, as_seed(rng)).eval()
        self._within = {"table_key": table_key, "mod": mod}
        self._take(Checkpoint(network=network, vocabulary=genes, training={"is_trained": False}, **_NEW))
        check_storable(self.to_checkpoint())

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
        schedule: Literal["plateau", "cosine"] = "plateau",
        early_stopping: bool = True,
        patience: int = 10,
        n_shards: int | None = None,
        state_file: str | os.PathLike[str] | None = None,
        rng: int | np.random.Generator = 0,
        progress: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on the table's sections.

        If there are several sections, whole sections are held out for validation, never single spots, because the
        neighborhoods of nearby spots share counts. If there is only one, square tiles of it are held out. The
        parameters of the best epoch are kept. Training a model again continues from its parameters, with further
        epochs. If training fails, the model stays as it was.

        Parameters
        ----------
        max_epochs
            Passes through the training spots.
        accelerator, devices
            As in Lightning. One device is used unless you pass ``strategy="ddp"``; each then trains on its own sections.
        batch_size
            Number of spots per training step (and shard, see `n_shards`).
        validation_size
            Share of the spots to hold out; 0 for none.
        mask_fraction
            Share of each spot's genes that is hidden, or a range of shares. Default: 0.1 to 0.7 (published: 0.3).
        lr, weight_decay
            Learning rate and weight decay. Default: 1e-3 and 1e-2 (published: 5e-5 and 1e-4).
        schedule
            ``"plateau"``: the learning rate is reduced when the validation loss no longer falls; ``"cosine"``: it falls
            to zero by the last epoch.
        early_stopping, patience
            Whether to stop after `patience` epochs without a better validation loss.
        n_shards
            Number of parts (shards) that the sections are divided into. A step takes `batch_size` spots from each, so
            the same `n_shards` gives the same steps on one process as on several. Default: one for each process.
        state_file
            File that the state of training is written to after every epoch. If the file exists, training resumes from
            it, and ends with the same parameters as a run that was not interrupted.
        rng
            Seed, or random generator, for the split, the order of spots and the masks. The same seed gives the same
            parameters on the same machine.
        progress
            As in :func:`sagefm.tl.embed`.
        **trainer_kwargs
            Further arguments of :class:`lightning.pytorch.Trainer`.

        Raises
        ------
        sagefm.errors.SagefmError
            An argument is unknown or outside its range, or the state file is from another run.
        """
        config = TrainingConfig.of(
            self.module.config,
            max_epochs=max_epochs,
            batch_size=batch_size,
            validation_size=validation_size,
            mask_fraction=mask_fraction,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            early_stopping=early_stopping,
            patience=patience,
            n_shards=n_shards,
            rng=rng,
        )
        sections = self._reader(None).sections()
        names = [section.name for section in sections]
        check_storable(replace(self._checkpoint, training={"is_trained": True, "validation_sections": names}))
        result = fit(
            self.module,
            TableSections(sections, self.module.config),
            self._checkpoint.vocabulary.symbols,
            config,
            before=self._checkpoint.training,
            state_file=state_file,
            progress=progress,
            trainer_arguments={"accelerator": accelerator, "devices": devices, **trainer_kwargs},
        )
        training = {**result.record, "spots_sha256": spots_sha256(self.adata)}
        if len(sections) == 1:
            training["validation_spots"] = sections[0].rows[result.validation_spots[0]].tolist()
        self._take(
            replace(self.to_checkpoint(), network=result.network, training=training, history=result.losses, **_NEW)
        )
        self._saves = result.saves

    def save(self, dir_path: str | os.PathLike[str], *, overwrite: bool = False, half: bool = False) -> None:
        """Write ``model.safetensors`` and ``config.json`` to a folder.

        After training on several processes, only the first one writes the folder. The others hold the same parameters,
        and this call does nothing there: keep using the model in memory, do not read the folder.

        Parameters
        ----------
        dir_path
            Folder to write. It must not exist yet, unless `overwrite` is true.
        overwrite
            Replace the checkpoint in an existing folder.
        half
            Store the parameters in half precision, which halves the size.

        Raises
        ------
        OutputExistsError
            The folder exists and `overwrite` is false, or the folder is not a checkpoint.
        OutputError
            The folder cannot be written, or the disk is full. What was there before stays.
        CheckpointError
            The model could not be loaded again: NaN parameters, or names that cannot be printed.
        """
        folder = as_path(dir_path, name="dir_path")
        if self._saves:
            save_checkpoint(self.to_checkpoint(), folder, overwrite=overwrite, half=half)
            sha256 = file_sha256(folder / WEIGHTS_FILE)
            self._checkpoint = replace(self._checkpoint, name=str(folder), sha256=sha256)

    def push_to_hub(
        self, repo_id: str, *, license: str | None = None, private: bool | None = None, half: bool = False
    ) -> str:
        """Share the model on the Hugging Face Hub: its two files, and a model card written from them.

        Files of these three names that are there already are replaced; the Hub keeps earlier revisions. If several
        processes trained together, only the first one pushes.

        Parameters
        ----------
        repo_id, license, private, half
            As in :func:`sagefm.model.push_to_hub`.

        Returns
        -------
        ``"organization/name@commit"``, a name that loads these parameters wherever a model is asked for; empty in all
        processes but the first.

        Raises
        ------
        ArgumentError, CheckpointError
            As in :func:`sagefm.model.push_to_hub`.

        Examples
        --------
        >>> import sagefm
        >>> model = sagefm.model.SAGEFM.from_pretrained("default")
        >>> model.push_to_hub("organization/name", license="bsd-3-clause")  # doctest: +SKIP
        """
        if not self._saves:
            return ""
        return push_to_hub(self.to_checkpoint(), repo_id, license=license, private=private, half=half)

    @classmethod
    def load(cls, dir_path: str | os.PathLike[str], adata: Any = None, **setup: Any) -> Self:
        """Load a model from a folder that :meth:`save` has written.

        Parameters
        ----------
        dir_path
            The folder.
        adata, **setup
            As in :meth:`from_pretrained`.

        Returns
        -------
        The model.

        Raises
        ------
        sagefm.errors.SagefmError
            The folder holds no checkpoint, or the table cannot be used (the message says why).
        """
        return cls.from_pretrained(load_checkpoint(dir_path), adata, **setup)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | Checkpoint,
        adata: Any = None,
        *,
        revision: str | None = None,
        sha256: str | None = None,
        table_key: str | None = None,
        mod: str | None = None,
        **setup: Any,
    ) -> Self:
        """Load a model from a checkpoint, to use it or to train it further.

        Parameters
        ----------
        model
            ``"default"``, ``"published"``, a folder, ``"organization/name"`` on the Hugging Face Hub, or a
            :class:`~sagefm.model.Checkpoint`.
        adata
            Table to attach, set up in the same way as the one trained on. Without it, pass a table to each method.
        revision
            Branch, tag or commit of a model on the Hub, as in ``"organization/name@revision"``.
        sha256
            Expected hash of the parameters.
        table_key, mod
            As in :class:`SAGEFM`; also for objects passed to the methods later.
        **setup
            Arguments of :meth:`setup_anndata` that differ from those used in training.

        Returns
        -------
        The model.

        Raises
        ------
        sagefm.errors.SagefmError
            There is no such checkpoint, its parameters have another hash, or the table cannot be used (the message says
            why).
        """
        check_setup(setup)
        checkpoint = resolve_model(model, revision=revision, sha256=sha256)
        self, arguments = cls.__new__(cls), {**checkpoint.setup, **setup}
        if adata is None:
            registry = {"model_name": cls.__name__, "field_registries": {}, "setup_args": arguments}
            BaseModelClass.__init__(self, registry=registry)
        else:
            table = get_table(adata, table_key=table_key, mod=mod)
            with coordinates_in_table(adata, table, arguments.get("spatial_key", SPATIAL_KEY)):
                cls.setup_anndata(table, **arguments)
            BaseModelClass.__init__(self, table)
        forget_with(self)
        self._within = {"table_key": table_key, "mod": mod}
        self._take(checkpoint)
        return self


# The metaclass of scvi-tools sets a dictionary.
SAGEFM._setup_adata_manager_store = TableManagers()
