"""What a log's columns are, guessed from a sample: its label, keys, sides and encodings.

Nothing here is sure: guesses are made to be read, and corrected, in the YAML that
:mod:`conf.first_yaml` writes.
"""

import csv
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import dataset

from conf.features import RESERVED

SAMPLE = 200_000
"""Rows that are looked at."""
FEW = 20
"""Distinct numbers that are still taken as categories."""
TELLING = 0.95
"""AUC of a column alone beyond which it is taken to be known only after the label."""

Side = Literal["user", "item", "context"]
KEYS: tuple[Side, Side] = ("user", "item")

_USER = r"(user|member|customer|visitor|viewer|account|client|reader|u)"
_ITEM = (
    r"(item|movie|film|video|product|article|ad|song|track|book|news|sku|content|creative|"
    r"banner|listing|asin|post|i)"
)
_KEY = r"^{}[ _]?(id|key|no|number|hash|uuid)?$"
_TIME = re.compile(
    r"^(t|ts|time|date|datetime|timestamp|event_?time|time_?ms|unix_?time\w*)$", re.I
)
_LABEL = re.compile(
    r"^(label|target|y|(is_?)?click(ed|s)?|clk|convert(ed)?|conversion|purchased?|bought|"
    r"(is_?)?liked?|(is_?)?positive|rating|stars|score)$",
    re.I,
)
_OUTCOME = re.compile(
    r"(click|like|follow|comment|forward|share|hate|watch|play|stay|dwell|view|enter|finish|positive|"
    r"purchas|convert|conversion|rating|stars|bought|skip)",
    re.I,
)


class GuessError(Exception):
    """A log cannot be read, or has nothing to learn from; the message says what to do."""


class Sample(NamedTuple):
    """Some rows of a log, and how it is read."""

    rows: pd.DataFrame
    source: dict[str, Any]
    """The section ``source.interactions``."""


class Field(NamedTuple):
    """A field of the model."""

    config: dict[str, Any]
    """An entry of ``fields``."""
    why: str


@dataclass(frozen=True)
class Guess:
    """A first pipeline."""

    label: str
    label_why: str
    keys: dict[str, str]
    """``user``, ``item`` and ``time``, as far as they were found."""
    fields: tuple[Field, ...]
    left_out: dict[str, str]
    """Columns that are no fields, and why."""


def read_sample(path: str) -> Sample:
    """Reads the first rows of a log.

    Args:
        path: A file or folder: Parquet, a Delta table, CSV (of any separator, with or without a
            header), or JSON lines; text may be compressed by gzip.

    Returns:
        The rows.

    Raises:
        GuessError: It cannot be read.
    """
    where = Path(path)
    if not where.exists():
        raise GuessError(f"there is no {path}. Give a file or a folder of one log")
    files = sorted(f for f in where.rglob("*") if f.is_file()) if where.is_dir() else [where]
    names = [f.name.removesuffix(".gz") for f in files]
    try:
        if (where / "_delta_log").is_dir():
            from deltalake import DeltaTable

            table = DeltaTable(path).to_pyarrow_dataset().head(SAMPLE)
            return Sample(_plain(table), {"format": "delta", "path": path})
        if any(name.endswith(".parquet") for name in names):
            shown = [f for f in files if not f.name.startswith(("_", "."))]
            files = [f for f in files if f.name.endswith(".parquet")]
            table = dataset.dataset([str(f) for f in files], format="parquet").head(SAMPLE)
            source: dict[str, Any] = {"format": "parquet", "path": path}
            if set(shown) - set(files):  # which Spark would take for Parquet, too
                source["options"] = {"pathGlobFilter": "*.parquet"}
            return Sample(_plain(table), source)
        if any(name.endswith((".json", ".jsonl", ".ndjson")) for name in names):
            rows = pd.read_json(files[0], lines=True, nrows=SAMPLE)
            return Sample(rows, {"format": "json", "path": path})
        return _read_text(files[0], path)
    except (OSError, EOFError, zlib.error, ValueError, pa.ArrowException, csv.Error) as error:
        raise GuessError(f"cannot read {path}: {error}") from None


