"""A corpus of files: what is found, what is refused, and that nothing is read too early."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

import sagefm
from sagefm.data._files import file_sha256, open_store
from sagefm.datasets import Corpus
from sagefm.errors import ArgumentError, GenesError, MissingKeyError, SagefmError


@pytest.fixture(scope="module")
def sections():
    """Four sections of two donors; the last measured half of the genes."""
    tables = [sagefm.datasets.simulate(60, n_genes=40, rng=seed) for seed in range(4)]
    for table in tables:
        table.var_names = tables[0].var_names
    tables[3] = tables[3][:, ::2].copy()
    return tables


@pytest.fixture
def folder(sections, tmp_path):
    """As HEST-1k is laid out: st/*.h5ad and a table of more sections than there are files."""
    (tmp_path / "st").mkdir()
    for i, table in enumerate(sections[:3]):
        table.write_h5ad(tmp_path / "st" / f"T{i}.h5ad")
    sections[3].write_zarr(tmp_path / "st" / "T3.zarr")
    facts = pd.DataFrame(
        {
            "dataset": "x",
            "id": [f"T{i}" for i in range(6)],
            "patient": ["a", "a", "b", None, "c", "c"],
            "organ": ["Brain", "Brain", "Skin", "Skin", "Skin", "Skin"],
        }
    )
    facts.to_csv(tmp_path / "HEST_v1_1_0.csv", index=False)
    return tmp_path


def test_hest_folder(folder, sections):
    corpus = Corpus.from_folder(folder)
    assert corpus.names == ["T0", "T1", "T2", "T3"]
    assert list(corpus.metadata["organ"]) == ["Brain", "Brain", "Skin", "Skin"]
    assert [corpus.shape(i) for i in range(4)] == [table.shape for table in sections]
    assert not corpus.hashes
    for i, table in enumerate(sections):
        assert (corpus.read(i).X != table.X).nnz == 0
    assert corpus.subset(corpus.metadata["organ"] == "Skin").names == ["T2", "T3"]
    counts = corpus.gene_counts()
    assert counts.iloc[0] == 4
    assert counts.iloc[-1] == 3
    assert len(corpus.vocabulary()) == 40
    assert corpus.vocabulary(1.0) == [str(name) for name in sections[3].var_names]


def test_plain_folder(folder):
    corpus = Corpus.from_folder(folder / "st")
    assert len(corpus) == 4
    assert corpus.metadata.shape == (4, 0)


def test_manifest(folder, sections):
    corpus = Corpus.from_folder(folder)
    manifest = corpus.manifest()
    assert list(manifest.columns) == ["path", "sha256", "n_spots", "n_genes", "dataset", "id", "patient", "organ"]
    assert list(manifest["n_spots"]) == [table.n_obs for table in sections]
    manifest.to_csv(folder / "manifest.csv")
    again = Corpus.from_manifest(folder / "manifest.csv")
    assert again.hashes == corpus.hashes
    assert list(again.metadata["organ"]) == list(corpus.metadata["organ"])
    again.read(3)
    changed = sections[0].copy()
    changed.X[0, 0] += 1
    changed.write_h5ad(folder / "st" / "T1.h5ad")
    again.read(0)
    with pytest.raises(SagefmError, match=r"T1\.h5ad has changed: its sha256 is"):
        again.read(1)


def test_refused(folder, sections):
    st = folder / "st"
    with pytest.raises(ArgumentError, match="expected at least one section"):
        Corpus.from_folder(folder / "nowhere")
    with pytest.raises(ArgumentError, match=r"T9\.h5ad.*do not exist"):
        Corpus([st / "T9.h5ad"])
    with pytest.raises(ArgumentError, match=r"neither \.h5ad nor \.zarr"):
        Corpus([folder / "HEST_v1_1_0.csv"])
    sections[0].write_h5ad(st / "T3.h5ad")
    with pytest.raises(ArgumentError, match=r"named \['st/T3'\]"):
        Corpus.from_folder(st)
    (st / "T3.h5ad").unlink()
    with pytest.raises(MissingKeyError, match="4 sections are not in the index"):
        Corpus.from_folder(st, pd.DataFrame({"organ": ["Brain"]}, index=["T7"]))
    with pytest.raises(MissingKeyError, match="key='section' is not a column"):
        Corpus.from_folder(folder, key="section")
    (folder / "metadata.csv").write_text("id\nT0\n")
    with pytest.raises(ArgumentError, match="several tables"):
        Corpus.from_folder(folder)
    (st / "T0.h5ad").write_bytes(b"no h5ad")
    with pytest.raises(SagefmError, match=r"T0\.h5ad cannot be read"):
        Corpus.from_folder(st).read(0)
    with pytest.raises(SagefmError, match=r"T0\.h5ad cannot be read"):
        Corpus.from_folder(st).manifest()


def test_vocabulary_of_different_names(folder, sections):
    other = sections[0].copy()
    other.var_names = [f"{name}_other" for name in other.var_names]
    other.write_h5ad(folder / "st" / "T4.h5ad")
    corpus = Corpus([folder / "st" / "T0.h5ad", folder / "st" / "T4.h5ad"])
    assert len(corpus.vocabulary()) == 80
    with pytest.raises(GenesError, match="gene_key"):
        corpus.vocabulary(1.0)
    with pytest.raises(ArgumentError, match="min_share=0"):
        corpus.vocabulary(0)


def test_files_stay_closed(folder):
    """Heads leave no file open: it can be written again."""
    corpus = Corpus.from_folder(folder)
    corpus.manifest()
    corpus.vocabulary()
    ad.read_h5ad(folder / "st" / "T0.h5ad", backed="r+").file.close()


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_names_as_pandas_3_has_them(form, sections, tmp_path):
    """Stored as values and a mask, which Python 3.11 reads too."""
    table, path = sections[0].copy(), tmp_path / f"s.{form}"
    table.obs_names, table.var_names = table.obs_names.astype("string"), table.var_names.astype("string")
    with ad.settings.override(allow_write_nullable_strings=True):
        getattr(table, f"write_{form}")(path)
    corpus = Corpus([path])
    assert corpus.shape(0) == corpus.read(0).shape == table.shape
    assert set(corpus.gene_counts().index) == set(table.var_names)


def test_names_that_are_numbers(sections, tmp_path):
    for name in ("151673", "001"):
        sections[0].write_h5ad(tmp_path / f"{name}.h5ad")
    corpus = Corpus.from_folder(tmp_path, pd.DataFrame({"donor": ["a", "b"]}, index=["001", "151673"]))
    corpus.manifest().to_csv(tmp_path / "manifest.csv")
    again = Corpus.from_manifest(tmp_path / "manifest.csv")
    assert again.names == corpus.names == ["001", "151673"]
    with pytest.raises(MissingKeyError, match=r"lacks \['sha256'\]"):
        Corpus.from_manifest(corpus.manifest().drop(columns="sha256"))


def test_manifest_of_a_changed_file(folder, sections):
    corpus = Corpus.from_manifest(Corpus.from_folder(folder).manifest())
    sections[1].write_h5ad(folder / "st" / "T0.h5ad")
    with pytest.raises(SagefmError, match="has changed"):
        corpus.manifest()


def test_metadata_and_subset(folder):
    facts = pd.DataFrame({"donor": list("abcdd")}, index=["T0", "T1", "T2", "T3", "T3"])
    with pytest.raises(ArgumentError, match=r"several rows for \['T3'\]"):
        Corpus.from_folder(folder, facts)
    corpus = Corpus.from_folder(folder)
    for keep in ([0, 2], ["T0"], [True], corpus.metadata["patient"]):
        with pytest.raises(ArgumentError, match="True or False for each of 4"):
            corpus.subset(keep)


def test_doubled_gene_names_name_the_file(folder, sections):
    doubled = sections[0].copy()
    with warnings.catch_warnings(action="ignore"):
        doubled.var_names = ["A", "A", *doubled.var_names[2:]]
        doubled.write_h5ad(folder / "st" / "T1.h5ad")
    with pytest.raises(GenesError, match=r"T1\.h5ad: adata\.var_names"):
        Corpus.from_folder(folder).gene_counts()


def test_expressed_genes(folder):
    """Sorted, and fewer where more of the spots must show a gene."""
    corpus = Corpus.from_folder(folder)
    genes = corpus.expressed_genes(by="patient", min_detected=0.9)
    assert 0 < len(genes) < len(corpus.expressed_genes(min_detected=0.1))
    assert genes == sorted(genes)
    with pytest.raises(MissingKeyError, match="by='donor' is not a column of the metadata"):
        corpus.expressed_genes(by="donor")


def test_the_hash_of_a_store_is_the_same_on_windows(tmp_path, monkeypatch):
    """Paths of Windows are compared without case and with another separator."""
    names = ["a/b", "a b/c", "a.b", "B", "Z/a", "c"]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    # In the order of the names of folders, then files: "a" before "a b" before "a.b".
    order = ["B", "Z/a", "a/b", "a b/c", "a.b", "c"]
    lines = [f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in order]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert file_sha256(tmp_path) == expected
    as_on_windows = lambda path: str(path).lower().replace("/", "\\")
    monkeypatch.setattr(Path, "__lt__", lambda a, b: as_on_windows(a) < as_on_windows(b))
    assert file_sha256(tmp_path) == expected


def test_own_errors_keep_their_type_in_an_open_store(folder):
    def read():
        with open_store(folder / "st" / "T0.h5ad"):
            raise MissingKeyError("no such table")

    with pytest.raises(MissingKeyError, match=r"^no such table$"):
        read()
