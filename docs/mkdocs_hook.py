"""For mkdocs.yml: README and ARCHITECTURE, which lie above docs/ for GitHub's sake, as pages of the site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ABOVE = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from above."""
    for name, page in ABOVE.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_below(text, "")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead what points above docs/ to those pages."""
    return _below(markdown, "../")


def _below(text: str, above: str) -> str:
    for name, page in ABOVE.items():
        text = text.replace(f"]({above}{name}", f"]({page}")
    return text
