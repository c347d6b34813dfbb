"""What the documents show: their commands, their recipes, and what was printed."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path | str, language: str) -> list[str]:
    """The blocks of a language on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path | str) -> list[str]:
    """The commands on a page, each on one line, without its comment."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    stripped = (re.sub(r"(^|\s)#.*", "", line) for line in lines)
    return [" ".join(line.split()) for line in stripped if line.strip()]


def commands_in_text(page: Path | str) -> list[str]:
    """What stands in backticks within a sentence."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def shape(line: str) -> str:
    """A printed line without what differs from machine to machine."""
    line = re.sub(r"\b[0-9a-f]{16}\b", "#", line.removesuffix("  best"))
    return " ".join(re.sub(r"\d[\d,.]*", "#", line).split())
