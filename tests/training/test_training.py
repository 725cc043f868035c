"""Training: what is held out, what is kept, and that something is learned."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from lightning.pytorch import Callback

import sagefm
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.model import SAGEFM, load_checkpoint
from sagefm.module._config import NetworkConfig
from sagefm.training import _fit, _progress
from sagefm.training._config import TrainingConfig


def fitted(adata: AnnData, *, library_key: str | None = None, max_epochs: int = 5, **kwargs: object) -> SAGEFM:
    """A model with small layers, trained."""
    SAGEFM.setup_anndata(adata, library_key=library_key)
    model = SAGEFM(adata, hidden=(32, 16), **kwargs)
    model.train(max_epochs=max_epochs, batch_size=64, progress=False)
    return model


@pytest.fixture(scope="module")
def sections() -> AnnData:
    """Four small simulated sections."""
    return sagefm.datasets.simulate(200, n_genes=120, n_sections=4, rng=0)


def test_history_is_as_in_scvi_tools(sections: AnnData) -> None:
    model = fitted(sections.copy(), library_key="library")
    assert {"train_loss", "validation_loss", "validation_d2", "learning_rate"} <= set(model.history)
    for name, frame in model.history.items():
        assert list(frame.columns) == [name]
        assert frame.index.name == "epoch"
        assert len(frame) == 5
    assert model.is_trained
    assert model.history["train_loss"].iloc[-1, 0] < model.history["train_loss"].iloc[0, 0]


def test_set_up_says_nothing(sections: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("scvi")
    logger.addHandler(caplog.handler)
    try:
        SAGEFM.setup_anndata(sections.copy(), library_key="library")
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_whole_sections_are_held_out(sections: AnnData) -> None:
    adata = sections.copy()
    model = fitted(adata, library_key="library", max_epochs=1)
    trained = set(adata.obs["library"].iloc[model.train_indices])
    held = set(adata.obs["library"].iloc[model.validation_indices])
    assert len(held) == 1
    assert not trained & held
    assert len(trained | held) == 4
    everything = np.sort(np.concatenate([model.train_indices, model.validation_indices]))
    np.testing.assert_array_equal(everything, np.arange(adata.n_obs))


def test_tiles_of_one_section_are_held_out() -> None:
    adata = sagefm.datasets.dlpfc()[:, :50].copy()
    model = fitted(adata, max_epochs=1)
    held = np.isin(np.arange(adata.n_obs), model.validation_indices)
    assert 0.05 < held.mean() < 0.25
    graph = adata.obsp["sagefm_connectivities"]
    # Most neighbors of a held-out spot are held out too; of a random tenth of the spots, a tenth would be.
    assert (graph[held] @ held.astype(float)).mean() / 14 > 0.6


def test_best_epoch_is_kept(sections: AnnData) -> None:
    adata = sections.copy()
    model = fitted(adata, library_key="library", max_epochs=12)
    best = model.to_checkpoint().training["best_epoch"]
    assert best == model.history["validation_loss"].iloc[:, 0].argmin()
    # The same run stopped there has the same parameters.
    SAGEFM.setup_anndata(adata, library_key="library")
    stopped = SAGEFM(adata, hidden=(32, 16))
    stopped.train(max_epochs=best + 1, batch_size=64, progress=False)
    np.testing.assert_array_equal(stopped.get_latent_representation(), model.get_latent_representation())


def test_early_stopping_stops(sections: AnnData) -> None:
    adata = sections.copy()
    SAGEFM.setup_anndata(adata, library_key="library")
    model = SAGEFM(adata, hidden=(32, 16))
    model.train(max_epochs=200, lr=0.03, patience=2, batch_size=64, progress=False)
    assert len(model.history["train_loss"]) < 200
    lr = model.history["learning_rate"].iloc[:, 0]
    assert lr.iloc[0] == 0.03


@pytest.mark.parametrize(
    "kwargs", [{"likelihood": "negative_binomial"}, {"architecture": "published"}, {"dropout": 0.4}]
)
def test_every_variant_learns(sections: AnnData, kwargs: dict[str, object]) -> None:
    model = fitted(sections.copy(), library_key="library", max_epochs=8, **kwargs)
    loss = model.history["validation_loss"].iloc[:, 0]
    assert loss.iloc[-1] < loss.iloc[0]
    assert np.isfinite(model.get_latent_representation()).all()


def test_held_out_section_is_explained_beyond_its_profile(sections: AnnData) -> None:
    model = fitted(sections.copy(), library_key="library", max_epochs=30)
    assert model.history["validation_d2"].iloc[:, 0].max() > 0.05


def test_without_validation_no_warning(sections: AnnData) -> None:
    adata = sections.copy()
    SAGEFM.setup_anndata(adata, library_key="library")
    model = SAGEFM(adata, hidden=(32, 16))
    model.train(max_epochs=2, validation_size=0, progress=False)
    assert len(model.validation_indices) == 0
    assert "validation_loss" not in model.history


def test_bad_hyperparameters_are_named(sections: AnnData) -> None:
    adata = sections.copy()
    with pytest.raises(MissingKeyError, match="setup_anndata"):
        SAGEFM(adata)
    SAGEFM.setup_anndata(adata, library_key="library")
    for kwargs in ({"architecture": "gat"}, {"likelihood": "normal"}, {"hidden": (5,)}, {"dropout": 1.0}, {"scale": 0}):
        with pytest.raises(ArgumentError):
            SAGEFM(adata, **kwargs)
    model = SAGEFM(adata, hidden=(8, 4))
    for kwargs in ({"max_epochs": 0}, {"batch_size": 2.5}, {"mask_fraction": 0.0}, {"validation_size": 1.0}):
        with pytest.raises(ArgumentError, match=next(iter(kwargs))):
            model.train(**kwargs)


def test_perturbation_finds_the_sign_of_planted_effects() -> None:
    adata = sagefm.datasets.simulate(1500, n_genes=200, n_sections=2, strength=1.0, rng=1)
    SAGEFM.setup_anndata(adata, library_key="library")
    model = SAGEFM(adata, hidden=(128, 32))
    model.train(max_epochs=30, progress=False)
    truth: pd.DataFrame = adata.uns["truth"]
    planted = truth[truth["kind"] == "planted"].reset_index(drop=True)
    scores = model.perturb(pairs=planted[["source", "target"]])
    agree = np.sign(scores["effect"]) == np.sign(planted["strength"])
    assert agree.mean() >= 0.9


@pytest.mark.parametrize("architecture", ["default", "published"])
def test_bfloat16(sections: AnnData, architecture: str) -> None:
    """Lightning's mixed precision: products in bfloat16, to a percent of the loss in float32."""
    found = []
    for precision in ("32-true", "bf16-mixed"):
        adata = sections.copy()
        SAGEFM.setup_anndata(adata, library_key="library")
        hidden = (32, 16) if architecture == "default" else (32, 16, 16, 16, 16)
        model = SAGEFM(adata, architecture=architecture, hidden=hidden, dropout=0.0)
        model.train(max_epochs=4, batch_size=64, lr=1e-3, precision=precision, accelerator="cpu", progress=False)
        assert all(parameter.dtype == torch.float32 for parameter in model.module.parameters())
        found.append(model.history["validation_loss"].iloc[-1, 0])
    assert found[1] == pytest.approx(found[0], rel=0.01)
    assert found[1] != found[0]