def _plain(table: pa.Table) -> pd.DataFrame:
    rows: pd.DataFrame = table.to_pandas()
    return rows


def _read_text(file: Path, path: str) -> Sample:
    """CSV of the separator that its first line has most of, a header if that has no numbers."""
    with (
        gzip.open(file, "rt", newline="") if file.suffix == ".gz" else file.open(newline="") as text
    ):
        beginning = text.read(65_536)
    lines = beginning.splitlines()[:50]
    if not lines:
        raise GuessError(f"{path} is empty")
    separator = max("\t,|;", key=lines[0].count)
    first = next(csv.reader(lines[:1], delimiter=separator))
    header = not any(_is_number(cell) or cell == "" for cell in first)
    rows = pd.read_csv(file, sep=separator, header=0 if header else None, nrows=SAMPLE)
    source: dict[str, Any] = {"format": "csv", "path": path, "options": {"header": header}}
    if separator != ",":
        source["options"]["sep"] = separator
    if not header:
        rows.columns = [f"c{n + 1}" for n in range(len(rows.columns))]
        kinds = {"i": "BIGINT", "f": "DOUBLE"}
        source["columns"] = ", ".join(
            f"{name} {kinds.get(rows[name].dtype.kind, 'STRING')}"
            if not _is_whole(rows[name])
            else f"{name} BIGINT"
            for name in rows
        )
    return Sample(rows, source)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_whole(column: "pd.Series[Any]") -> bool:
    """Whether all its numbers are integers, missing ones aside."""
    if column.dtype.kind not in "if":
        return False
    given = column.dropna()
    return bool(len(given)) and bool((given == given.round()).all())


def guess(rows: pd.DataFrame) -> Guess:
    """Guesses a pipeline.

    Args:
        rows: Some rows of a log.

    Returns:
        The guess.

    Raises:
        GuessError: No column looks like a label, or fewer than two like fields.
    """
    rows = rows.rename(columns=str)
    nested = [name for name in _names(rows) if _holds(rows[name], dict)]
    rows = rows.drop(columns=nested)
    named = not all(re.fullmatch(r"c\d+", name) for name in _names(rows))
    target, label, why, positive = _label(rows, named)
    lists = [name for name in _names(rows) if _holds(rows[name], list | np.ndarray)]
    keys = _keys(rows.drop(columns=[target, *lists]), named)
    fields, left_out = list[Field](), dict.fromkeys(nested, "holds structures")
    sides: dict[Side, str] = {key: keys[key] for key in KEYS if key in keys}
    for key, column in sides.items():
        fields.append(Field(_key_field(key, column, rows), "the key"))
    for name in _names(rows):
        if name == target or name in keys.values():
            continue
        reason = _no_field(name, rows[name], positive, bool(sides))
        if reason:
            left_out[name] = reason
            continue
        field = _field(name, _side(rows, name, sides), rows[name])
        if field is None:
            left_out[name] = "almost every row has another value"
        else:
            fields.append(field)
    if "time" in keys and (hour := _hour(rows[keys["time"]], keys["time"])):
        fields.append(hour)
    if sum(f.config["encode"] != "none" for f in fields) < 2:
        raise GuessError("fewer than two columns could be fields of a model")
    return Guess(label, why, {k: _quoted(c) for k, c in keys.items()}, tuple(fields), left_out)


def _some(names: list[str]) -> str:
    """Names in a sentence, the first ones of many."""
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


def _names(rows: pd.DataFrame) -> list[str]:
    return [str(name) for name in rows.columns]


def _holds(column: "pd.Series[Any]", kind: Any) -> bool:
    """Whether any of its values is of a kind."""
    if column.dtype != object:
        return False
    return any(isinstance(value, kind) for value in column)


