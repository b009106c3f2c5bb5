"""README.md and docs/: quoted flags, links and files exist, and the map names every file."""

import contextlib
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
SCRIPT = re.compile(
    r"(?:^|[\s/])(?<!tests/)(?P<script>train|eval|tools/\w+)\.py(?P<words>(?:\s.*)?)$"
)
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
FLAG = re.compile(r"--[a-z][\w.-]*")
ROOM = re.compile(r"^\| `(?P<folder>[\w/]+)/` \|.*\|(?P<files>[^|]*)\|$", re.M)
PATH = re.compile(r"\b(?:pipelines|models|tools|tests|docs|recipes)/[\w/*.-]*\w\b/?(?!\.?[\w/])")
TEST = re.compile(r"(?<![\w/])test_\w+\.py\b")
HANDED_ON = (
    "tools/bench baseline",
    "tools/bench mixture",
    "tools/bench peer",
    "tools/profile_throughput",
)
"""Commands that take train.py's flags as well as their own."""


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
    """What a command, or a subcommand of it, prints for --help."""
    module = importlib.import_module(script.replace("/", "."))
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        module.main([*filter(None, [subcommand]), "--help"])
    return printed.getvalue()


def flags_of(script: str, words: list[str]) -> set[str]:
    """The flags that a command takes, after the subcommand if there is one."""
    known = set(FLAG.findall(help_of(script)))
    first = words[0] if words and re.fullmatch(r"[a-z][a-z-]*", words[0]) else ""
    if first and re.search(rf"[│\s{{,`]{first}[\s,}}`]", help_of(script)):
        known |= set(FLAG.findall(help_of(script, first)))
    if {script, f"{script} {first}"} & {*HANDED_ON}:
        known |= set(FLAG.findall(help_of("train")))
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


def rooms() -> dict[str, set[str]]:
    """The folders of the map in docs/architecture.md, with the files it names in each."""
    page = (ROOT / "docs/architecture.md").read_text()
    tree = page.split("## Where everything is\n")[1].split("\n## ")[0]
    return {
        room["folder"]: set(re.findall(r"`([^`]+)`", room["files"])) for room in ROOM.finditer(tree)
    }


def test_the_map_names_every_file_and_no_other() -> None:
    there = {
        folder.relative_to(ROOT).as_posix(): {
            path.name.removesuffix(".py")
            for path in folder.iterdir()
            if path.is_file() and not path.name.startswith(("__", "."))
        }
        for top in ("pipelines", "models", "tools")
        for folder in (ROOT / top, *(ROOT / top).rglob("*"))
        if folder.is_dir() and folder.name != "__pycache__"
    }
    named = {folder: files for folder, files in rooms().items() if not folder.startswith("tests")}
    assert named == {folder: files for folder, files in there.items() if files}


def test_the_map_names_every_room_of_tests_and_every_file_at_the_top() -> None:
    folders = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").iterdir() if path.is_dir()
    }
    assert {room for room in rooms() if room.startswith("tests")} == folders - {"tests/__pycache__"}
    page = (ROOT / "docs/architecture.md").read_text()
    assert [path.name for path in ROOT.glob("*.py") if f"| `{path.name}` |" not in page] == []


def test_every_quoted_file_exists() -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("*.py")}
    missing, seen = [], 0
    for page in PAGES:
        if page.name == "extending.md":  # it tells the reader to write new ones
            continue
        text = page.read_text()
        codes = re.findall(r"`[^`]+`", text)
        quoted = {path.rstrip("/") for code in codes for path in PATH.findall(code)}
        quoted -= {"docs/results/cifar10-10k"}  # tools/collect.py makes it
        patterns = [path.replace("NAME", "*") for path in quoted]
        missing += [f"{page.name}: {path}" for path in patterns if not [*ROOT.glob(path)]]
        missing += [f"{page.name}: {name}" for name in set(TEST.findall(text)) - tests]
        seen += len(quoted)
    assert missing == [] and seen > 60


def test_every_page_is_in_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("nav:")[-1]
    listed = set(re.findall(r"([\w-]+\.md)", navigation))
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
