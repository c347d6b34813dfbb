"""What the documents say is there, is there."""

import re
from pathlib import Path

import pytest

from tools.configuration_reference import TARGET, page

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip()]


def test_commands_are_found() -> None:
    assert len(commands(ROOT / "README.md")) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_name_files_and_targets_that_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(page):
        for target in re.findall(r"\bmake ([a-z-]+)", line):
            assert target in targets, line
        for path in re.findall(r"\b(?:jobs|tools|conf|tests|benchmarks)/[\w./-]+", line):
            assert "yours" in path or (ROOT / path).exists(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_promises_name_tests_that_exist() -> None:
    promised = re.findall(
        r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/reliability.md").read_text()
    )
    assert len(promised) > 30
    for file, name in promised:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (file, name)


def test_configuration_page_is_that_of_the_schema() -> None:
    assert TARGET.read_text(encoding="utf-8") == page()


def test_changelog_leads_with_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version and first
    assert version[1] == first[1]