def _quoted(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)
    return name if plain else _in_backticks(name)


def _in_backticks(name: str) -> str:
    """A column's name as Spark SQL has it, whatever it holds."""
    return "`" + name.replace("`", "``") + "`"


def _label(rows: pd.DataFrame, named: bool) -> "tuple[str, str, str, pd.Series[Any]]":
    """The column of the label, the expression, why, and which rows are positive."""
    candidates = [
        name
        for name in _names(rows)
        if (_LABEL.match(name) or not named) and not _holds(rows[name], list | np.ndarray)
    ]
    for name in candidates:
        values = set(rows[name].dropna().unique().tolist())
        if values == {0, 1} or values == {False, True}:
            return name, _quoted(name), "it is 0 or 1", rows[name].fillna(0).astype(bool)
    for name in candidates:
        given = rows[name].dropna()
        if not pd.api.types.is_numeric_dtype(given) or not 3 <= given.nunique() <= FEW:
            continue
        if not named and (given.max() > 10 or given.min() < 0):
            continue
        cuts = sorted(given.unique())[1:]
        share = {cut: float((given >= cut).mean()) for cut in cuts}
        cut = min(cuts, key=lambda c: abs(share[c] - 0.5))
        why = f"{share[cut]:.0%} of the rows have that much"
        return name, f"{_quoted(name)} >= {cut:g}", why, rows[name] >= cut
    raise GuessError(
        f"none of the columns {_some(_names(rows))} looks like a label (label, click, rating …, "
        "with two values or a few numbers). Rename one to label, or write the YAML by hand: "
        "docs/reference/configuration.md"
    )


def _keys(rows: pd.DataFrame, named: bool) -> dict[str, str]:
    if named:
        found = {}
        for key, words in (("user", _USER), ("item", _ITEM)):
            pattern = re.compile(_KEY.format(words), re.I)
            name = next((n for n in _names(rows) if pattern.match(n)), None)
            if name is not None:
                found[key] = name
        times = [n for n in _names(rows) if _TIME.match(n) and _is_time(rows[n])]
        # The finest clock that there is.
        times.sort(key=lambda n: -rows[n].nunique())
        return found | ({"time": times[0]} if times else {})
    if len(rows.columns) > 5:  # a table of features rather than a log of who did what
        return {}
    times = [n for n in _names(rows) if _is_time(rows[n])]
    ids = [n for n in _names(rows) if n not in times and 1 < rows[n].nunique() < len(rows) / 2]
    found = dict(zip(("user", "item"), ids, strict=False))
    return found | ({"time": times[0]} if times else {})


