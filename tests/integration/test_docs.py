"""README.md and docs/: flags exist, links lead somewhere, the list of files is complete."""

import contextlib
import fnmatch
import functools
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
INDENTED = re.compile(r"(?:^ {4}.*\n?)+", re.M)
SCRIPT = re.compile(r"(?:^|[\s/])(?P<script>train|eval|tools/\w+)\.py(?P<words>(?:\s.*)?)$")
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
FLAG = re.compile(r"--[a-z][\w.-]*")
HANDED_ON = ("bench_baseline", "bench_mixture", "peer", "profile_throughput")
"""Tools that take train.py's flags beside their own."""


def commands() -> Iterator[tuple[str, str, str]]:
    """Each command line of ours that a page quotes: page, script, words."""
    for page in PAGES:
        fenced, text = FENCED.findall(page.read_text()), FENCED.sub("", page.read_text())
        quoted = fenced + INDENTED.findall(text)
        quoted += [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        for block in quoted:
            for line in block.replace("\\\n", " ").splitlines():
                line = re.split(r"\s#\s|\s{2,}#", line)[0].strip().rstrip("|")
                if demo := re.search(r'make train ARGS="([^"]*)"', line):
                    yield page.name, "train", demo[1]
                elif found := SCRIPT.search(line):
                    yield page.name, found["script"], found["words"]


@functools.cache
def help_of(script: str, subcommand: str = "") -> str:
    """What a tool, or a part of it, prints for --help."""
    module = importlib.import_module(script.replace("/", "."))
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        module.main([*filter(None, [subcommand]), "--help"])
    return said.getvalue()


def flags_of(script: str, words: list[str]) -> set[str]:
    """The flags that a tool takes, after the subcommand if there is one."""
    known = set(FLAG.findall(help_of(script)))
    if script.removeprefix("tools/") in HANDED_ON:
        known |= set(FLAG.findall(help_of("train")))
    first = words[0] if words and re.fullmatch(r"[a-z-]+", words[0]) else ""
    if first and re.search(rf"[│\s{{,]{first}[\s,}}]", help_of(script)):
        known |= set(FLAG.findall(help_of(script, first)))
    return known


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")


def test_every_quoted_flag_exists() -> None:
    seen, wrong = 0, []
    for page, script, line in commands():
        if not (ROOT / f"{script}.py").is_file():
            wrong.append(f"{page}: {script}.py does not exist")
            continue
        words = shlex.split(line.replace("...", "").split(" > ")[0])
        given = {word.partition("=")[0] for word in words if FLAG.match(word)} - {"--METHOD.NAME"}
        if given:
            seen += 1
            unknown = given - flags_of(script, words) - {"--help"}
            wrong += [f"{page}: {script}.py {line.strip()}: no {flag}" for flag in unknown]
    assert wrong == []
    assert seen > 20  # else the pages are read wrongly


def anchor(heading: str) -> str:
    """A heading's anchor, as the site and repository browsers make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


def test_every_link_leads_somewhere() -> None:
    broken, seen = [], 0
    for page in PAGES:
        text = FENCED.sub("", page.read_text())
        for link in LINK.finditer(text):
            seen += 1
            target = (page.parent / link["path"]) if link["path"] else page
            if not target.exists():
                broken.append(f"{page.name}: {link['path']}")
            elif link["anchor"] and target.suffix == ".md":
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                if link["anchor"] not in map(anchor, headings):
                    broken.append(f"{page.name}: {link['path']}#{link['anchor']}")
    assert broken == [] and seen > 60


def tree() -> str:
    """README's list of files."""
    return (ROOT / "README.md").read_text().split("## Where things are\n")[1].split("\n## ")[0]


def test_the_tree_names_what_exists() -> None:
    named = re.findall(r"[\w*]+\.(?:py|sh)\b|(?<= )[\w/]+/(?=\s)", tree())
    tops = ("pipelines", "models", "tools", "tests", "docs", "recipes")
    files = [*ROOT.iterdir(), *(path for top in tops for path in (ROOT / top).rglob("*"))]
    ours = {path.name for path in files}
    assert [n for n in named if not fnmatch.filter(ours, n.rstrip("/").split("/")[-1])] == []


@pytest.mark.parametrize("folder", ["pipelines", "pipelines/decoders", "models", "tools"])
def test_the_tree_is_complete(folder: str) -> None:
    named = set(re.findall(r"[\w*]+(?:\.py|\.sh|/)", tree()))
    missing = [
        path.name
        for path in (ROOT / folder).iterdir()
        if not path.name.startswith("__")
        and not any(fnmatch.fnmatch(path.name + "/" * path.is_dir(), name) for name in named)
    ]
    assert missing == []


def test_every_page_is_in_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("nav:")[-1]
    listed = set(re.findall(r"(\w+\.md)", navigation))
    assert listed == {page.name for page in PAGES[1:]}


def test_the_site_builds_and_asks_no_server(tmp_path: Path) -> None:
    build = pytest.importorskip("mkdocs.commands.build").build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))  # strict: warnings end it
    pages = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    assert {f"{page.stem}.html" for page in PAGES[1:]} <= {page.name for page in pages}
    asked = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\s(?:src|href)=["']?(?:https?:)?//""")
    assert [page.name for page, text in pages.items() if asked.search(text)] == []
    styles = "".join(page.read_text() for page in tmp_path.rglob("*.css"))
    assert not re.search(r"""url\(["']?(?:https?:)?//|@import""", styles)
    for page, text in pages.items():  # links to files of the repository lead to their text
        for href in re.findall(r'href="([^"#:?]+\.html)', text):
            assert (page.parent / href).is_file() or page.name == "404.html", (page, href)
    assert "prototypes" in (tmp_path / "files/recipes/photos.yaml.html").read_text()
    assert "var __index" in (tmp_path / "search/search_index.js").read_text()
