"""README and docs/: the README fits on one screen, every link leads somewhere, and quoted code is the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from workshop import toc
from workshop.project import ROOT

MOST_WORDS = 600
# `make check-all` writes this page, so it is missing until the first such run.
WRITTEN_BY_CHECK_ALL = ROOT / "docs" / "checked.md"
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODE_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"^From `([\w/.]+)`:\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text_of(path: Path) -> str:
    """Return the Markdown of a page or of a notebook's Markdown cells."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def without_code(text: str) -> str:
    return CODE_SPAN.sub("code", CODE_BLOCK.sub("", text))


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings: https://github.com/Flet/github-slugger."""
    headings = re.findall(r"^#{1,6} (.+)$", CODE_BLOCK.sub("", text_of(path)), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-") for heading in plain}


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of each relative link of a page."""
    for target in LINK.findall(without_code(text_of(path))):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = unquote(target).partition("#")
            yield (path.parent / file).resolve() if file else path, anchor


def dead_links(path: Path) -> list[str]:
    dead = []
    for file, anchor in links(path):
        if not file.exists() and file != WRITTEN_BY_CHECK_ALL:
            dead.append(f"{file} does not exist")
        elif file.exists() and anchor and anchor not in anchors(file):
            dead.append(f"{file} has no heading for #{anchor}")
    return dead


def test_the_readme_has_at_most_600_words_without_code_blocks_and_tables():
    lines = CODE_BLOCK.sub("", README.read_text()).splitlines()
    words = [word for line in lines if not line.startswith("|") for word in line.split()]
    assert len(words) <= MOST_WORDS, f"README.md has {len(words)} words; move a part to docs/"


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(path):
    assert dead_links(path) == []


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `code` heading\n[a](none.md) [b](#no) [c](#one-code-heading) `[d](in_code.md)`\n")
    found = dead_links(page)
    assert len(found) == 2
    assert "none.md does not exist" in found[0] and "no heading for #no" in found[1]


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [file for file, _ in links(page) if file in PAGES]
    assert set(PAGES) - reached == set()


def test_the_index_names_every_page_of_docs():
    assert set(DOCS) - {INDEX} - {file for file, _ in links(INDEX)} == set()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_a_page_has_one_title_and_then_a_sentence_that_says_what_the_reader_gets(path):
    text = CODE_BLOCK.sub("", text_of(path))
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert re.match(r"# .+\n\n[A-Z`\[](.+\n)*.*\.\n", text), "a title, an empty line, and a paragraph come first"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_code_that_a_page_quotes_is_in_the_file_that_it_names(path):
    for file, code in QUOTED.findall(text_of(path)):
        assert code in (ROOT / file).read_text(), f"{path.name} quotes lines that {file} no longer has:\n{code}"


def test_every_module_on_the_map_exists():
    folder, missing = ROOT, []
    for line in text_of(ROOT / "docs" / "map.md").splitlines():
        if heading := re.match(r"\| in `([\w/]+)` ", line):
            folder = ROOT / heading[1]
        elif line.startswith("| question "):
            folder = ROOT
        elif line.startswith("| "):
            names = re.findall(r"`([\w./]+(?:\.\w+|/))`", line)
            missing += [name for name in names if not (folder / name).exists()]
    assert missing == []


def test_the_worked_example_quotes_the_check_the_engine_and_the_tests():
    files = {file for file, _ in QUOTED.findall(text_of(ROOT / "docs" / "add_a_kfp_feature.md"))}
    for part in ("engine/check.py", "engine/placeholders.py", "test_engine_check.py", "every_kind.py"):
        assert any(file.endswith(part) for file in files), f"no excerpt of {part}"


def test_the_output_that_the_readme_shows_counts_the_cells_of_the_lessons():
    shown = {
        name: (int(ran), int(cells))
        for name, ran, cells in re.findall(r"^ (\S+) +ok +(\d+)/(\d+)", README.read_text(), re.MULTILINE)
    }
    counted = {}
    for lesson in toc.lessons():
        cells = json.loads(lesson.path.read_text(encoding="utf-8"))["cells"]
        counted[lesson.name] = sum(
            cell["cell_type"] == "code" and bool("".join(cell["source"]).strip()) for cell in cells
        )
    counted["all"] = sum(counted.values())
    assert shown == {name: (cells, cells) for name, cells in counted.items()}