# Defects that were


def small(adata: AnnData, **kwargs: Any) -> SAGEFM:
    """An untrained model of a few units."""
    SAGEFM.setup_anndata(adata, library_key="library")
    return SAGEFM(adata, hidden=(8, 4), **kwargs)


def parameters(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_equal(found: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


class Raise(Callback):
    """Raise in the second epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise self.error


class Seen(Callback):
    """Keep the counts and masks of each batch, and the learning rate."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((batch.counts, batch.draw_mask((0.3, 0.3))))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", [float("nan"), float("inf"), -1e-3, 0, "fast", True]),
        ("weight_decay", [float("nan"), -1e-3, "little"]),
        ("mask_fraction", [0, 1.1, float("nan"), (0.1,), (0.1, 0.2, 0.3), (0.5, 0.2), "half", (0.1, None), []]),
        ("validation_size", [-0.1, 1, 1.5, float("nan"), None]),
        ("max_epochs", [0, -1, 2.5, None, True]),
        ("batch_size", [0, 2.5, None]),
        ("patience", [-1, 1.5]),
        ("n_shards", [0, 1.5, 801, 2**32]),
        ("schedule", ["linear", None]),
        ("rng", [-1, 0.5, 2**32]),
    ],
)
def test_settings_outside_their_range(name: str, values: list[Any], sections: AnnData) -> None:
    model = small(sections.copy())
    for value in values:
        with pytest.raises(ArgumentError, match=name):
            model.train(**{name: value})
    assert not model.is_trained


