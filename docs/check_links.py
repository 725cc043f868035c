"""Check the links within built pages: that files, anchors and pictures are there. No address elsewhere is asked.

python docs/check_links.py docs/_build/html
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that hold an address.
ADDRESSES = {"a": "href", "img": "src", "link": "href", "script": "src", "source": "src"}


class Page(HTMLParser):
    """Anchors and addresses of a page, and pictures that say nothing to those who do not see them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[str] = []
        self.silent: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what a tag names and where it leads."""
        values = dict(attrs)
        self.anchors |= {name for key in ("id", "name") if (name := values.get(key))}
        if address := values.get(ADDRESSES.get(tag, "")):
            self.addresses.append(address)
        if tag == "img" and values.get("alt") in (None, values.get("src")):
            self.silent.append(str(values.get("src")))


@cache
def read(path: Path) -> Page:
    """Return a page, parsed once."""
    return Page(path)


def problems(root: Path) -> tuple[int, list[str]]:
    """Return the number of pages, and what does not hold, a line each."""
    found = []
    # Templates of the theme are no pages.
    paths = [path for path in sorted(root.rglob("*.html")) if "_static" not in path.parts]
    for path in paths:
        page, where = read(path), path.relative_to(root)
        found += [f"{where}: {source} has no alternative text" for source in page.silent]
        for address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{where}: {address} leads to no file")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in read(target).anchors:
                found.append(f"{where}: {address} leads to no place of that page")
    return len(paths), found


def main() -> int:
    """Print the problems of the folder that the command line names; return 1 if there are any."""
    n_pages, found = problems(Path(sys.argv[1]).resolve())
    sys.stdout.write("".join(f"{line}\n" for line in [*found, f"{n_pages} pages, {len(found)} problems"]))
    return 1 if found or not n_pages else 0


if __name__ == "__main__":
    sys.exit(main())
