"""Sections of HEST-1k from a folder of the user's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd

from sagefm._arguments import as_path, listed
from sagefm.data._corpus import Corpus
from sagefm.data._files import find_metadata
from sagefm.errors import ArgumentError, MissingKeyError
from sagefm.io._find import hest_files

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

#: Technologies whose spots are as far apart as a neighborhood of 15 expects.
SPOTS = ("Visium", "Spatial Transcriptomics")


def hest(
    folder: str | os.PathLike[str],
    *,
    organ: str | Sequence[str] | None = None,
    species: str | Sequence[str] | None = "Homo sapiens",
    technology: str | Sequence[str] | None = SPOTS,
    metadata: str | os.PathLike[str] | pd.DataFrame | None = None,
) -> Corpus:
    """Return the sections of a folder of HEST-1k that suit the models: human, and of spots.

    Nothing is downloaded: the folder is what Hugging Face's ``MahmoodLab/hest`` holds, whole or in part, with counts in
    ``st``. Sections are read one at a time, when they are needed.

    Parameters
    ----------
    folder
        Folder that contains ``st``.
    organ, species, technology
        Values of the columns ``organ``, ``species`` and ``st_technology`` of the metadata; None keeps all. Without
        metadata, all sections are kept, and `organ` cannot be asked for.
    metadata
        Table of sections, or its file. Default: ``HEST*.csv`` in the folder, or else the files ``metadata/*.json``.

    Returns
    -------
    A corpus: ``corpus.read(i)`` is a section, ``corpus.metadata`` the table, with a row for each.

    Raises
    ------
    sagefm.errors.SagefmError
        There is no folder ``st`` with sections, or no section has the values that were asked for.

    References
    ----------
    Jaume et al., "HEST-1k: A Dataset for Spatial Transcriptomics and Histology Image Analysis", NeurIPS 2024.

    Examples
    --------
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> import sagefm
    >>> Path("hest/st").mkdir(parents=True)
    >>> sagefm.datasets.synovium().write_h5ad("hest/st/MISC1.h5ad")
    >>> facts = {"id": ["MISC1"], "organ": ["Joint"], "species": ["Homo sapiens"], "st_technology": ["Visium"]}
    >>> pd.DataFrame(facts).to_csv("hest/HEST_v1_1_0.csv", index=False)
    >>> corpus = sagefm.datasets.hest("hest", organ="Joint")
    >>> corpus.names, corpus.read(0).n_obs
    (['MISC1'], 302)
    """
    root = as_path(folder, name="folder").expanduser()
    paths = hest_files(root)
    if not paths:
        raise ArgumentError(
            f"{root} holds no sections of HEST-1k. Expected the folder that contains st/, with a file .h5ad for each "
            f"section; of another folder of sections: sagefm.datasets.Corpus.from_folder({str(root)!r})"
        )
    table = find_metadata(root, metadata, None)
    if table is None:
        table = _from_json(root / "metadata")
    if table is None:
        if organ is not None:
            raise MissingKeyError(
                f"organ={organ!r} needs the metadata, which {root} lacks. Copy HEST_v1_*.csv there, or pass metadata=... ."
            )
        return Corpus(paths)
    table = table.set_axis(table.index.astype(str))
    for column, wanted in (("species", species), ("st_technology", technology), ("organ", organ)):
        if wanted is not None:
            table = _keep(table, column, wanted)
    return Corpus([path for path in paths if path.stem in table.index], table)


def _keep(table: pd.DataFrame, column: str, wanted: str | Sequence[str]) -> pd.DataFrame:
    """Return the rows of a table that have one of the wanted values."""
    if column not in table:
        raise MissingKeyError(f"The metadata have no column {column!r}; found {list(table.columns)}.")
    argument = "technology" if column == "st_technology" else column
    kept = table[table[column].isin(listed(wanted, argument=argument, what="names"))]
    if kept.empty:
        raise ArgumentError(
            f"{argument}={wanted!r} is that of no section; found {sorted(map(str, table[column].unique()))}. "
            f"Pass one of these, or {argument}=None."
        )
    return kept


def _from_json(folder: Path) -> pd.DataFrame | None:
    """Return the table of the files ``ID.json``, or None if there are none."""
    rows: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return pd.DataFrame.from_dict(rows, orient="index") if rows else None
