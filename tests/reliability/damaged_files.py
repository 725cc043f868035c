"""Damaged files of sections, and commands that get them; see inputs.py."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
from click.testing import CliRunner

import sagefm
from tests.reliability.damages import DAMAGES, Rng
from tests.reliability.inputs import _printable, bases, model, timed
from tests.space_ranger import write_folder

# Writers: a section as people have it


def _h5ad(adata: ad.AnnData, path: Path) -> Path:
    path = path / "section.h5ad"
    adata.write_h5ad(path)
    return path


def _zarr(adata: ad.AnnData, path: Path) -> Path:
    path = path / "section.zarr"
    adata.write_zarr(path)
    return path


def _h5mu(adata: ad.AnnData, path: Path) -> Path:
    import mudata

    path = path / "section.h5mu"
    mudata.MuData({"rna": adata}).write(path)
    return path


def _space_ranger(adata: ad.AnnData, path: Path) -> Path:
    return write_folder(path / "sample" / "outs", adata, adata[:0].copy())


def _space_ranger_1(adata: ad.AnnData, path: Path) -> Path:
    return write_folder(path / "sample" / "outs", adata, adata[:0].copy(), version=1, counts="mtx", images=False)


def _tsv(adata: ad.AnnData, path: Path) -> Path:
    path = path / "section.tsv"
    names = [f"{x}x{y}" for x, y in adata.obs[["array_col", "array_row"]].to_numpy()]
    adata.to_df().set_axis(names, axis=0).to_csv(path, sep="\t")
    return path


WRITERS: list[Callable[[ad.AnnData, Path], Path]] = [
    _h5ad,
    _h5ad,
    _h5ad,
    _zarr,
    _h5mu,
    _space_ranger,
    _space_ranger_1,
    _tsv,
]


# Damages of a file, or of a file of a folder


def _a_file(path: Path, rng: Rng) -> Path:
    files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
    return files[rng.integers(len(files))]


def _bytes(change: Callable[[bytes, Rng], bytes]) -> Callable[[Path, Rng], None]:
    def apply(path: Path, rng: Rng) -> None:
        file = _a_file(path, rng)
        file.write_bytes(change(file.read_bytes(), rng))

    return apply


def _flip(content: bytes, rng: Rng) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.integers(1, 30) if content else 0):
        changed[rng.integers(len(changed))] = rng.integers(256)
    return bytes(changed)


def _no_file(path: Path, rng: Rng) -> None:
    _a_file(path, rng).unlink()


def _folder_for_file(path: Path, rng: Rng) -> None:
    file = _a_file(path, rng)
    file.unlink()
    file.mkdir()


def _file_for_folder(path: Path, rng: Rng) -> None:
    folders = sorted(part for part in path.rglob("*") if part.is_dir())
    folder = folders[rng.integers(len(folders))]
    shutil.rmtree(folder)
    folder.write_text("x")


def _link(target: str) -> Callable[[Path, Rng], None]:
    def apply(path: Path, rng: Rng) -> None:
        file = _a_file(path, rng)
        file.unlink()
        file.symlink_to(target or file.name)

    return apply


def _pipe(path: Path, _: Rng) -> None:
    path.unlink()  # a folder has it not: nobody's store holds one
    os.mkfifo(path)


def _no_permission(path: Path, rng: Rng) -> None:
    _a_file(path, rng).chmod(0)


def _encoded(encoding: str) -> Callable[[Path, Rng], None]:
    return _bytes(lambda content, _: content.decode("latin-1").encode(encoding, errors="replace"))


def _h5(change: Callable[[h5py.File, Rng], None]) -> Callable[[Path, Rng], None]:
    """Return a function that edits an HDF5 file; it raises for others, which cannot have that damage."""

    def apply(path: Path, rng: Rng) -> None:
        with h5py.File(path, "r+") as file:
            change(file["mod/rna"] if "mod" in file else file, rng)

    return apply


def _without(*names: str) -> Callable[[h5py.File, Rng], None]:
    def change(file: h5py.File, _: Rng) -> None:
        for name in names:
            del file[name]

    return change


def _attribute(element: str, name: str, value: Any) -> Callable[[h5py.File, Rng], None]:
    def change(file: h5py.File, _: Rng) -> None:
        file[element].attrs[name] = value

    return change


def _replace(name: str, change: Callable[[Any, Rng], Any]) -> Callable[[h5py.File, Rng], None]:
    def apply(file: h5py.File, rng: Rng) -> None:
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        file[name] = change(values, rng)
        file[name].attrs.update(attributes)

    return apply


def _loop(file: h5py.File, _: Rng) -> None:
    file["uns/loop"] = h5py.SoftLink("/uns/loop")


def _outside(file: h5py.File, _: Rng) -> None:
    file["uns/outside"] = h5py.ExternalLink("/nowhere.h5", "/x")


def _text(pattern: str, change: Callable[[str], str]) -> Callable[[Path, Rng], None]:
    """Return a function that edits a text file of a folder, by its name."""

    def apply(path: Path, _: Rng) -> None:
        (file,) = path.rglob(pattern)
        file.write_text(change(file.read_text()))

    return apply


def _positions(change: Callable[[list[str]], list[str]]) -> Callable[[Path, Rng], None]:
    return _text("tissue_positions*.csv", lambda text: "\n".join(change(text.splitlines())))


FILE_DAMAGES: dict[str, Callable[[Path, Rng], None]] = {
    "empty": _bytes(lambda content, _: b""),
    "cut": _bytes(lambda content, rng: content[: rng.integers(len(content) + 1)]),
    "cut by a byte": _bytes(lambda content, _: content[:-1]),
    "bytes changed": _bytes(_flip),
    "bytes changed, many": _bytes(lambda content, rng: _flip(_flip(_flip(content, rng), rng), rng)),
    "random": _bytes(lambda content, rng: rng.bytes(2000)),
    "zeros": _bytes(lambda content, _: bytes(len(content))),
    "twice": _bytes(lambda content, _: content + content),
    "text": _bytes(lambda content, _: b"Not found\n"),
    "a web page": _bytes(lambda content, _: b"<!DOCTYPE html><html><body>404</body></html>"),
    "a byte order mark": _bytes(lambda content, _: b"\xef\xbb\xbf" + content),
    "compressed": _bytes(lambda content, _: gzip.compress(content)),
    "UTF-16": _encoded("utf-16"),
    "lines of Windows": _bytes(lambda content, _: content.replace(b"\n", b"\r\n")),
    "commas of Germany": _bytes(lambda content, _: content.replace(b",", b";").replace(b".", b",")),
    "no file": _no_file,
    "a folder in its place": _folder_for_file,
    "a file in the place of a folder": _file_for_folder,
    "a link to itself": _link(""),
    "a link to nothing": _link("nowhere"),
    "a link to a device": _link("/dev/null"),
    "a pipe": _pipe,
    "no permission": _no_permission,
    "HDF5 without X": _h5(_without("X")),
    "HDF5 without obs": _h5(_without("obs")),
    "HDF5 without var": _h5(_without("var")),
    "HDF5 without obsm": _h5(_without("obsm")),
    "HDF5 without names of spots": _h5(lambda file, _: file["obs"].attrs.pop("_index", None)),
    "HDF5 of a newer encoding": _h5(_attribute("X", "encoding-version", "99.0.0")),
    "HDF5 of another encoding": _h5(_attribute("X", "encoding-type", "quantum_matrix")),
    "HDF5 of no encoding": _h5(lambda file, _: file["obs"].attrs.clear()),
    "HDF5 of another shape": _h5(_attribute("X", "shape", np.array([3, 5]))),
    "HDF5 of a huge shape": _h5(_attribute("X", "shape", np.array([2**40, 2**40]))),
    "HDF5 with columns beyond the last": _h5(_replace("X/indices", lambda x, _: x + 10**6)),
    "HDF5 with negative columns": _h5(_replace("X/indices", lambda x, _: x - 10**6)),
    "HDF5 with rows out of order": _h5(_replace("X/indptr", lambda x, _: x[::-1].copy())),
    "HDF5 with fewer values": _h5(_replace("X/data", lambda x, _: x[: len(x) // 2])),
    "HDF5 with values of text": _h5(_replace("X/data", lambda x, _: np.array([b"a"] * len(x)))),
    "HDF5 with fewer places": _h5(_replace("obsm/spatial", lambda x, _: x[:7])),
    "HDF5 with a loop": _h5(_loop),
    "HDF5 with a link outside": _h5(_outside),
    "positions of other spots": _positions(lambda lines: [f"X{line}" for line in lines]),
    "positions without a column": _positions(lambda lines: [line.rpartition(",")[0] for line in lines]),
    "positions in words": _positions(lambda lines: [*lines[:1], *(line.rpartition(",")[0] + ",left" for line in lines[1:])]),
    "positions twice": _positions(lambda lines: [*lines, *lines[1:]]),
    "half of the positions": _positions(lambda lines: lines[: len(lines) // 2]),
    "positions beside the tissue": _positions(lambda lines: [line.replace("-1,1,", "-1,0,") for line in lines]),
    "positions that are missing": _positions(lambda lines: [*lines[:1], *(line.rpartition(",")[0] + "," for line in lines[1:])]),
    "no positions": _positions(lambda lines: lines[:1]),
    "scale factors that are no JSON": _text("scalefactors*.json", lambda text: text[:-5]),
    "scale factors that are a list": _text("scalefactors*.json", lambda _: "[1, 2]"),
    "scale factors in words": _text("scalefactors*.json", lambda text: json.dumps(dict.fromkeys(json.loads(text), "a"))),
    "scale factors of NaN": _text("scalefactors*.json", lambda text: json.dumps(dict.fromkeys(json.loads(text), float("nan")))),
}  # fmt: skip


# Names

NAMES: list[str] = [
    "a b.h5ad", "ä中.h5ad", "-m.h5ad", "x.H5AD", "x.h5ad.gz", "x.txt", "x", "[x].h5ad", "a\x1b[31m.h5ad", "a\nb.h5ad",
    f"{'x' * 200}.h5ad", ".h5ad", "x.zarr", "x.csv", "*.h5ad", "%s.h5ad", "~.h5ad", "nowhere.tsv", "a\udcff.h5ad",
]  # fmt: skip


# Commands


@cache
def _model(folder: Path) -> Path:
    from sagefm.checkpoint._checkpoint import save_checkpoint

    return save_checkpoint(model(), folder / "model")


def _arguments(
    section: Path, others: list[Path], folder: Path, genes: list[str], rng: Rng
) -> tuple[list[str], Path | None]:
    """Return a command with its arguments, and the path that it writes."""
    out = folder / "out"
    inputs = [str(section), *map(str, others)]
    name = (
        "out"
        if others
        else ["out.h5ad", "out.zarr", "out.h5ad", "out.h5mu", "out.txt"][rng.choice(5, p=[0.5, 0.2, 0.2, 0.05, 0.05])]
    )
    stored, sources, targets = out / name, ",".join(genes[:2]), ",".join(genes[2:4])
    saved, recipe = _model(folder), folder / "recipe.json"
    recipe.write_text('{"hidden": [6, 4]}')
    commands: list[tuple[list[str], Path | None]] = [
        (["info", *inputs, "-m", str(saved)], None),
        (["info", *inputs, "-m", str(saved), "--json"], None),
        (["embed", *inputs, "-m", str(saved), "-o", str(stored)], stored),
        (["embed", *inputs, "-m", str(saved), "-o", str(stored), "--lazy"], stored),
        (["embed", *inputs, "-m", str(saved), "-o", str(stored), "--use-raw"], stored),
        (["embed", *inputs, "-m", str(saved), "-o", str(section), "--overwrite"], None),
        (["impute", *inputs, "-m", str(saved), "-o", str(stored), "--genes", sources], stored),
        (["impute", *inputs, "-m", "none", "-o", str(stored), "--genes", sources, "--lazy"], stored),
        (["domains", *inputs, "-o", str(stored), "-n", "2"], stored),
        (["network", *inputs, "-o", str(stored), "--sources", sources, "--targets", targets], stored),
        (["perturb", *inputs, "-m", str(saved), "-o", str(stored), "--sources", sources, "--targets", targets], stored),
        (
            [
                "perturb",
                *inputs,
                "-m",
                str(saved),
                "-o",
                str(stored),
                "--pairs",
                str(section if section.is_file() else saved),
            ],
            stored,
        ),
        (["train", *inputs, "-o", str(out / "trained"), "--epochs", "1", "--hidden", "6,4"], out / "trained"),
        (
            ["pretrain", str(section.parent), "-o", str(out / "trained"), "--epochs", "1", "--config", str(recipe)],
            out / "trained",
        ),
        (["report", *inputs, "-m", str(saved), "-o", str(out / "page.html"), "--genes", sources], out / "page.html"),
        (["convert", str(section), "-o", str(out / "trained")], out / "trained"),
        (["embed", *inputs, "-m", str(section), "-o", str(stored)], stored),
    ]
    command, output = commands[rng.integers(len(commands))]
    library = ["--library-key", "library"] if command[0] not in ("convert", "pretrain") and rng.random() < 0.4 else []
    return [*command, *library], output


def _contents(path: Path) -> dict[str, Any]:
    """Return what is at a path, without opening pipes and what may not be read."""
    parts = [part for part in (path, *(sorted(path.rglob("*")) if path.is_dir() else [])) if os.path.lexists(part)]
    return {
        str(part): (part.lstat().st_mode, part.read_bytes() if part.is_file() and not part.is_symlink() else b"") for part in parts
    }  # fmt: skip


def _made(seed: int, number: int, folder: Path) -> tuple[str, Path, list[str]] | None:
    """Return what is wrong with a section, its path, and some of its genes; None if it cannot be so."""
    rng = np.random.default_rng([seed, number, 2])
    base = ["one", "two", "cortex", "cortex", "synovium"][rng.integers(5)]
    write = WRITERS[rng.integers(5)] if base != "cortex" else WRITERS[rng.integers(len(WRITERS))]
    adata, words = bases()[base].copy(), []
    kind = rng.integers(4)
    folder.mkdir()
    try:
        with warnings.catch_warnings(), ad.settings.override(allow_write_nullable_strings=True):
            warnings.simplefilter("ignore")
            for i in rng.permutation(len(DAMAGES))[: 0 if kind == 0 else rng.integers(1, 3)]:
                DAMAGES[i].apply(adata, rng)
                words.append(DAMAGES[i].name)
            path = write(adata, folder)
        if kind in (0, 1):
            names = [*FILE_DAMAGES]
            for i in rng.permutation(len(names)):
                try:
                    FILE_DAMAGES[names[i]](path, rng)
                except Exception:  # noqa: BLE001 of a file of another kind
                    continue
                words.append(names[i])
                break
        if kind == 2 and rng.random() < 0.3:
            name = NAMES[rng.integers(len(NAMES))]
            path = path.rename(folder / name)
            words.append(f"called {name!r}")
    except Exception:  # noqa: BLE001 a library does not write it
        return None
    return f"{base} by {write.__name__} with {', '.join(words)}", path, [str(gene) for gene in adata.var_names[:4]]


def _judge(seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Return a case, in words, and what came of it."""
    rng = np.random.default_rng([seed, number, 3])
    place = folder / str(number)
    section = _made(seed, number, place)
    if section is None:
        return "", "not made"
    words, path, genes = section
    good = folder / "good.h5ad"
    if not good.exists():
        bases()["one"].write_h5ad(good)
    if rng.random() < 0.15:
        return f"read({words})", _read(path)
    others = [good] if rng.random() < 0.2 else []
    command, output = _arguments(path, others, folder, genes, rng)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    overwritten = "--overwrite" in command
    before = {} if overwritten else _contents(path)
    what = _run(command, output)
    if not overwritten and _contents(path) != before:
        what = "changed its input"
    left = [
        part.name for part in (*out.iterdir(), *place.iterdir()) if part.name.startswith(".") and part.name != path.name
    ]
    if left:
        what = f"left {left}"
    shutil.rmtree(out)
    return f"sagefm {' '.join(map(ascii, command))}: {words}", what


