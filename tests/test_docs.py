"""The pages tell the truth about the tree: folders, files, targets and links that they name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ARCHITECTURE = (DOCS / "architecture.md").read_text("utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("services/**/*.md"), *ROOT.glob("examples/**/*.md")]
)
GUIDES = [ROOT / "CONTRIBUTING.md", DOCS / "development.md", DOCS / "architecture.md"]
TERMS = {
    *(
        "client",
        "site",
        "cohort",
        "minimum cohort",
        "roster",
        "round",
        "attempt",
        "update",
        "masked update",
        "aggregate",
    ),
    *("survivor set", "dropout", "receipt", "lease", "fence", "outbox", "witness", "transparency log"),
    *("inclusion proof", "consistency proof", "clip norm", "quantise", "report", "leader", "helper", "collector"),
    *("policy", "consent", "ledger", "budget", "release", "epsilon, delta", "enrolment", "idempotent", "single-use"),
}


def folders() -> list[str]:
    """Packages under services/ and shared/, to a depth of two; every agent and engine folder among them."""
    packages = (path.parent for top in ("services", "shared") for path in (ROOT / top).glob("*/**/__init__.py"))
    return sorted({str(path.relative_to(ROOT)) for path in packages})


@pytest.mark.parametrize("folder", folders())
def test_architecture_names_every_folder(folder: str) -> None:
    """By its path, or for a service's own rooms by name in its row."""
    top, name, *inner = folder.split("/")
    row = next((line for line in ARCHITECTURE.splitlines() if line.startswith(f"| `{top}/{name}`")), None)
    assert row is not None, f"docs/architecture.md, Folders: add a row for {top}/{name}"
    if inner:
        assert f"`{folder}`" in row or f"`{'/'.join(inner)}`" in row, f"docs/architecture.md, Folders: name {folder}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_paths_that_a_guide_names_exist(page: Path) -> None:
    """In code marks, relative to the root; a word in capitals means any name."""
    text = page.read_text("utf-8")
    named = re.findall(r"`((?:shared|services|recipes|undersong|tests|deploy|docs|examples)(?:/[\w./-]+)?)`", text)
    real = [path for path in named if not re.search(r"/[A-Z]+\b", path)]
    assert len(real) >= 2 or page.name == "CONTRIBUTING.md"
    assert [path for path in real if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_commands_that_a_guide_shows_exist(page: Path) -> None:
    text, makefile = page.read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    known = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    targets = re.findall(r"(?:`|^)make ((?:[a-z0-9-]+ ?)+)", text, re.MULTILINE)
    assert {word for line in targets for word in line.split()} <= known
    for path in re.findall(r"^\.venv/bin/pytest (\S+)", text, re.MULTILINE):
        assert (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and where a fragment is given to a heading in it."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for path, fragment in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target = page.parent / path if path else page
        assert target.exists(), f"{path} is not there"
        if fragment and target.suffix == ".md":
            assert fragment in anchors(target), f"{path}#{fragment} is no heading"


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


def test_the_glossary_explains_every_term_in_both_languages() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (DOCS / "glossary.md").read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| English", "| ---"))
    ]
    assert all(len(row) == 4 and all(row) for row in rows)
    assert all(re.search("[\u4e00-\u9fffεδ]", chinese) for _, chinese, _, _ in rows)
    assert all(re.search("[\u4e00-\u9fff]", meaning) for *_, meaning in rows)
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names)
    assert sorted(TERMS - set(names)) == []


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.zh.md"), *DOCS.rglob("*.zh.md")]), ids=lambda page: page.name)
def test_a_page_in_chinese_is_the_english_one(page: Path) -> None:
    """The same commands and sections, and tables but for the list of pages; each leads to the other."""
    english = page.with_name(page.name.replace(".zh.md", ".md"))
    texts = [each.read_text("utf-8") for each in (english, page)]
    for pattern, parts in (
        (r"^```.*?^```", texts),
        (r"^#+ ", texts),
        (r"^\| ", [t.rpartition("\n## ")[0] for t in texts]),
    ):
        found = [re.findall(pattern, part, re.MULTILINE | re.DOTALL) for part in parts]
        assert found[0] == found[1], pattern
    for text, other in zip(texts, (page, english), strict=True):
        assert f"]({other.name})" in text
    assert re.search("[\u4e00-\u9fff]", texts[1])


def test_the_site_leads_to_every_page() -> None:
    """`make site` checks the links; here, that its navigation names every page and nothing else."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = re.findall(r"^ +- (\S+\.md)$", text, re.MULTILINE)
    assert [path for path in named if not (ROOT / path).exists()] == []
    pages = {str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md") if page.parent.name != "decisions"}
    assert sorted(pages - set(named)) == []


def test_no_page_is_missing_from_the_index() -> None:
    """README leads to every page of docs/."""
    readme = (ROOT / "README.md").read_text("utf-8")
    linked = {Path(path) for path in re.findall(r"\]\((docs[^)#]*)", readme)}
    pages = {path.relative_to(ROOT) for path in DOCS.glob("*.md")}
    assert sorted(str(page) for page in pages - linked) == []
