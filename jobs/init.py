"""Looks at a log and writes a first YAML for it, with comments: read it, correct it, run it.

    python jobs/init.py data.parquet             # writes data.yaml
    python jobs/init.py logs/ clicks.yaml

The log is Parquet, Delta, CSV or JSON lines; the first rows of it are looked at. Guessed are the
label, the keys, on which side each column stands and how it is encoded; what sounds like something
that is known only afterwards is left out, and said. A file that is there is not overwritten.
"""

import re
import sys
from pathlib import Path

from conf.first_yaml import first_yaml
from conf.guess import GuessError, guess, read_sample
from conf.load import ConfigError, load
from jobs import events
from jobs.door import take_streams


def main(arguments: list[str]) -> None:
    """Writes the file.

    Args:
        arguments: The log, and where to write if not beside you.

    Raises:
        GuessError: The log cannot be read, has no label, or the file is there already.
    """
    log, *rest = arguments
    stem = re.sub(r"\W+", "_", Path(log).name.split(".")[0]).strip("_") or "first"
    target = Path(rest[0] if rest else f"{stem}.yaml")
    if target.exists():
        raise GuessError(f"{target} is there already. Name another file: afm init {log} OTHER.yaml")
    sample = read_sample(log)
    found = guess(sample.rows)
    text = first_yaml(found, sample.source, target.stem)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    try:
        load(target)
    except ConfigError:
        target.rename(target.with_suffix(".rejected.yaml"))
        raise
    print(f"looked at {len(sample.rows):,} rows of {log}")
    print(f"label: {found.label} ({found.label_why})")
    for key, column in found.keys.items():
        print(f"{key}: {column}")
    print(f"{len(found.fields)} fields; left out: {', '.join(found.left_out) or 'nothing'}")
    print(f"wrote {target}. Read it, then: afm prepare {target}")
    events.tell(
        "result",
        path=str(target),
        rows_looked_at=len(sample.rows),
        label=found.label,
        keys=found.keys,
        fields=len(found.fields),
        left_out=found.left_out,
    )


if __name__ == "__main__":
    take_streams()
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words) or len(words) > 2:
        asked = {"-h", "--help"} & set(words)
        print((__doc__ or "").strip(), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    try:
        main(words)
    except (GuessError, ConfigError, OSError) as error:
        events.tell("error", message=str(error))
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
