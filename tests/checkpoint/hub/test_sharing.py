"""Models pushed to the Hugging Face Hub, their cards, and what is not pushed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from sagefm.checkpoint._hub import describe, model_card, push_to_hub
from sagefm.errors import ArgumentError
from sagefm.model import SAGEFM, load_checkpoint


def rows_of(card: str) -> dict[str, str]:
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", card, flags=re.MULTILINE))


def test_push_then_load(hub, at_hub, folders):
    checkpoint = load_checkpoint(folders["default"])
    folder = repr(str(folders["default"]))
    calls = [
        f"push_to_hub(pretrained({folder}), 'lab/model', license='bsd-3-clause', private=True)",
        f"push_to_hub(pretrained({folder}), 'lab/model', license='bsd-3-clause')",
        f"push_to_hub(resolve_model({folder}), 'lab/model', half=True)",
        "resolve_model('lab/model')",
        f"push_to_hub(resolve_model({folder}), 'lab/model', license='my own')",
        "os.environ.update(HF_TOKEN='hf_wrong')",
        f"push_to_hub(resolve_model({folder}), 'lab/model', license='other')",
    ]
    first, same, half, loaded, refused, _, unknown = at_hub(*calls, silent=False)
    (_, empty), (one, files), (two, smaller) = hub.repositories["lab/model"]
    assert first == same == ["str", f"lab/model@{one}"], "what is there already makes no commit"
    assert half == ["str", f"lab/model@{two}"]
    assert loaded == ["Checkpoint", f"lab/model@{two}"]
    assert refused[0] == "CheckpointError"
    assert '"license" must be one of' in refused[1]
    assert unknown[0] == "CheckpointError"
    assert "hf auth login" in unknown[1]
    assert hub.private == {"lab/model": True}
    assert sorted(files) == sorted([*empty, "README.md", "config.json", "model.safetensors"])
    assert files["model.safetensors"] == (folders["default"] / "model.safetensors").read_bytes()
    assert len(smaller["model.safetensors"]) < 0.6 * len(files["model.safetensors"])
    card = files["README.md"].decode()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata == {"license": "bsd-3-clause", "library_name": "sagefm", "tags": metadata["tags"]}
    assert f'from_pretrained("lab/model", adata, sha256="{checkpoint.sha256}")' in card
    assert "license" not in smaller["README.md"].decode().split("---")[1]


def test_card_says_what_the_checkpoint_holds_and_no_more(default):
    card = model_card(default, "lab/model", "cc-by-4.0")
    rows = rows_of(card)
    assert rows["genes"] == "300"
    assert rows["trained on"] == "400 spots of 1 section(s)"
    assert rows["sha256"] == default.sha256
    assert rows["license"] == "cc-by-4.0"
    assert "The checkpoint does not name them." in card
    assert "Diagnosis" in card

    before = {"n_spots": 1000, "n_sections": 2, "sections": {"one": "a" * 64, "two | x\ny": "b" * 64}}
    bare = replace(default, training={"before": [before], "is_trained": True}, history={})
    card = model_card(bare, "lab/model", None)
    rows = rows_of(card)
    assert rows["license"] == "none stated"
    assert rows["one"] == "a" * 64
    assert r"| two \| x y | " + "b" * 64 in card, "one line, one cell"
    assert "license:" not in card
    assert not {"training", "validation loss", "source"} & set(rows)
    untrained = model_card(replace(default, training={"is_trained": False}), "lab/model", None)
    assert "nothing: its parameters are random" in untrained


@pytest.mark.parametrize("name", ["seed", "rng"])
def test_seed_of_older_and_newer_records(name, default):
    training = {"epochs": 3, "best_epoch": 1, "lr": 0.1, name: 7}
    assert describe(replace(default, training=training))["training"] == f"3 epochs, best 1; lr 0.1, {name} 7"


def test_training_keeps_the_record_of_what_it_went_on_from(default, section):
    """So that the card of a model made from another names the sections of both."""
    made = replace(default, training={**default.training, "sections": {"one": "a" * 64}, "is_trained": True})
    model = SAGEFM.from_pretrained(made, section)
    for _ in range(2):
        model.train(max_epochs=1, accelerator="cpu", progress=False)
    found = model.to_checkpoint().training
    assert [record.get("sections") for record in found["before"]] == [{"one": "a" * 64}, None]
    assert "before" not in found["before"][1]
    assert "a" * 64 in model_card(model.to_checkpoint(), "lab/model", None)
    fresh = SAGEFM(section, hidden=(8, 4))
    fresh.train(max_epochs=1, accelerator="cpu", progress=False)
    assert "before" not in fresh.to_checkpoint().training


@pytest.mark.parametrize("name", ["model", "lab/model@main", "a/b/c", "./lab/model", "", None])
def test_names_to_push_to(name, default):
    with pytest.raises(ArgumentError, match="expected 'organization/name'"):
        push_to_hub(default, name)


def test_the_first_of_several_processes_pushes(default, monkeypatch):
    """Each of them did; `save` writes in the first, too."""
    pushed = []
    monkeypatch.setattr("sagefm.model._sagefm.push_to_hub", lambda _, name, **kwargs: pushed.append(name) or "name@1")
    model = SAGEFM.from_pretrained(default)
    assert model.push_to_hub("lab/model") == "name@1"
    model._saves = False
    assert model.push_to_hub("lab/model") == ""
    assert pushed == ["lab/model"]


def test_parameters_of_the_authors_are_not_passed_on(default):
    source = {"sha256": "0" * 64, "license": "none stated; not to be redistributed"}
    for training in ({"source": source}, {"before": [{"source": source}]}):
        with pytest.raises(ArgumentError, match=r"not to be redistributed.*pass license="):
            push_to_hub(replace(default, training=training), "lab/model")
