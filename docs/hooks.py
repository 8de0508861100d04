"""What the site has beside docs/: pages that lie elsewhere in the repository, and a page of the reference a room.

MkDocs calls the functions named `on_*`. Links are written for GitHub, relative to the file they stand in; here they are
turned to the site's pages, and where a file is none, to the repository, or without `repo_url` to plain text.
"""

from __future__ import annotations

import posixpath
import re
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "compt_fast"
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "recipes/README.md": "recipes.md",
    "kernels/README.md": "kernels.md",
    "compt_fast/mini/README.md": "mini.md",
}
"""Files of the repository that are pages of the site, and which."""
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def rooms() -> dict[str, list[str]]:
    """The modules of each room of the package by dotted names, and under "commands" those beside the rooms."""
    found: dict[str, list[str]] = {"commands": []}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            room = parts[1] if len(parts) > 2 else "commands"
            found.setdefault(room, []).append(".".join(parts).removesuffix(".__init__"))
    return found


def reference(room: str, modules: list[str]) -> str:
    """The page of a room: what mkdocstrings makes of the docstrings of its modules."""
    head = "The commands" if room == "commands" else f"`{PACKAGE}.{room}`"
    return "\n\n".join([f"# {head}", *(f"::: {module}" for module in modules)]) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference behind those of `nav`."""
    config.nav = [*(config.nav or []), {"Reference": [{room: f"reference/{room}.md"} for room in rooms()]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for room, modules in rooms().items():
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room, modules)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page to the site."""
    places = {page: source for source, page in ELSEWHERE.items()}
    uri = page.file.src_uri
    place = places.get(uri, f"docs/{uri}")
    return LINK.sub(partial(turned, uri=uri, place=place, repository=config.repo_url), markdown)


def turned(link: re.Match[str], uri: str, place: str, repository: str | None) -> str:
    """The link of the page `uri`, whose text stands in the repository's file `place`, as it is on the site.

    What leads nowhere stays as it is, for MkDocs to find.
    """
    target, mark, anchor = link["target"].partition("#")
    if not target or ":" in target:
        return link[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
    page = ELSEWHERE.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
    if page is not None:
        there = posixpath.relpath(page, posixpath.dirname(uri) or ".")
    elif not (ROOT / file).exists():
        return link[0]
    elif repository:
        there = f"{repository.rstrip('/')}/blob/HEAD/{file}"
    else:
        return link["text"]
    return f"{link['image']}[{link['text']}]({there}{mark}{anchor})"