def test_settings_are_plain_numbers() -> None:
    """As JSON takes them."""
    network = NetworkConfig.of("published", n_genes=5)
    config = TrainingConfig.of(network, lr=np.float32(0.5), batch_size=np.int64(8), mask_fraction=np.float32(0.5))
    assert [type(value) for value in (config.lr, config.batch_size, *config.mask_fraction)] == [
        float,
        int,
        float,
        float,
    ]
    assert (config.weight_decay, config.lr_factor, config.decoupled) == (1e-4, 0.9, False)


@pytest.mark.parametrize("arguments", [{"window": 2}, {"groups": ["a"]}, {"before": {}}, {"seed": 1}, {"epochs": 3}])
def test_unknown_arguments_are_named(arguments: dict[str, Any], sections: AnnData) -> None:
    with pytest.raises(ArgumentError, match=rf"has no argument {next(iter(arguments))}\b"):
        small(sections.copy()).train(**arguments)


def test_schedule_is_an_argument(sections: AnnData) -> None:
    model = small(sections.copy())
    model.train(max_epochs=3, schedule="cosine")
    np.testing.assert_allclose(model.history["learning_rate"].iloc[:, 0], [1e-3, 7.5e-4, 2.5e-4], rtol=1e-5)


def test_learning_rate_falls_with_the_validation_loss(sections: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with that of training, which never stops falling."""
    monkeypatch.setattr(_fit.TrainingPlan, "_record", rising_validation_loss(_fit.TrainingPlan._record))
    model = small(sections.copy())
    model.train(max_epochs=8, patience=10)
    rates = model.history["learning_rate"].iloc[:, 0]
    assert rates.iloc[-1] == pytest.approx(rates.iloc[0] / 2)
    model.train(max_epochs=8, validation_size=0)
    assert model.history["learning_rate"].iloc[:, 0].nunique() == 1


def rising_validation_loss(record: Any) -> Any:
    """Return a method that logs a validation loss that rises, and a training loss that falls."""

    def changed(self: Any, stage: str) -> float:
        record(self, stage)
        loss = float(self.current_epoch if stage == "validation" else -self.current_epoch)
        self.log(f"{stage}_loss", loss)
        return loss

    return changed


def test_training_leaves_the_checkpoint_that_it_began_from(sections: AnnData, tmp_path: Any) -> None:
    small(sections.copy()).save(tmp_path / "model")
    checkpoint = load_checkpoint(tmp_path / "model")
    before = parameters(checkpoint.network)
    model = SAGEFM.from_pretrained(checkpoint, sections.copy())
    model.train(max_epochs=1)
    assert_equal(checkpoint.network, before)
    assert checkpoint.sha256
    trained = model.to_checkpoint()
    assert (trained.name, trained.sha256) == ("SAGEFM", "")
    assert not torch.equal(trained.network.state_dict()["fc_gene.weight"], before["fc_gene.weight"])
    # Nor does further training change what was taken from the model.
    after = parameters(trained.network)
    model.train(max_epochs=1)
    assert_equal(trained.network, after)


@pytest.mark.parametrize("error", [RuntimeError("a callback"), KeyboardInterrupt()])
def test_training_that_raises_leaves_the_model_as_it_was(
    error: BaseException, sections: AnnData, tmp_path: Any
) -> None:
    """An interrupt stays one, of which Lightning would make an exit."""
    model = small(sections.copy())
    model.train(max_epochs=1)
    model.save(tmp_path / "model")
    before, checkpoint, latent = parameters(model.module), model.to_checkpoint(), model.get_latent_representation()
    with pytest.raises(type(error)):
        model.train(max_epochs=3, callbacks=[Raise(error)])
    assert_equal(model.module, before)
    after = model.to_checkpoint()
    assert (after.name, after.sha256, after.training) == (checkpoint.name, checkpoint.sha256, checkpoint.training)
    assert not model.module.training
    np.testing.assert_array_equal(model.get_latent_representation(), latent)


def test_a_second_training_goes_on(sections: AnnData) -> None:
    """Order and masks are those of further epochs; the spots that are held out stay so."""
    model, runs = small(sections.copy()), [Seen(), Seen()]
    held = []
    for seen in runs:
        model.train(max_epochs=2, callbacks=seen)
        held.append(model.validation_indices)
    np.testing.assert_array_equal(*held)
    first, second = (run.batches for run in runs)
    assert len(first) == len(second)
    for (counts, mask), (other_counts, other_mask) in zip(first, second, strict=True):
        assert counts.shape != other_counts.shape or not torch.equal(counts, other_counts)
        assert mask.shape != other_mask.shape or not torch.equal(mask, other_mask)
    again, seen = small(sections.copy()), Seen()
    again.train(max_epochs=4, callbacks=[seen])
    for (counts, mask), (other_counts, other_mask) in zip(first + second, seen.batches, strict=True):
        assert torch.equal(counts, other_counts)
        assert torch.equal(mask, other_mask)


def test_training_goes_on_from_a_saved_model_as_from_one_in_memory(sections: AnnData, tmp_path: Any) -> None:
    adata = sections.copy()
    model = small(adata)
    model.train(max_epochs=2)
    model.save(tmp_path / "model")
    loaded = SAGEFM.load(tmp_path / "model", adata)
    for each in (model, loaded):
        each.train(max_epochs=2)
    assert_equal(loaded.module, parameters(model.module))


@pytest.mark.parametrize("library_key", [None, "library"])
def test_held_out_spots_survive_saving(library_key: str | None, sections: AnnData, tmp_path: Any) -> None:
    adata = sections.copy() if library_key else sections[sections.obs["library"] == "section1"].copy()
    adata.obs["half"] = adata.obs["library"].astype(str) + np.where(np.arange(adata.n_obs) % 2, " odd", " even")
    model = fitted(adata, library_key=library_key, max_epochs=1)
    assert len(model.validation_indices)
    model.save(tmp_path / "model")
    loaded = SAGEFM.load(tmp_path / "model", adata.copy())
    np.testing.assert_array_equal(loaded.train_indices, model.train_indices)
    np.testing.assert_array_equal(loaded.validation_indices, model.validation_indices)
    # Of other spots or sections, or of none, nothing is known.
    others = [SAGEFM.load(tmp_path / "model", adata[::-1].copy()), SAGEFM.load(tmp_path / "model")]
    if library_key:
        with pytest.warns(UserWarning, match=r"graph .* is replaced"):
            others.append(SAGEFM.load(tmp_path / "model", adata, library_key="half"))
    for other in others:
        assert other.validation_indices is None
        assert other.train_indices is None


def test_generators_are_seeds(sections: AnnData) -> None:
    trained = []
    for rng in (np.random.default_rng(3), np.random.default_rng(3), np.random.default_rng(4)):
        model = small(sections.copy(), rng=rng)
        model.train(max_epochs=1, rng=rng)
        trained.append(parameters(model.module))
    assert_equal(model.module, trained[2])
    assert torch.equal(trained[0]["fc_gene.weight"], trained[1]["fc_gene.weight"])
    assert not torch.equal(trained[0]["fc_gene.weight"], trained[2]["fc_gene.weight"])


def test_random_state_of_other_devices_is_left_alone(sections: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """To keep that of a GPU starts it up, and takes its memory."""
    kept = []
    fork_rng = torch.random.fork_rng

    def fork(devices: Any = None, **kwargs: Any) -> Any:
        kept.append(devices)
        return fork_rng(devices=devices, **kwargs)

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    state = torch.get_rng_state()
    small(sections.copy()).train(max_epochs=1, accelerator="cpu")
    assert kept
    assert not any(kept)
    assert torch.equal(torch.get_rng_state(), state)


class Bar:
    """A progress bar that counts."""

    made: ClassVar[list[Bar]] = []

    def __init__(self, desc: str, total: int, unit: str, *, initial: int, progress: bool) -> None:
        self.named, self.total, self.n, self.shown, self.closed = (desc, unit), total, initial, progress, False
        self.made.append(self)

    def update(self) -> None:
        self.n += 1

    def set_postfix(self, **values: Any) -> None:
        assert set(values) == {"epoch", "loss"}

    def close(self) -> None:
        self.closed = True


def test_one_progress_bar_wherever_one_can_be_shown(sections: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes, the first one shows it; tests/test_progress.py tells where that is."""
    monkeypatch.setattr(_progress, "ProgressBar", Bar)
    monkeypatch.setattr(Bar, "made", [])
    small(sections.copy()).train(max_epochs=2, progress=False)
    assert not Bar.made
    small(sections.copy()).train(max_epochs=2, batch_size=100)
    (bar,) = Bar.made
    assert (bar.named, bar.shown, bar.closed) == (("train", "batch"), True, True)
    assert bar.n == bar.total == 2 * 6
    with pytest.raises(RuntimeError):
        small(sections.copy()).train(max_epochs=2, callbacks=[Raise(RuntimeError("stopped"))])
    assert Bar.made[-1].closed


def test_no_progress_where_none_can_be_shown(sections: AnnData, capfd: pytest.CaptureFixture[str]) -> None:
    small(sections.copy()).train(max_epochs=1)
    assert not "".join(capfd.readouterr())
