"""The code of a page of the documentation, to be run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def run_recipe(page: str, heading: str, **names: Any) -> dict[str, Any]:
    """Run the Python blocks under a heading with some names; return these and those that the code made."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(compile("\n".join(blocks), f"{page}: {heading}", "exec"), names)
    return names
