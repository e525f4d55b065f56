"""Check the links of the built site that `zensical build --strict` does not: to pictures, files and
anchors in HTML. `python docs/check_links.py site`; the pages' own links out of the site are not
followed."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors and links of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what the element is called and where it leads."""
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name in {"href", "src"} and tag != "link":
                self.links.append(value or "")


def dead_links(site: Path) -> list[str]:
    """Return "page: link" for each link to a file or an anchor that the site does not have."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    pages.pop((site / "404.html").resolve(), None)  # served at any address: its links are absolute
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            inside = target.is_relative_to(site.resolve()) and target.is_file()
            fragment = unquote(parts.fragment)
            reachable = not fragment or target not in pages or fragment in pages[target].anchors
            if not inside or not reachable:
                dead.append(f"{path.relative_to(site.resolve())}: {link}")
    return dead


if __name__ == "__main__":
    if dead := dead_links(Path(sys.argv[1])):
        sys.exit("dead links:\n" + "\n".join(dead))
