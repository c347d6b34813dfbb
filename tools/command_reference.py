"""Writes docs/reference/commands.md from what the jobs say of themselves.

python tools/command_reference.py          # write it
python tools/command_reference.py --check  # fail if it is out of date (make lint does)
"""

import html
import re
import sys
from pathlib import Path

import click

from jobs.cli import main as afm

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"

HEAD = """# Commands

Every job is a file of its own, and takes a YAML file and `key=value` overrides, as
[configuration](configuration.md) has them. `afm prepare …` starts the same and shows the command
that does. `--help` of either says what is here. Exit codes: 0 done, 1 failed with a message, 2
called wrongly.

This page is made from the jobs' own descriptions by `tools/command_reference.py`.
"""


def main() -> None:
    """Writes the page, or compares it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET} is out of date: run python tools/command_reference.py")
    else:
        TARGET.write_text(text, encoding="utf-8")


def page() -> str:
    """The page."""
    return HEAD + "".join(section(name, command) for name, command in afm.commands.items())


def section(name: str, command: click.Command) -> str:
    """A job's part of the page.

    Args:
        name: The job.
        command: The job as ``afm`` knows it; its help is the docstring.

    Returns:
        Markdown.
    """
    parts = [part.removeprefix("\b\n") for part in (command.help or "").split("\n\n")]
    options = [o for o in command.params if isinstance(o, click.Option)]
    lines = [f"\n## {name}\n"]
    lines += [shown(part) for part in parts]
    if options:
        lines += ["\n| option of `afm` | |\n|---|---|\n", *map(option, options)]
    return "".join(lines)


def shown(paragraph: str) -> str:
    """A paragraph of a docstring: commands, which are indented there, or prose."""
    if paragraph.startswith("    "):
        # A line that the docstring continues has a gap; what stands before a comment is no gap.
        lines = [re.sub(r"(?<=\S) {2,}(?!#| )", " ", line[4:]) for line in paragraph.splitlines()]
        return "\n".join(["\n```bash", *lines, "```\n"])
    # <models>/<run> is no tag; what stands in backticks is escaped by Markdown itself.
    pieces = re.split(r"(`[^`]*`)", paragraph)
    text = "".join(p if p.startswith("`") else html.escape(p, quote=False) for p in pieces)
    return f"\n{text}\n"


def option(found: click.Option) -> str:
    """A row of the table of options."""
    name = ", ".join(found.opts)
    value = f" {found.make_metavar(click.Context(afm))}"
    default = f" {found.default} if left out." if found.show_default else ""
    return f"| `{name}{value}` | {found.help}{default} |\n"


if __name__ == "__main__":
    main()
