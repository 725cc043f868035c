"""Every format that a checkpoint ever had is read, to the same numbers; `formats/make.py` wrote them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import sagefm
from sagefm.checkpoint._checkpoint import FORMAT_VERSION
from sagefm.errors import CheckpointError
from sagefm.model import load_checkpoint
from tests import OTHER_KERNELS
from tests.checkpoint.formats.make import make_section, sums

FOLDER = Path(__file__).parent / "formats"
STORED = sorted(path.parent for path in FOLDER.glob("*/*/config.json"))


@pytest.mark.parametrize("folder", STORED, ids=lambda path: "-".join(path.parts[-2:]))
def test_stored_checkpoint(folder):
    numbers = json.loads((folder.parent / "numbers.json").read_text())
    checkpoint = load_checkpoint(folder)
    # To the last digit but for the order of a sum.
    assert sums(checkpoint) == pytest.approx(numbers[folder.name]["sums"], rel=1e-12)
    adata = make_section(numbers["counts"], numbers["coordinates"])
    sagefm.tl.embed(adata, checkpoint, device="cpu")
    np.testing.assert_allclose(adata.obsm["X_sagefm"], numbers[folder.name]["embedding"], **OTHER_KERNELS)


def test_every_format_is_stored():
    stored = {json.loads((folder / "config.json").read_text())["format_version"] for folder in STORED}
    assert stored == set(range(1, FORMAT_VERSION + 1))


def test_newer_format(tmp_path):
    folder = shutil.copytree(STORED[0], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format_version": FORMAT_VERSION + 1}))
    message = f"has format {FORMAT_VERSION + 1}; this sagefm reads up to {FORMAT_VERSION}.*pip install --upgrade sagefm"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("kind", ["default", "half", "published"])
def test_parameters_are_those_of_the_stored_hash(kind, tmp_path):
    folder = shutil.copytree(FOLDER / "1_sha256" / kind, tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    expected = json.loads((folder / "config.json").read_text())["sha256"]
    with pytest.raises(CheckpointError, match=f"is not the file that config.json was written with.*{expected}"):
        load_checkpoint(folder)