def _is_time(column: "pd.Series[Any]") -> bool:
    """Whether it is a moment, or seconds or milliseconds since 1970, of 1990 to 2060."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return True
    if not _is_whole(column):
        return False
    return any(6.3e8 * unit <= column.min() <= column.max() <= 2.85e9 * unit for unit in (1, 1000))


def _key_field(side: Side, column: str, rows: pd.DataFrame) -> dict[str, Any]:
    field = {"name": side, "side": side, "expr": _quoted(column), "encode": "index"}
    rare = rows[column].value_counts().median() < 5
    return field | ({"min_count": 2} if rare else {})


def _no_field(
    name: str, column: "pd.Series[Any]", positive: "pd.Series[Any]", has_keys: bool
) -> str:
    """Why a column can be no field, or nothing."""
    if column.isna().all():
        return "is empty"
    values = column.dropna()
    if not _holds(column, list | np.ndarray) and values.nunique() < 2:
        return "always has the same value"
    if has_keys and _OUTCOME.search(name):
        return "sounds like something that is known only afterwards"
    if has_keys and (auc := _alone(column, positive)) > TELLING:
        return f"alone has an AUC of {auc:.2f}: it is known only after the label"
    if pd.api.types.is_datetime64_any_dtype(column) or (_is_time(column) and _TIME.search(name)):
        return "is a moment"
    return ""


def _alone(column: "pd.Series[Any]", positive: "pd.Series[Any]") -> float:
    """AUC of a column as a score, in its better direction."""
    if not pd.api.types.is_numeric_dtype(column):
        return 0.5
    ranks = column.fillna(column.median()).rank()
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return 0.5
    auc = (float(ranks[positive].sum()) - m * (m + 1) / 2) / (m * n)
    return max(auc, 1 - auc)


def _side(rows: pd.DataFrame, name: str, sides: dict[Side, str]) -> Side:
    """The side on which a column depends: each key has one value of it, but for a few."""
    text = rows[name].astype(str)
    for side in reversed(sides):  # what follows from both is the item's
        groups = text.groupby(rows[sides[side]])
        sizes, distinct = groups.size(), groups.nunique()
        seen = sizes >= 2
        if seen.any() and (distinct[seen] == 1).mean() >= 0.98 and text.nunique() > 1:
            return side
    return "context"


def _field(name: str, side: Side, column: "pd.Series[Any]") -> Field | None:
    """A column as a field; None if it says nothing that could be learned."""
    values = column.dropna()
    free = _free(name)
    expr = {} if free == name else {"expr": _in_backticks(name)}
    base: dict[str, Any] = {"name": free, "side": side} | expr
    missing = float(column.isna().mean())
    if _holds(column, list | np.ndarray):
        return Field(base | {"encode": "multi"}, "lists")
    distinct = values.nunique()
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        looks_like_id = re.search(r"(^|_)(id|code|key)$", name, re.I) and _is_whole(column)
        if distinct <= FEW or looks_like_id:
            rare = {"min_count": 2} if distinct > 1000 else {}
            return Field(base | {"encode": "index"} | rare, f"{distinct:,} values")
        if side == "context" and distinct > len(values) / 2 and _is_whole(column):
            return None
        low, middle, high = np.percentile(values.astype(float), [0, 50, 99])
        skewed = high - low > 10 * max(middle - low, 1e-9)
        scale = "log1p" if skewed else "standard"
        flag = {"flag_missing": True} if missing > 0.01 else {}
        about = f"numbers, {missing:.0%} missing" if missing else "numbers"
        return Field(base | {"encode": "value", "impute": "median", "scale": scale} | flag, about)
    text = values.astype(str)
    if (separator := _separator(text)) is not None:
        given = {} if separator == "|" else {"separator": separator}
        return Field(base | {"encode": "multi"} | given, "several values each")
    if distinct > len(values) / 2:
        return Field(base | {"encode": "none"}, "for people to read") if side == "item" else None
    rare = {"min_count": 2 if distinct <= 1000 else 5} if distinct > 100 else {}
    return Field(base | {"encode": "index"} | rare, f"{distinct:,} values")


def _free(name: str) -> str:
    """A name that a field can have."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "column"
    return f"{plain}_" if plain.lower() in RESERVED | {"user", "item"} else plain


def _separator(text: "pd.Series[str]") -> str | None:
    """What stands between several values, if a tenth of the texts have it and values recur."""
    for separator in ("|", ",", ";"):
        if text.str.contains(separator, regex=False).mean() < 0.1:
            continue
        pieces = text.str.split(separator, regex=False).explode().str.strip()
        if pieces.str.contains(" ").mean() < 0.5 and pieces.nunique() < len(pieces) / 5:
            return separator
    return None


def _hour(column: "pd.Series[Any]", name: str) -> Field | None:
    """The hour of the day, where the time tells it."""
    quoted = _quoted(name)
    if pd.api.types.is_datetime64_any_dtype(column):
        expr = f"hour({quoted})"
    elif column.max() > 1e11:
        expr = f"hour(timestamp_millis({quoted}))"
    else:
        expr = f"hour(timestamp_seconds({quoted}))"
    return Field(
        {"name": "hour", "side": "context", "expr": expr, "encode": "index"}, "of the day, in UTC"
    )