def _run(command: list[str], output: Path | None) -> str:
    """Run a command; return "result" or "SagefmError" as it ended, or what is wrong."""
    result = CliRunner().invoke(sagefm.cli.main, command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {str(result.exception)[:200]}"
    if result.exit_code not in (0, 1, 2):
        return f"exit status {result.exit_code}: {result.stderr[-200:]}"
    for words in ("Traceback", "did not expect this"):
        if words in result.output:
            return f"{words}: {result.stderr[-400:]}"
    if result.exit_code and not result.stderr.strip():
        return "no message"
    try:
        _printable(result.output[-10_000:])
    except (AssertionError, UnicodeError) as wrong:
        return str(wrong)
    if result.exit_code == 0 and output is not None and not output.exists():
        return "no output"
    single = output is not None and output.suffix in (".h5ad", ".zarr", ".h5mu")
    if result.exit_code and single and output is not None and output.exists():
        return "an output beside the error"
    return "result" if result.exit_code == 0 else "SagefmError"


def _read(path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            section = sagefm.io.read(path)
    except sagefm.errors.SagefmError as error:
        try:
            _printable(str(error))
        except (AssertionError, UnicodeError) as wrong:
            return str(wrong)
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 that there is none is what is tested
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "result" if hasattr(section, "n_obs") or hasattr(section, "tables") else f"read {type(section).__name__}"


def command_cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield a case, in words, and what came of it."""
    from sagefm.cli import main  # noqa: F401 imported before anything is timed

    for number in range(n):
        words: list[str] = []

        def judge(number: int = number, words: list[str] = words) -> str:
            said, what = _judge(seed, number, folder)
            words.append(said)
            return what

        what = timed(judge)
        yield f"{number}: {words[0] if words else ''}", what
        shutil.rmtree(folder / str(number), ignore_errors=True)
        shutil.rmtree(folder / "out", ignore_errors=True)
