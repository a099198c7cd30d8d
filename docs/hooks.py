"""Add pages and files outside docs/ to the site, so that one link works in the repository and on the site."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
FILES = (
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "configs/*.py",
    "launch/*",
    "pneumojax/modes.py",
    "pneumojax/runtime/*.py",
)
MOVED = {"README.md": "index.md", "launch/README.md": "operations.md", "docs/benchmarks": "BENCHMARKS.md"}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own pages, and the files that pages link to."""
    root = Path(config.config_file_path).parent
    found = [path for pattern in (*PAGES, *FILES) for path in sorted(root.glob(pattern)) if path.is_file()]
    for path in found:
        name = path.relative_to(root).as_posix()
        if name not in MOVED:
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite each link from where it points in the repository to where that lies on the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in PAGES else f"docs/{here}")

    def on_site(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        target = MOVED.get(target, target)
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return _LINK.sub(on_site, markdown)
