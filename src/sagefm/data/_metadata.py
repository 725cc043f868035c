"""What is known of the sections of a corpus: a table, a row a section."""

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
    """Return the table of a folder's sections, by name; see :meth:`sagefm.data._files.Corpus.from_folder`.

    Raises
    ------
    ArgumentError
        Several tables, and none was named.
    MissingKeyError
        The table has no column `key`.
    """
    if metadata is None:
        found = sorted({*root.glob("HEST*.csv"), *root.glob("metadata.csv"), *root.glob("metadata.tsv")})
        if len(found) > 1:
            raise ArgumentError(f"Found several tables, {[path.name for path in found]}: pass metadata=...")
        metadata = found[0] if found else None
    if metadata is None:
        return None
    if isinstance(metadata, pd.DataFrame):
        facts = metadata
    else:
        facts = pd.read_csv(metadata, sep="\t" if Path(metadata).suffix == ".tsv" else ",")
        key = key or ("id" if "id" in facts else str(facts.columns[0]))
    if key is None:
        return facts
    if key not in facts:
        raise MissingKeyError(f"key={key!r} is not a column of the metadata; found {list(facts.columns)}.")
    return facts.set_index(facts[key].astype(str))


def align_metadata(metadata: pd.DataFrame | None, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the sections `names`, in their order; a table without columns where nothing is known.

    Raises
    ------
    MissingKeyError
        A section has no row.
    ArgumentError
        A section has several.
    """
    metadata = pd.DataFrame(index=names) if metadata is None else metadata
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
