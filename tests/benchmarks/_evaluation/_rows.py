"""Rows of a table in a file, so that a run that was stopped goes on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


class Rows:
    """Rows of a CSV file, written as they come.

    Parameters
    ----------
    path
        The file. Its rows, if it exists, are those of earlier runs.
    keys
        Columns of strings that together name a row.
    """

    def __init__(self, path: Path, keys: list[str]) -> None:
        self.path, self.keys = path, keys
        self._rows: dict[tuple[str, ...], dict[str, object]] = {}
        if path.exists():
            table = pd.read_csv(path, dtype=dict.fromkeys(keys, str))
            table[keys] = table[keys].fillna("")
            for row in table.to_dict("records"):
                self._rows[self._key(row)] = row

    def _key(self, row: dict[str, object]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.keys)

    def find(self, key: dict[str, object]) -> dict[str, object] | None:
        """Return the row of a key; None where there is none."""
        return self._rows.get(self._key(key))

    def add(self, row: dict[str, object]) -> dict[str, object]:
        """Write a row, and return it."""
        self._rows[self._key(row)] = row
        part = self.path.with_suffix(".part")
        pd.DataFrame(list(self._rows.values())).to_csv(part, index=False)
        part.replace(self.path)
        return row
