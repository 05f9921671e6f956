"""README is one page, every link in it and in docs leads somewhere, and what they list is complete."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ACTIONS = ROOT / "fitasks" / "graph" / "actions"
PAGES = sorted([README, ROOT / "ARCHITECTURE.md", *(ROOT / "docs").rglob("*.md")])
ELSEWHERE = re.compile(r"[a-z]+:")


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def links(page: Path) -> Iterator[str]:
    """Of links and pictures, those that lead into this repository."""
    for inline in tokens(page):
        for token in inline.children or ():
            target = str(token.attrs.get("href") or token.attrs.get("src") or "")
            if target and not ELSEWHERE.match(target):
                yield unquote(target)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of headings; of the same ones the second gets -1."""
    found: list[str] = []
    for opening, inline in zip(tokens(page), tokens(page)[1:], strict=False):
        if opening.type == "heading_open":
            text = "".join(token.content for token in inline.children or ())
            found.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return {name if not (before := found[:i].count(name)) else f"{name}-{before}" for i, name in enumerate(found)}


def broken(page: Path) -> list[str]:
    """Links of a page whose file isn't there, or has no such heading."""
    said = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            said.append(f"{page.name}: {link}")
    return said


def test_every_link_leads_somewhere() -> None:
    assert [said for page in PAGES for said in broken(page)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    other, page = tmp_path / "other.md", tmp_path / "page.md"
    other.write_text("# `doit list`: what's there?\n## Twice\n## Twice\n```\n# no heading\n```\n")
    good = "[a](other.md#doit-list-whats-there) [b](other.md#twice-1) [c](#here) [d](https://e.org/gone#x)"
    page.write_text(f"# Here\n{good} ![e](none.png)\n\n| |\n|---|\n| [f](other.md#no-heading) |\n\n`[g](gone.md)`\n")
    assert broken(page) == ["page.md: none.png", "page.md: other.md#no-heading"]


def test_every_page_is_reached_from_readme() -> None:
    reached, left = {README}, [README]
    while left:
        page = left.pop()
        found = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ".md" in link}
        left += found - reached
        reached |= found
    assert [page.name for page in PAGES if page not in reached] == []


def test_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 120


def test_readme_has_every_task() -> None:
    dodo = ast.parse((ROOT / "fitasks/dodo.py").read_text())
    named = [node for node in ast.walk(dodo) if isinstance(node, ast.Attribute)]
    tasks = {node.attr for node in named if ast.unparse(node.value) in {path.stem for path in ACTIONS.glob("*.py")}}
    told = README.read_text()
    assert {task for task in tasks if f"`{task}`" not in told} == {"apply_cudart_policy"}  # of the private task _cudart


def test_the_reference_has_every_key_of_kernels_yaml() -> None:
    schema = json.loads((ROOT / "fitasks/config/kernels.schema.json").read_text())
    entries = [schema, *(schema["$defs"][name] for name in ("ServingModel", "ModelModel", "StoreModel", "EntryModel"))]
    told = (ROOT / "docs/kernels-yaml.md").read_text()
    assert [key for entry in entries for key in entry["properties"] if f"`{key}`" not in told] == []


def test_readmes_kernels_yaml_is_one(tmp_path: Path) -> None:
    from fitasks.config.load import load_config

    shown = next(token.content for token in tokens(README) if token.type == "fence" and token.info == "yaml")
    (file := tmp_path / "kernels.yaml").write_text(shown)
    labels = {kernel.label for kernel in load_config(file).kernels}
    assert {"decode-bf16-d128", "prefill-fa2-bf16-d128", "prefill-fa3-bf16-d128"} <= labels
