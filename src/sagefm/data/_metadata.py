"""What is known of the sections of a corpus: one row per section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sagefm.errors import ArgumentError, MissingKeyError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


def find_metadata(
    root: Path, metadata: str | os.PathLike[str] | pd.DataFrame | None = None, key: str | None = None
) -> pd.DataFrame | None:
    """Return the table of a folder's sections, by name; see :meth:`sagefm.datasets.Corpus.from_folder`."""
    if metadata is None:
        files = sorted({*root.glob("HEST*.csv"), *root.glob("metadata.csv"), *root.glob("metadata.tsv")})
        if len(files) > 1:
            raise ArgumentError(f"Found several tables, {[path.name for path in files]}: pass metadata=...")
        if not files:
            return None
        metadata = files[0]
    if isinstance(metadata, pd.DataFrame):
        table = metadata
    else:
        table = pd.read_csv(metadata, sep="\t" if Path(metadata).suffix == ".tsv" else ",")
        key = key or ("id" if "id" in table else str(table.columns[0]))
    if key is None:
        return table
    if key not in table:
        raise MissingKeyError(f"key={key!r} is not a column of the metadata; found {list(table.columns)}.")
    return table.set_index(table[key].astype(str))


def align_metadata(metadata: pd.DataFrame | None, names: Sequence[str]) -> pd.DataFrame:
    """Return one row for each of `names`, in their order; without columns where there is no table."""
    if metadata is None:
        return pd.DataFrame(index=names)
    metadata = metadata.set_axis(metadata.index.astype(str))
    unknown = [name for name in names if name not in metadata.index]
    if unknown:
        raise MissingKeyError(
            f"{len(unknown)} sections are not in the index of the metadata, e.g. {unknown[:3]}; "
            f"it holds {list(metadata.index[:3])}. Expected a row for each file, by its name without suffix."
        )
    doubled = metadata.index[metadata.index.duplicated() & metadata.index.isin(names)]
    if len(doubled):
        raise ArgumentError(f"The metadata have several rows for {list(doubled[:3])}; expected one for each section.")
    return metadata.loc[names]
