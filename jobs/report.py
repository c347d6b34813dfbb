"""Writes a page about a run: what the pipeline did, how good it is, and why items are recommended.

    python jobs/report.py conf/movielens.yaml
    python jobs/report.py conf/movielens.yaml report.users=10 report.path=page.html

It needs neither Spark nor a network: the page is one HTML file, <tables.root>/report.html. A step
that has not run leaves its section with the command that makes it. Tables are read by delta-rs, at
a path or at a URL that it knows (s3://, gs://, abfss://; then report.path has to be given).
"""

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from conf.load import ConfigError
from conf.names import is_url
from conf.schema import Config
from jobs import events
from jobs.door import run
from reporting.commands import Commands
from reporting.page import make_page


def main(config: Config) -> None:
    """Writes the page of a pipeline."""
    started = time.monotonic()
    target = path_of(config)
    yaml, *overrides = sys.argv[1:]
    text = make_page(config, Commands(yaml, tuple(overrides)), datetime.now(UTC))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, target)
    print(f"report: {target}, {len(text) / 1e6:.1f} MB, in {time.monotonic() - started:.0f} s")
    events.tell("result", path=str(target), bytes=target.stat().st_size)


def path_of(config: Config) -> Path:
    """Where the page goes.

    Args:
        config: The pipeline.

    Returns:
        A file.

    Raises:
        ConfigError: It would go to a URL.
    """
    path = config.report.path or f"{config.tables.root.rstrip('/')}/report.html"
    if is_url(path):
        raise ConfigError(
            f"cannot write the page to {path}: give report.path a file of this machine"
        )
    return Path(path)


if __name__ == "__main__":
    run(main, __doc__)
