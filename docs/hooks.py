"""What ``make docs`` does to the pages so that they read alike in the repository and in the site.

Pages link files outside docs/ (``../recipes/NAME.yaml``, ``../README.md``) as a repository browser
wants it. In the site each linked file becomes a page of its own, its text in a code block.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\]\(\.\./(?P<path>[\w./-]+)(?:#[\w-]*)?\)")
"""A Markdown link from a page in docs/ to a file outside."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh", ".toml": "toml"}


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page for each file outside docs/ that a page links.

    Raises:
        FileNotFoundError: a page links a file that does not exist.
    """
    pages = [file.content_string for file in files.documentation_pages()]
    for path in sorted({path for text in pages for path in outside(text)}):
        content = source_page(path, (ROOT / path).read_text(encoding="utf-8"))
        level = InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page_of(path), content=content, inclusion=level))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Point links to files outside docs/ at their pages."""
    here = posixpath.dirname(page.file.src_uri)

    def pointed(match: re.Match[str]) -> str:
        return f"]({posixpath.relpath(page_of(match['path']), here or '.')})"

    return OUTSIDE.sub(pointed, markdown)


def outside(text: str) -> set[str]:
    """Return the files outside docs/ that a page links, relative to the repository."""
    return {match["path"] for match in OUTSIDE.finditer(text)}


def page_of(path: str) -> str:
    """Return the site's page for a file of the repository."""
    return f"files/{path}.md"


def source_page(path: str, text: str) -> str:
    """Return a file as a page that search leaves out: its path, then its text in a code block."""
    suffix = posixpath.splitext(path)[1]
    fence = "`" * (3 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    head = "---\nsearch:\n  exclude: true\n---\n"
    return f"{head}# {path}\n\n{fence}{LANGUAGES.get(suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
