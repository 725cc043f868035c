"""What is released: the same files from every build, and in the wheel what it should hold and no more."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def tracked() -> list[str]:
    """Return the files of the checkout that git knows."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def build(folder: Path, when: float) -> dict[str, Path]:
    """Copy the checkout to a folder, as if it were written at a time, and return the files that are built there by name."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
        os.utime(folder / name, (when, when))
    subprocess.run([sys.executable, "-m", "hatchling", "build"], cwd=folder, capture_output=True, check=True)
    return {path.name: path for path in (folder / "dist").iterdir()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_builds_are_equal(tmp_path: Path) -> None:
    """In other folders and of files of other times; the wheel holds the package, its data, licenses, and nothing else."""
    pytest.importorskip("hatchling")
    first, second = build(tmp_path / "one", time.time()), build(tmp_path / "other" / "two", 1e9)
    assert len(first) == 2
    assert {name: sha256(path) for name, path in first.items()} == {name: sha256(path) for name, path in second.items()}
    (wheel,) = (path for path in first.values() if path.suffix == ".whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    metadata = {name for name in names if ".dist-info/" in name}
    assert {*names} - metadata == package
    assert {"sagefm/py.typed", "sagefm/checkpoint/weights/default/model.safetensors"} <= package
    assert {name.partition(".dist-info/")[2] for name in metadata} >= {
        "METADATA",
        "entry_points.txt",
        "licenses/LICENSE",
        "licenses/src/sagefm/datasets/files/LICENSES/3dst-BSD-3-Clause.txt",
    }
