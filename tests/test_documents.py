"""README and guide: short enough, every link leads somewhere, every path and version named is there."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import whisperq

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "examples" / "guide").glob("*.md"))
PAGES = [README, ROOT / "CHANGELOG.md", *GUIDE, *sorted((ROOT / "examples").glob("*/*.md"))]
PAGES = list(dict.fromkeys(PAGES))
LINK = re.compile(r"\]\(<?([^)<>\s]+)>?\)")
NAMED = re.compile(r"(?<![\w/.-])(?:(?:examples|tests)/[\w./*-]+|whisperq/[\w/]+\.py)")
ADDED = re.compile(r"^`(whisperq/\S+\.py)`:$", re.MULTILINE)  # a file that the reader is shown how to add


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What `page.md#...` may name, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Relative links and images of a page that lead nowhere."""
    found = []
    for link in LINK.findall(prose(page)):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_and_image_leads_somewhere(page):
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    text = "# One, two\n[a](page.md#one-two) [b](#three) ![c](none.png) [d](https://x.example)\n```\n[e](f)\n```\n"
    page.write_text(text)
    assert broken(page) == ["#three", "none.png"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_of_the_repository_that_is_named_is_there(page):
    text = page.read_text(encoding="utf-8")
    named = {name.rstrip(".") for name in NAMED.findall(text)} - set(ADDED.findall(text))
    assert [name for name in sorted(named) if not list(ROOT.glob(name))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_table_has_a_heading_of_its_width(page):
    cells = [line.replace("\\|", "").count("|") if line.startswith("|") else 0 for line in prose(page).splitlines()]
    lines = prose(page).splitlines()
    for index in (i for i, line in enumerate(lines) if re.fullmatch(r"\|[-:| ]+\|", line) and "-" in line):
        assert cells[index - 1] == cells[index] and not (index > 1 and cells[index - 2]), lines[index - 1]
    assert all(not after or before in (0, after) for before, after in pairwise(cells))


def test_the_readme_is_read_in_one_sitting_and_leads_to_every_page_of_the_guide():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 350
    assert [page.name for page in GUIDE if f"](examples/guide/{page.name})" not in README.read_text()] == []


def test_versions_are_those_of_the_package():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = (ROOT / "examples" / "constraints.txt").read_text()
    for name in ("torch", "transformers"):
        bounds = next(match for d in dependencies if (match := re.fullmatch(rf"{name}>=([\d.]+),<(\d+)\.(\d+)", d)))
        lowest, major, minor = bounds[1], bounds[2], int(bounds[3])
        assert f"{name} {lowest} to {major}.{minor - 1}" in README.read_text()
        tried = re.search(rf"^{name}==(\d+)\.(\d+)\.", pinned, re.MULTILINE)
        assert tried and (tried[1], int(tried[2])) == (major, minor - 1), f"constraints.txt pins the highest {name}"
    assert f"## [{whisperq.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_dockerfile_has_what_the_build_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = (ROOT / "Dockerfile").read_text()
    copied = [path for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for path in line.split()]
    needed = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"]
    needed += [*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    needed += re.findall(r"--constraint (\S+)", text)
    assert all((ROOT / path).exists() for path in copied) and set(needed) <= set(copied)
    python = re.search(r"^FROM python:([\d.]+)", text, re.MULTILINE)
    assert python and f">={python[1]}" == project["project"]["requires-python"]
    extras = re.search(r'EXTRAS="\[([\w,]+)\]"', text)
    assert extras and set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])
    assert project["project"]["scripts"] == {"whisperq": "whisperq.__main__:main"}
    assert re.findall(r'^ENTRYPOINT \["(.+)"\]$', text, re.MULTILINE) == list(project["project"]["scripts"])
