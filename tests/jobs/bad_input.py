"""Files and configurations that nobody should give a job, made anew by each test run.

A case is a pipeline of one log with one thing wrong, or odd. It says how ``prepare`` may end on it:
in a result, in one clear message, or in either.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from pyarrow import parquet

Ending = Literal["result", "message", "either"]
Write = Callable[[Path], str]
"""Writes a log below a folder and returns its name there."""

FIELDS: list[dict[str, Any]] = [
    {"name": "user", "side": "user", "expr": "u", "encode": "index"},
    {"name": "age", "side": "user", "encode": "value", "impute": "median", "scale": "standard"},
    {"name": "item", "side": "item", "expr": "i", "encode": "index"},
    {"name": "tags", "side": "item", "encode": "multi", "max_values": 3},
    {"name": "city", "side": "context", "encode": "index"},
]
KEYS = {"user": "u", "item": "i", "time": "t"}
NARROW: dict[str, Any] = {
    "keys": {"time": KEYS["time"]},
    "fields": [{**field, "side": "context"} for field in FIELDS],
}
"""Sections for cases of how a log is read: no tables of users and items, which take their time."""
ROWS = 120


@dataclass(frozen=True)
class Case:
    """A pipeline with something wrong."""

    name: str
    write: Write
    ending: Ending
    sections: Mapping[str, Any] = field(default_factory=dict)
    """Of the configuration, beside the usual ones."""
    table: Mapping[str, Any] = field(default_factory=dict)
    """Keys of ``source.interactions``."""
    rows: int | None = None
    """Rows that the log has, where that is known."""
    kept: tuple[str, ...] = ()
    """Values of the log that the tables have to have as they are: as users and as cities."""
    yaml: bytes | None = None
    """The YAML, instead of one made of the sections."""
    root: str = "tables"
    """Name of the tables' folder."""

    def pipeline(self, folder: Path) -> Path:
        """Writes all files.

        Args:
            folder: An empty folder.

        Returns:
            The YAML.
        """
        name = self.write(folder)
        path = folder / "bad.yaml"
        if self.yaml is not None:
            path.write_bytes(self.yaml)
            return path
        formats = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
        kind = formats[Path(name).suffix]
        table = {"format": kind, "path": str(folder / name)} | dict(self.table)
        base = {
            "source": {"interactions": table},
            "label": "clicked",
            "keys": KEYS,
            "fields": FIELDS,
            "split": {"validation": 0.2, "test": 0.2},
            "tables": {"root": str(folder / self.root)},
        }
        text = yaml.safe_dump(base | dict(self.sections), sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return path


def log(rows: int = ROWS, **columns: Any) -> pd.DataFrame:
    """A good log; keyword arguments replace or add columns, or drop them where None."""
    n = pd.Series(range(rows))
    frame = pd.DataFrame(
        {
            "u": "u" + (n % 11).astype(str),
            "i": n * 7 % 13,
            "t": 1_700_000_000 + n * 60,
            "age": (n % 11 * 3.5).where(n % 5 != 0),
            "city": ("c" + (n % 6).astype(str)).where(n % 7 != 0),
            "tags": ("x|y|w" + (n % 3).astype(str)).where(n % 4 != 0),
            "clicked": n * n // 3 % 2,
        }
    )
    gone = [name for name, values in columns.items() if values is None]
    return frame.assign(**{k: v for k, v in columns.items() if v is not None}).drop(columns=gone)


def some(column: str, value: Any, every: int = 12, rows: int = ROWS) -> "pd.Series[Any]":
    """A column of the good log with another value in some rows."""
    good = log(rows)[column].astype(object)
    return good.where(good.index % every != 1, value)


def with_texts(texts: Sequence[str]) -> pd.DataFrame:
    """A log with these among users, cities and tags, each in several rows."""
    rows = 12 * len(texts)
    odd = pd.Series([texts[n % len(texts)] for n in range(rows)])
    good = log(rows)
    # Of a value's rows, some are for training whatever the split is.
    return good.assign(u=odd, city=odd, tags=odd, clicked=good.index // len(texts) % 2)


def with_columns(names: Sequence[str]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """A log with columns of these names, and fields made of them."""
    frame = pd.concat([log(), *(log()["city"].rename(name) for name in names)], axis=1)
    fields = [
        {
            "name": f"odd{n}",
            "side": "context",
            "expr": f"`{name.replace('`', '``')}`",
            "encode": "index",
        }
        for n, name in enumerate(names)
    ]
    return frame, [*FIELDS, *fields]


def as_parquet(frame: pd.DataFrame) -> Write:
    """A log in Parquet."""

    def write(folder: Path) -> str:
        frame.to_parquet(folder / "log.parquet", index=False)
        return "log.parquet"

    return write


def as_arrow(table: pa.Table) -> Write:
    """A log in Parquet, of types that pandas does not have."""

    def write(folder: Path) -> str:
        parquet.write_table(table, folder / "log.parquet")
        return "log.parquet"

    return write


def as_bytes(name: str, content: bytes) -> Write:
    """A file."""

    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return write


def as_files(files: Mapping[str, bytes], name: str) -> Write:
    """A folder of files."""

    def write(folder: Path) -> str:
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        return name

    return write


def csv_of(frame: pd.DataFrame, **options: Any) -> bytes:
    """The same as CSV."""
    return frame.to_csv(index=False, **options).encode()


def parquet_of(frame: pd.DataFrame) -> bytes:
    """The same as Parquet."""
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    return sink.getvalue()


def lines_of(frame: pd.DataFrame) -> list[str]:
    """The same as lines of JSON."""
    return [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]


TEXTS = {
    "drop table": "'; DROP TABLE users; --",
    "or true": '" OR 1=1 --',
    "look-up": "${jndi:ldap://localhost/x}",
    "parent folder": "../../../etc/passwd",
    "script": "<script>alert(1)</script>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "nul": "a\x00b",
    "right to left": "\u202eabc",
    "zero width": "a\u200bb",
    "combining": "e\u0301",
    "composed": "é",
    "emoji": "🦊" * 20,
    "leading space": "  x",
    "trailing space": "x  ",
    "comma": "a,b",
    "quote": 'a"b',
    "newline": "a\nb",
    "carriage return": "a\rb",
    "backslash": "a\\b\\",
    "null word": "NULL",
    "none word": "None",
    "nan word": "nan",
    "formula": "=cmd|' /C calc'!A0",
    "percent": "%s%n%x",
    "backtick": "`x`",
    "partition": "split=train/part=1",
    "url escape": "a%2Fb%00",
    "byte order mark": "\ufeffx",
    "control characters": "\x01\x02\x1f\x7f",
    "dashes": "--",
    "star": "*",
    "unseen mark": "_unseen_",
    "huge": "x" * 300_000,
    "huge in unicode": "ж" * 100_000,
    "json": '{"a": [1, {"b": null}]}',
    "yaml": "!!python/object/apply:os.system ['true']",
}
"""Texts that must come through as themselves."""

NUMBERS = {
    "nan": np.nan,
    "inf": np.inf,
    "minus inf": -np.inf,
    "1e308": 1e308,
    "-1e308": -1e308,
    "1e39": 1e39,
    "largest float32": 3.4028234e38,
    "denormal": 5e-324,
    "minus zero": -0.0,
    "int64 max": float(2**63 - 1),
    "int64 min": float(-(2**63)),
}

COLUMN_NAMES = {
    "space": "my col",
    "dot": "a.b",
    "backtick": "a`b",
    "unicode": "naïve_ß",
    "emoji": "🦊",
    "sql": "'; DROP TABLE x; --",
    "digit": "1st",
    "keyword": "select",
    "blank": " ",
    "newline": "a\nb",
    "quote": 'a"b',
    "long": "x" * 300,
    "call": "count(*)",
    "variable": "${x}",
    "semicolon": "a;b",
    "slash": "a/b",
    "backslash": "a\\b",
    "comma": "a,b",
    "equals": "a=b",
    "brackets": "a[0]{b}",
    "our label": "label",
    "our key": "user_key",
    "our split": "split",
    "our rule": "_rule",
    "our raw row": "_raw",
    "corrupt record": "_corrupt_record",
    "metadata": "_metadata",
}

NOT_COLUMNS = ("blank", "newline", "corrupt record", "metadata")
"""Names that not every format has."""

ROOTS = {
    "space": "a b",
    "unicode": "tàblés ж",
    "percent": "a%20b",
    "hash": "a#b",
    "plus": "a+b",
    "quote": "a'b",
    "double quote": 'a"b',
    "semicolon": "a;b",
    "backtick": "a`b",
    "equals": "a=b",
    "brackets": "a[x]",
    "braces": "a{x,y}",
    "question mark": "a?b",
    "star": "a*b",
    "ampersand": "a&b",
    "dollar": "$HOME",
    "long": "x" * 200,
}

EXPRESSIONS = {
    "nothing": "",
    "half a quote": "'city",
    "half a bracket": "(city",
    "two statements": "city; DROP TABLE users",
    "statement": "DROP TABLE users",
    "comment": "-- city",
    "unknown column": "citty",
    "unknown function": "frobnicate(city)",
    "wrong arguments": "substr()",
    "sum": "sum(age)",
    "window": "row_number() over (order by age)",
    "generator": "explode(split(city, ''))",
    "star": "*",
    "sub-query": "(select max(id) from range(3))",
    "table": "(select 1 from nowhere)",
    "division by zero": "1 / (i - i)",
    "overflow": "cast(9223372036854775807 as bigint) + i",
    "cast": "cast(city as int)",
    "raised": "raise_error('no')",
    "date": "to_date(city, 'yyyy-MM-dd')",
    "date format": "date_format(timestamp_seconds(t), 'qqqqq bogus')",
    "pattern": "regexp_extract(city, '(((', 1)",
    "array index": "split(city, 'c')[99]",
    "json": "from_json(city, 'a INTT')",
    "nul": "concat(city, '\x00')",
    "many brackets": "(" * 3000 + "city" + ")" * 3000,
    "long": " || ".join(["city"] * 2000),
    "map": "map('a', city)",
    "struct": "struct(city, age)",
    "binary": "cast(city as binary)",
    "random": "rand()",
}
"""Of a field that is an index. All may end either way, but for those below."""

_GOOD = csv_of(log()).decode()
_HEAD, *_LINES = _GOOD.splitlines()
_MANY = [f"x{n}" for n in range(3000)]
"""Names of columns, or values of them."""


def _csv(*changed: str, head: str = _HEAD, end: str = "\n") -> bytes:
    """The good CSV, these lines in place of its first ones."""
    return end.join([head, *changed, *_LINES[len(changed) :], ""]).encode()


CSVS: dict[str, tuple[bytes, Ending, dict[str, Any]]] = {
    "good": (_csv(), "result", {}),
    "short lines": (_csv("u1,1", "u2"), "result", {}),
    "long lines": (_csv("u1,1,1700000000,3,c1,x,1,extra,more"), "result", {}),
    "all short": ("\n".join([_HEAD, *["u1,1"] * 50]).encode(), "message", {}),
    "empty lines": (_csv("", "", ""), "result", {}),
    "only empty lines": (b"\n\n\n\n", "message", {}),
    "open quote": (_csv('u1,1,1700000000,3,"c1,x,1'), "either", {}),
    "open quote at the end": (_csv() + b'u1,1,1700000000,3,"c1', "either", {}),
    "quotes within": (_csv('u1,1,1700000000,3,"c""1",x,1'), "result", {}),
    "quotes astray": (_csv('u1,1,1700000000,3,c"1"2,x,1'), "result", {}),
    "nul bytes": (_csv("u\x001,1,1700000000,3,c\x00,x,1"), "result", {}),
    "only nul bytes": (b"\x00" * 4096, "message", {}),
    "byte order mark": (b"\xef\xbb\xbf" + _csv(), "result", {}),
    "latin 1": (_csv("u1,1,1700000000,3,Zürich,x,1").decode().encode("latin-1"), "result", {}),
    "utf 16": (_GOOD.encode("utf-16"), "message", {}),
    "utf 16, said": (_GOOD.encode("utf-16"), "either", {"options": {"encoding": "UTF-16"}}),
    "unknown encoding": (_csv(), "message", {"options": {"encoding": "klingon"}}),
    "encoding cut short": (_csv("u1,1,1700000000,3,\ud83e,x,1".encode("utf-8", "surrogatepass")
                                .decode("latin-1")).decode().encode("latin-1"), "result", {}),
    "huge field": (_csv(f"u1,1,1700000000,3,{'x' * 5_000_000},x,1"), "result", {}),
    "huge number of digits": (_csv(f"u1,1,1700000000,{'9' * 400},c1,x,1"), "either", {}),
    "no rows": (_HEAD.encode(), "message", {}),
    "nothing": (b"", "message", {}),
    "one row": (f"{_HEAD}\n{_LINES[0]}\n".encode(), "message", {}),
    "no header": ("\n".join(_LINES).encode(), "message", {}),
    "another separator": (_GOOD.replace(",", ";").encode(), "message", {}),
    "separator of two": (_GOOD.replace(",", "||").encode(), "result", {"options": {"sep": "||"}}),
    "separator of none": (_csv(), "message", {"options": {"sep": ""}}),
    "carriage returns": (_GOOD.replace("\n", "\r").encode(), "either", {}),
    "both ends": (_GOOD.replace("\n", "\r\n").encode(), "result", {}),
    "comma at each end": (_GOOD.replace("\n", ",\n").encode(), "either", {}),
    "two columns alike": (_csv(head="u,i,t,age,city,tags,city"), "message", {}),
    "two columns alike but for case": (_csv(head="u,i,t,age,city,U,clicked"), "message", {}),
    "columns without names": (_csv(head="u,i,t,age,city,,clicked"), "message", {}),
    "many columns": (
        "\n".join(",".join([line, *_MANY]) for line in [_HEAD, *_LINES]).encode(), "result", {}),
    # Not more: for each value that a line lacks, Spark goes through all columns.
    "many columns in the head only": (
        "\n".join([",".join([_HEAD, *_MANY[:500]]), *_LINES]).encode(),
        "message", {}),
    "random bytes": (np.random.default_rng(0).bytes(20_000), "message", {}),
    "zip": (b"PK\x03\x04" + np.random.default_rng(1).bytes(3_000), "message", {}),
    "columns of other types": (_csv(), "either",
        {"columns": "u INT, i INT, t INT, age DOUBLE, city INT, tags STRING, clicked INT"}),
    "too few columns said": (_csv(), "message", {"columns": "u STRING, i INT"}),
    "columns said twice": (_csv(), "message", {"columns": "u STRING, u INT"}),
    "columns that are no types": (_csv(), "message", {"columns": "u WIDGET"}),
    "columns with sql": (_csv(), "message", {"columns": "u INT); DROP TABLE x; --"}),
    "unknown option": (_csv(), "result", {"options": {"frobnicate": "yes"}}),
    "option of a wrong type": (_csv(), "message", {"options": {"header": "perhaps"}}),
    "option that loses rows": (_csv(), "message", {"options": {"mode": "DROPMALFORMED"}}),
    "comments": (_csv("#u1,1,1,1,1,1,1"), "result", {"options": {"comment": "#"}}),
    "spaces": (_csv(" u1 , 1 , 1700000000 , 3 , c1 , x , 1 "), "either", {}),
    "numbers with commas": (_csv('u1,1,1700000000,"1,5",c1,x,1'), "result", {}),
    "numbers of other scripts": (_csv("u1,1,1700000000,１２,c1,x,1"), "result", {}),
    "hexadecimal": (_csv("u1,0x1F,1700000000,0x10,c1,x,1"), "either", {}),
    "long integers": (_csv("u1,9223372036854775808,1700000000,3,c1,x,1"), "either", {}),
    "xml": (b"<?xml version='1.0'?><log><row/></log>", "message", {}),
}  # fmt: skip

_GOOD_LINES = lines_of(log().astype(object).where(log().notna(), None))


def _json(*changed: str) -> bytes:
    return "\n".join([*changed, *_GOOD_LINES[len(changed) :], ""]).encode("utf-8", "surrogatepass")


def _row(**changed: Any) -> str:
    return json.dumps(json.loads(_GOOD_LINES[1]) | changed)


JSONS: dict[str, tuple[bytes, Ending]] = {
    "good": (_json(), "result"),
    "cut line": (_json('{"u": "u1", "i":'), "result"),
    "cut file": (_json()[:-20], "result"),
    "no json": (_json("hello"), "result"),
    "all no json": (b"hello\n" * 50, "message"),
    "nothing": (b"", "message"),
    "nul bytes": (b"\x00" * 1000, "message"),
    "array": (("[" + ",\n".join(_GOOD_LINES) + "]").encode(), "either"),
    "one key twice": (_json('{"u": "u1", "u": "u2", "i": 1, "t": 1700000000, "clicked": 1}'),
                      "either"),
    "keys of two cases": (_json('{"u": "u1", "U": "u2", "i": 1, "clicked": 1}'), "message"),
    "mixed types": (_json(_row(age="many")), "either"),
    "nested": (_json(_row(city={"name": "c1"})), "either"),
    "list": (_json(_row(city=["c1", None])), "either"),
    "list of lists": (_json(_row(tags=[["x"], []])), "either"),
    "null": (_json("null"), "either"),
    "number": (_json("42"), "either"),
    "true for one": (_json(_row(clicked=True)), "either"),
    "nan": (_json('{"u": "u1", "i": 1, "t": 1700000000, "age": NaN, "clicked": 1}'), "either"),
    "1e400": (_json('{"u": "u1", "i": 1, "t": 1700000000, "age": 1e400, "clicked": 1}'), "either"),
    "huge integer": (_json(f'{{"u": "u1", "i": {"9" * 300}, "t": 1700000000, "clicked": 1}}'),
                     "either"),
    "lone surrogate": (_json('{"u": "\\ud800", "i": 1, "t": 1700000000, "clicked": 1}'), "result"),
    "bytes that are no text": (_json('{"u": "@@", "i": 1, "t": 1700000000, "clicked": 1}')
                               .replace(b"@@", b"\xff\xfe"), "result"),
    "deep": (_json("[" * 3000 + "]" * 3000), "either"),
    "deep object": (_json('{"a":' * 2500 + "1" + "}" * 2500), "either"),
    "byte order mark": (b"\xef\xbb\xbf" + _json(), "either"),
    "utf 16": ("\n".join(_GOOD_LINES).encode("utf-16"), "either"),
    "long text": (_json(_row(city="x" * 25_000_000)), "either"),
    "names with dots": (_json(_row(**{"a.b": 1, "a b": 2, "`": 3, "": 4})), "result"),
    "single quotes": (_json(_GOOD_LINES[0].replace('"', "'")), "result"),
    "infinity": (_json('{"u": "u1", "i": 1, "t": 1700000000, "age": Infinity, "clicked": 1}'),
                 "either"),
}  # fmt: skip


def _arrow(**columns: pa.Array) -> pa.Table:
    """The good log, these columns in place of its own."""
    table = pa.Table.from_pandas(log(), preserve_index=False)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, values) if at >= 0 else table.append_column(name, values)
    return table


def _not_utf8(rows: int = ROWS) -> pa.Array:
    """Strings, as Parquet has them, some of which are none."""
    texts = [b"\xff\xfe\x80" if n % 12 == 1 else b"c%d" % (n % 5) for n in range(rows)]
    binary = pa.array(texts, pa.binary())
    return pa.Array.from_buffers(pa.string(), rows, binary.buffers())


ARROWS: dict[str, tuple[pa.Table, Ending]] = {
    "no rows": (_arrow().slice(0, 0), "message"),
    "no such columns": (pa.table({"x": [1, 2]}), "message"),
    "nulls without a type": (_arrow(city=pa.nulls(ROWS)), "either"),
    "user without a type": (_arrow(u=pa.nulls(ROWS)), "message"),
    "text that is not utf-8, of a field": (_arrow(city=_not_utf8()), "either"),
    "text that is not utf-8, of a key": (_arrow(u=_not_utf8()), "either"),
    "text that is not utf-8, of a list": (_arrow(tags=_not_utf8()), "either"),
    "text that is not utf-8, unused": (_arrow(unused=_not_utf8()), "either"),
    "binary": (_arrow(city=pa.array([b"\x00\xff"] * ROWS)), "either"),
    "binary key": (_arrow(u=pa.array([b"\xff%d" % (n % 5) for n in range(ROWS)])), "either"),
    "unsigned": (_arrow(i=pa.array([2**64 - 1 - n % 7 for n in range(ROWS)], pa.uint64())),
                 "either"),
    "decimals": (_arrow(i=pa.array([n % 9 for n in range(ROWS)]).cast(pa.decimal128(38, 2))),
                 "either"),
    "decimals of a number": (_arrow(age=pa.array([9.0] * ROWS).cast(pa.decimal128(38, 10))),
                             "either"),
    "int64 limits": (_arrow(i=pa.array([(-1) ** n * (2**63 - 1) for n in range(ROWS)])), "result"),
    "float key": (_arrow(i=pa.array([n % 7 / 2 for n in range(ROWS)])), "message"),
    "nanoseconds": (_arrow(t=pa.array([10**18 + n for n in range(ROWS)], pa.timestamp("ns"))),
                    "either"),
    "last timestamps": (_arrow(t=pa.array([2**63 - 1 - n for n in range(ROWS)],
                                          pa.timestamp("us"))), "either"),
    "first timestamps": (_arrow(t=pa.array([-(2**62) + n for n in range(ROWS)],
                                           pa.timestamp("us"))), "either"),
    "dates of year 1": (_arrow(t=pa.array([-719162 + n for n in range(ROWS)], pa.date32())),
                        "either"),
    "time of day": (_arrow(t=pa.array(list(range(ROWS)), pa.time64("us"))), "either"),
    "interval": (_arrow(t=pa.array(list(range(ROWS)), pa.duration("us"))), "either"),
    "struct": (_arrow(city=pa.array([{"a": 1}] * ROWS)), "either"),
    "map": (_arrow(city=pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64()))), "either"),
    "list": (_arrow(city=pa.array([["a"]] * ROWS)), "either"),
    "list of a key": (_arrow(u=pa.array([["a", "b"]] * ROWS)), "either"),
    "list of numbers": (_arrow(tags=pa.array([[1, 2, None]] * ROWS)), "result"),
    "list of structs": (_arrow(tags=pa.array([[{"a": 1}]] * ROWS)), "either"),
    "long lists": (_arrow(tags=pa.array([[str(n) for n in range(5000)]] * ROWS)), "result"),
    "struct as a number": (_arrow(age=pa.array([{"a": 1}] * ROWS)), "message"),
    "list as a number": (_arrow(age=pa.array([[1.0]] * ROWS)), "message"),
    "label a list": (_arrow(clicked=pa.array([[1]] * ROWS)), "message"),
    "two columns alike": (pa.table([*_arrow().columns, pa.array(range(ROWS))],
                                   names=[*_arrow().column_names, "City"]), "message"),
    "two columns the same": (pa.table([*_arrow().columns, pa.array(range(ROWS))],
                                      names=[*_arrow().column_names, "city"]), "message"),
    "dictionary": (_arrow(city=pa.array(["a", "b"] * (ROWS // 2)).dictionary_encode()), "result"),
}  # fmt: skip


LOGS: dict[str, tuple[pd.DataFrame, Ending, dict[str, Any]]] = {
    "one user": (log(u="u"), "result", {}),
    "one item": (log(i=1), "result", {}),
    "one user, one item": (log(u="u", i=1), "result", {}),
    "one class": (log(clicked=1), "message", {}),
    "other class": (log(clicked=0), "message", {}),
    "one positive": (log(clicked=[1] + [0] * (ROWS - 1)), "message", {}),
    "one row": (log(1), "message", {}),
    "two rows": (log(2), "message", {}),
    "five rows": (log(5), "message", {}),
    "every row twice": (pd.concat([log(), log()]), "result", {}),
    "duplicates refused": (pd.concat([log(), log()]), "message",
                           {"quality": {"duplicates": "quarantine"}}),
    "duplicates tolerated": (pd.concat([log(), log()]), "result",
                             {"quality": {"duplicates": "quarantine", "max_share": 1}}),
    "no city": (log(city=pd.Series([None] * ROWS, dtype=object)), "either", {}),
    "no age": (log(age=np.nan), "message", {}),
    "no tags": (log(tags=pd.Series([""] * ROWS)), "result", {}),
    "no users": (log(u=pd.Series([None] * ROWS, dtype=object)), "message", {}),
    "some without user": (log(u=some("u", None)), "result", {}),
    "empty users": (log(u=some("u", "")), "result", {}),
    "constant age": (log(age=7.0), "result", {}),
    "label 2": (log(clicked=some("clicked", 2).astype(float)), "result", {}),
    "label minus 1": (log(clicked=log()["clicked"] * 2 - 1), "message", {}),
    "label nan": (log(clicked=some("clicked", np.nan).astype(float)), "result", {}),
    "label inf": (log(clicked=some("clicked", np.inf).astype(float)), "result", {}),
    "label half": (log(clicked=0.5), "message", {}),
    "label of words": (log(clicked=pd.Series(["yes", "no"] * (ROWS // 2))), "message", {}),
    "label of texts": (log(clicked=log()["clicked"].astype(str)), "result", {}),
    "label true": (log(clicked=log()["clicked"].astype(bool)), "result", {}),
    "age of words": (log(age=pd.Series(["old", "young"] * (ROWS // 2))), "message", {}),
    "age of texts": (log(age=log()["i"].astype(str)), "result", {}),
    "age true": (log(age=log()["clicked"].astype(bool)), "either", {}),
    "times alike": (log(t=1), "message", {"split": {"by": "time"}}),
    "times alike, last": (log(t=1), "result", {"split": {"by": "last"}}),
    "a row for each user": (log(u=pd.Series(range(ROWS)).astype(str)), "message",
                            {"split": {"by": "last"}}),
    "a value for each row": (log(city=pd.Series(range(ROWS)).astype(str)), "result", {}),
    "no value often enough": (log(), "result", {"fields": [
        {**FIELDS[0], "min_count": 10**6}, FIELDS[2]]}),
    "missing is all": (log(age=-124.0), "message", {"fields": [
        *FIELDS[:1], {**FIELDS[1], "missing": [-124]}, *FIELDS[2:]]}),
    "default beyond float32": (log(), "either", {"fields": [
        *FIELDS[:1], {"name": "age", "side": "user", "encode": "value",
                      "impute": {"default": 1e308}}, *FIELDS[2:]]}),
    "bucket of one value": (log(age=1.0), "result", {"fields": [
        *FIELDS[:1], {"name": "age", "side": "user", "encode": "bucket"}, *FIELDS[2:]]}),
    "bucket of none": (log(age=np.nan), "either", {"fields": [
        *FIELDS[:1], {"name": "age", "side": "user", "encode": "bucket"}, *FIELDS[2:]]}),
    "cross of many": (log(city=pd.Series(range(ROWS)).astype(str)), "result",
                      {"crosses": [{"name": "both", "fields": ["user", "city"]}]}),
    "history without time order": (log(t=1), "result",
                                   {"history": [{"name": "had", "of": "item"}]}),
    "history of times missing": (log(t=some("t", None)), "result",
                                 {"history": [{"name": "had", "of": "item"}]}),
    "history of nothing liked": (log(clicked=some("clicked", 1, 6) * 0 + 0), "message",
                                 {"history": [{"name": "had", "of": "item"}]}),
    "negatives of one item": (log(i=1), "result", {"negatives": {"per_positive": 2}}),
    "negatives beyond the items": (log(), "either", {"negatives": {"per_positive": 10**6}}),
    "separator of a pattern": (log(tags=pd.Series(["a.*b.*c"] * ROWS)), "result", {"fields": [
        *FIELDS[:3], {**FIELDS[3], "separator": ".*"}, FIELDS[4]]}),
    "separator of spaces": (log(tags=pd.Series(["a b  c"] * ROWS)), "result", {"fields": [
        *FIELDS[:3], {**FIELDS[3], "separator": " "}, FIELDS[4]]}),
    "a rule that none meets": (log(), "message",
                               {"quality": {"rules": [{"name": "never", "expr": "false"}]}}),
    "a rule of null": (log(), "message",
                       {"quality": {"rules": [{"name": "null", "expr": "cast(null as boolean)"}]}}),
    "a rule that is no condition": (log(), "message",
                                    {"quality": {"rules": [{"name": "r", "expr": "i + 1"}]}}),
    "a rule named in sql": (log(), "result", {"quality": {"rules": [
        {"name": "'; DROP TABLE x; -- `a.b` {{ }}", "expr": "i >= 0"}]}}),
    "a rule without a name": (log(), "either", {"quality": {"rules": [
        {"name": "", "expr": "i > 0"}], "max_share": 1}}),
    "a seed beyond int64": (log(), "message", {"split": {"seed": 2**63}}),
    "the least seed": (log(), "result", {"split": {"seed": -(2**63)}}),
    "a huge seed of negatives": (log(), "message",
                                 {"negatives": {"per_positive": 1, "seed": 10**30}}),
    "more buckets than integers": (log(), "message", {"fields": [
        {"name": "user", "side": "user", "expr": "u", "encode": "hash", "buckets": 2**40},
        FIELDS[2]]}),
    "more values held than integers": (log(), "either",
                                       {"prepare": {"broadcast_values": 2**70}}),
    "batch named in sql": (log(), "result", {"prepare": {"batch": "'; DROP TABLE x; --\n../.."}}),
    "batch named by nothing": (log(), "result", {"prepare": {"batch": ""}}),
    "append to nothing": (log(), "message", {"prepare": {"mode": "append"}}),
    "refit of nothing": (log(), "message", {"prepare": {"mode": "refit"}}),
}  # fmt: skip

TIMES: dict[str, Any] = {
    "zero": 0, "negative": -1, "int64 max": 2**63 - 1, "int64 min": -(2**63), "nan": np.nan,
    "inf": np.inf, "1e308": 1e308, "no such day": "2024-02-30", "year 9999": "9999-12-31",
    "year 1": "0001-01-01", "year 99999": "99999-01-01", "word": "yesterday", "nothing": "",
    "unknown zone": "2024-01-01 00:00:00 Nowhere/City", "month 13": "2024-13-01",
}  # fmt: skip

WEIGHTS = [0.0, -1.0, np.nan, np.inf, 1e308, 1e-320, 3.4e38, 2.0]

CHANGES: list[tuple[str, Any]] = [
    ("source", None), ("source", []), ("source.interactions", "log.csv"),
    ("source.interactions.format", "xlsx"), ("source.interactions.format", ["csv"]),
    ("source.interactions.path", None), ("source.interactions.path", []),
    ("source.interactions.path", ""), ("source.interactions.path", "/nowhere/at/all.parquet"),
    ("source.interactions.path", "/nowhere/a\x00b"), ("source.interactions.path", "s3a://none/x"),
    ("source.interactions.path", "jdbc:nothing"), ("source.interactions.path", "http://["),
    ("source.interactions.path", "bogus://x/y"), ("source.interactions.path", "/nowhere/[x"),
    ("source.interactions.path", "a:b:c"), ("source.interactions.path", "{"),
    ("source.interactions.version", -1), ("source.interactions.version", 3),
    ("source.interactions.options", ["header"]), ("source.interactions.options", {"sep": [1]}),
    ("source.interactions.options", {1: 2}), ("source.interactions.columns", 3),
    ("source.users", {"format": "csv", "path": "/nowhere/users.csv"}),
    ("label", None), ("label", ""), ("label", 3), ("label", ["clicked"]), ("label", "klicked"),
    ("label", "clicked ="), ("label", "max(clicked)"), ("label", "'yes'"), ("label", "rand()"),
    ("weight", "nothing"), ("weight", "-1"), ("keys", []), ("keys.user", "nobody"),
    ("keys.user", "rand()"), ("keys.user", "null"), ("keys.user", ""), ("keys.time", "array(1)"),
    ("keys.time", "city"), ("keys.when", "t"), ("keys", None), ("fields", []), ("fields", None),
    ("fields", {}), ("fields", "user"), ("fields", [1, 2]), ("fields.0", {}), ("fields.0", None),
    ("fields.0.name", ""), ("fields.0.name", "a b"), ("fields.0.name", "a.b"),
    ("fields.0.name", "é"), ("fields.0.name", "'; DROP"), ("fields.0.name", "label"),
    ("fields.0.name", "AGE"), ("fields.0.name", "../x"), ("fields.0.name", 7),
    ("fields.0.name", "x" * 10_000), ("fields.0.side", "left"), ("fields.0.encode", "magic"),
    ("fields.0.encode", None), ("fields.0.min_count", 0), ("fields.0.min_count", "many"),
    ("fields.0.min_count", 1.5), ("fields.0.min_count", 10**40), ("fields.0.impute", "mean"),
    ("fields.0.buckets", 3), ("fields.1.impute", "best"), ("fields.1.impute", {"default": "old"}),
    ("fields.1.impute", {"default": float("nan")}), ("fields.1.impute", {"default": float("inf")}),
    ("fields.1.scale", "log"), ("fields.1.missing", float("nan")), ("fields.1.missing", "x"),
    ("fields.1.check", {"minimum": 5, "maximum": 1}), ("fields.1.check", {"minimum": "low"}),
    ("fields.1.check", {"maximum": -1}), ("fields.1.check", {"allowed": []}),
    ("fields.3.max_values", 0), ("fields.3.max_values", 10**6), ("fields.3.separator", ""),
    ("crosses", [{"name": "x", "fields": ["user"]}]),
    ("crosses", [{"name": "x", "fields": ["user", "nobody"]}]),
    ("crosses", [{"name": "x", "fields": ["user", "user"]}]),
    ("crosses", [{"name": "x", "fields": ["user", "city"], "buckets": 10**12}]),
    ("history", [{"name": "h", "of": "city"}]),
    ("history", [{"name": "h", "of": "item", "length": 10**9}]),
    ("negatives", {"per_positive": 0}), ("negatives", {"per_positive": float("inf")}),
    ("split.by", "chance"), ("split.test", 1), ("split.test", 0), ("split.test", float("nan")),
    ("split.validation", 0.9), ("split.validation", 1e-300), ("split.seed", "x"),
    ("split.seed", 1.5), ("split", {"by": "time", "last": 3}),
    ("quality.max_share", 2), ("quality.max_share", float("nan")),
    ("quality.rules", [{"name": "label", "expr": "true"}]),
    ("quality.rules", [{"name": "a", "expr": "nothing > 0"}]), ("quality.duplicates", "drop"),
    ("prepare.mode", "some"), ("prepare.broadcast_values", 0),
    ("model.name", "transformer"), ("model.embedding_size", 0), ("model.embedding_size", 10**30),
    ("model.embedding_size", 2**40), ("model.attention_size", -1), ("model.dropout", 1),
    ("model.dropout", float("nan")), ("model.init_std", float("inf")), ("model.init_std", 0),
    ("train.learning_rate", float("inf")), ("train.learning_rate", float("nan")),
    ("train.learning_rate", -1), ("train.learning_rate", "fast"), ("train.epochs", 0),
    ("train.epochs", 10**30), ("train.batch_size", 2**70), ("train.seed", -1),
    ("train.seed", 2**80), ("train.run", "../../x"), ("train.run", "latest"), ("train.run", "a b"),
    ("train.run", ""), ("train.run", "'; DROP"), ("train.logs", ["paper"]),
    ("train.clip_norm", float("inf")), ("train.l2.embedding", float("inf")),
    ("train.shuffle_rows", 10**25), ("train.checkpoint_steps", 10**25),
    ("score.top_k", 0), ("score.top_k", 2**40), ("score.min_score", 2),
    ("score.min_score", float("nan")), ("score.context", {"nobody": 1}),
    ("score.context", {"city": float("inf")}), ("score.context", {"city": [1]}),
    ("score.exclude_seen", ["future"]), ("score.contexts", [{"name": ""}]),
    ("monitor.psi", float("inf")), ("monitor.psi", 0),
    ("tune", {"ranges": {}}), ("tune", {"ranges": {"train.nothing": {"low": 0, "high": 1}}}),
    ("tune", {"ranges": {"train.dropout": 3}}), ("tables", None), ("tables.root", None),
    ("tables.root", 3), ("tables.root", ""), ("tables.root", "s3://x/y"),
    ("tables.root", "/proc/nothing"), ("tables.root", "/dev/null/x"), ("tables.root", "a\x00b"),
    ("tables.nothing", 1), ("nothing", 1), ("", 1), ("évaluate", {}),
]  # fmt: skip
"""Values that the door, or else the job, refuses."""

YAMLS: dict[str, bytes] = {
    "nothing": b"",
    "a word": b"hello",
    "a list": b"- 1\n- 2\n",
    "only a comment": b"# nothing\n",
    "nul bytes": b"\x00\x00\x00",
    "control characters": b"label: \x07\n",
    "latin 1": "label: Zürich\n".encode("latin-1"),
    "utf 16": "label: x\n".encode("utf-16"),
    "random bytes": np.random.default_rng(2).bytes(3_000),
    "open quote": b'label: "clicked\n',
    "open bracket": b"fields: [1, 2\n",
    "tabs": b"source:\n\tinteractions: x\n",
    "bad indentation": b"source:\n    a: 1\n  b: 2\n",
    "python object": b"label: !!python/object/apply:os.system ['touch /tmp/never']\n",
    "python name": b"label: !!python/name:os.system\n",
    "unknown tag": b"label: !widget x\n",
    "unknown alias": b"label: *nobody\n",
    "alias of itself": b"source: &a [*a]\n",
    "laughs": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9))
               for c in range(ord("b"), ord("k"))),
    "deep": b"[" * 5_000,
    "deep and closed": b"a: " + b"[" * 3_000 + b"]" * 3_000,
    "deep maps": b"".join(b" " * n + b"a:\n" for n in range(1_500)),
    "no such day": b"label: 2024-13-45\n",
    "digits": b"label: " + b"9" * 5_000 + b"\n",
    "odd number": b"label: 0b_\n",
    "forced number": b"label: !!int many\n",
    "forced time": b"label: !!timestamp never\n",
    "forced day": b"label: !!timestamp 2024-13-45\n",
    "forced binary": b"label: !!binary '###'\n",
    "forced set": b"label: !!set [1]\n",
    "list as a key": b"[1]: 2\n",
    "map as a key": b"{a: 1}: 2\n",
    "number as a key": b"1: 2\nsource: {2: 3}\n",
    "null as a key": b"~: 2\n",
    "two documents": b"label: a\n---\nlabel: b\n",
    "a key twice": b"label: clicked\nlabel: bought\n",
    "a key twice within": b"keys: {user: u, user: v}\n",
    "merge of nothing": b"<<: 3\n",
    "huge": b"label: " + b"x" * 3_000_000 + b"\n",
    "json": b'{"label": "clicked"}',
    "xml": b"<config/>",
}  # fmt: skip


def _changed(key: str, value: Any) -> dict[str, Any]:
    """Sections with a value at a dotted key."""
    section, *path = key.split(".")
    if not path:
        return {section: value}
    base: dict[str, Any] = {
        "source": {"interactions": {"format": "parquet", "path": "log.parquet"}},
        "keys": KEYS, "fields": FIELDS, "tables": {"root": "tables"},
    }  # fmt: skip
    made = json.loads(json.dumps(base.get(section, {})))
    node: Any = made
    for part in path[:-1]:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    last = path[-1]
    node[int(last) if isinstance(node, list) else last] = value
    return {section: made}


def fuzzed(count: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """Good files, damaged at random: a name, the file's name and its content."""
    random = np.random.default_rng(seed)
    odd = [b"\x00", b'"', b",", b"\n", b"\r", b"\xff", b"{", b"'", b"\\", b"9" * 30, "é".encode()]
    good = {"log.csv": _csv(), "log.json": _json(), "log.parquet": parquet_of(log())}
    for number in range(count):
        name = [*good][number % 3]
        content = bytearray(good[name])
        for _ in range(int(random.integers(1, 30))):
            at = int(random.integers(len(content)))
            match random.integers(4):
                case 0:
                    content[at] = int(random.integers(256))
                case 1:
                    content[at:at] = odd[random.integers(len(odd))]
                case 2:
                    del content[at : at + int(random.integers(1, 40))]
                case _:
                    content[at:at] = content[at : at + int(random.integers(1, 60))]
        yield f"fuzzed {number}", name, bytes(content)


def data_cases() -> Iterator[Case]:
    """Logs and expressions, wrong or odd."""
    good = as_parquet(log())
    huge = [text for text in TEXTS.values() if len(text) > 1_000]
    short = [text for text in TEXTS.values() if text not in huge]
    for name, texts in {"texts": short, "huge texts": huge}.items():
        frame = with_texts(texts)
        yield Case(name, as_parquet(frame), "result", rows=len(frame), kept=tuple(texts))
    written = [t for t in short if t == t.strip() and not set(t) & set('\r\n\0\\\ufeff"')]
    frame = with_texts(written)
    lines = "\n".join(lines_of(frame.astype(object).where(frame.notna(), None))).encode()
    for file, content in {"log.csv": csv_of(frame), "log.json": lines}.items():
        write = as_bytes(file, content)
        yield Case(f"texts in {file}", write, "result", rows=len(frame), kept=tuple(written))
    bucket = {"name": "bucketed", "side": "context", "expr": "age", "encode": "bucket"}
    for scale in ("none", "minmax", "standard", "log1p"):
        for what, numbers in {"all": list(NUMBERS.values()), "tiny": [5e-324, 0.0]}.items():
            frame = log()
            values = [numbers[n // 4 % len(numbers)] if n % 4 == 1 else 1.5 for n in range(ROWS)]
            if what == "tiny":
                values = [numbers[n % 2] for n in range(ROWS)]
            fields = [FIELDS[0], {**FIELDS[1], "scale": scale}, *FIELDS[2:], bucket]
            sections = {"fields": fields, "quality": {"max_share": 0.5}}
            write = as_parquet(log(age=values))
            yield Case(f"numbers, {what}, {scale}", write, "result", sections, rows=ROWS)
    for name, moment in TIMES.items():
        times = some("t", moment)
        times = times.astype(str) if isinstance(moment, str) else times.astype(type(moment))
        sections = {"split": {"by": "time"}, "history": [{"name": "had", "of": "item"}]}
        sections |= {"quality": {"max_share": 0.2}}
        if isinstance(moment, str):
            days = pd.Series([f"2024-01-{1 + n // 5:02}" for n in range(ROWS)])
            times = days.where(days.index % 12 != 1, moment)
        frame = log(t=times, clicked=log().index // 3 % 2)  # in each part are both
        yield Case(f"time: {name}", as_parquet(frame), "result", sections, rows=ROWS)
    weights = [WEIGHTS[n // 4 % len(WEIGHTS)] if n % 4 == 1 else 1.5 for n in range(ROWS)]
    odd_weights = {"weight": "w", "quality": {"max_share": 0.5}}
    for name, frame in {"numbers": log(w=weights), "words": log(w=list(map(str, weights)))}.items():
        yield Case(f"weights: {name}", as_parquet(frame), "result", odd_weights, rows=ROWS)
    names = [name for name in COLUMN_NAMES if name not in NOT_COLUMNS]
    for part in (names[::2], names[1::2], *([name] for name in NOT_COLUMNS)):
        frame, fields = with_columns([COLUMN_NAMES[name] for name in part])
        shown, ending = ", ".join(part), "either" if len(part) == 1 else "result"
        yield Case(f"columns: {shown}", as_parquet(frame), ending, {"fields": fields}, rows=ROWS)
        csv = as_bytes("log.csv", csv_of(frame))
        yield Case(f"columns of csv: {shown}", csv, "either", {"fields": fields}, rows=ROWS)
    for name, root in ROOTS.items():
        yield Case(f"root: {name}", good, "either", root=root, rows=ROWS)
    for name, expression in EXPRESSIONS.items():
        odd = {"name": "odd", "side": "context", "expr": expression, "encode": "index"}
        yield Case(f"expression: {name}", good, "either", {"fields": [*FIELDS, odd]}, rows=ROWS)
    for name, (frame, ending, sections) in LOGS.items():
        yield Case(f"log: {name}", as_parquet(frame), ending, sections, rows=len(frame))
    for name, (content, ending, table) in CSVS.items():
        yield Case(f"csv: {name}", as_bytes("log.csv", content), ending, NARROW, table)
    for name, (content, ending) in JSONS.items():
        yield Case(f"json: {name}", as_bytes("log.json", content), ending, NARROW)
    for name, (table, ending) in ARROWS.items():
        yield Case(f"parquet: {name}", as_arrow(table), ending)
    yield from _files()
    for name, path, content in fuzzed(45):
        yield Case(name, as_bytes(path, content), "either", NARROW)


def _files() -> Iterator[Case]:
    whole, other = parquet_of(log()), parquet_of(log(city=1, age="x"))
    damaged = {
        "cut": whole[: len(whole) // 2],
        "no bytes": b"",
        "only magic": b"PAR1",
        "csv called parquet": csv_of(log()),
        "bytes within": whole[:200] + b"\xff" * 100 + whole[300:],
        "footer": whole[:-40] + b"\x00" * 32 + whole[-8:],
    }
    for name, content in damaged.items():
        ending: Ending = "either" if name == "footer" else "message"  # only who wrote it
        yield Case(f"file: {name}", as_bytes("log.parquet", content), ending)
    folder = as_files(
        {"log.parquet/a.parquet": whole, "log.parquet/b.parquet": other}, "log.parquet"
    )
    yield Case("file: two schemas", folder, "message")
    empty = as_files({"log.parquet/_SUCCESS": b""}, "log.parquet")
    yield Case("file: an empty folder", empty, "message")
    half = as_files({"log.parquet/a.parquet": whole, "log.parquet/b.parquet": whole[:99]},
                    "log.parquet")  # fmt: skip
    yield Case("file: a folder, one cut", half, "message")
    packed = gzip.compress(csv_of(log()))
    gz = {"format": "csv"}
    for name, content in {"cut": packed[:-30], "no gzip": csv_of(log())}.items():
        write = as_files({"log.csv/log.csv.gz": content}, "log.csv")
        yield Case(f"file: gzip, {name}", write, "either", table=gz)
    hidden = as_files({"log.csv/_log.csv": csv_of(log())}, "log.csv")
    yield Case("file: a hidden one", hidden, "message")
    yield Case("file: parquet called csv", as_bytes("log.csv", whole), "message")
    yield Case("file: parquet called json", as_bytes("log.json", whole), "message")


def yaml_cases() -> Iterator[Case]:
    """Configurations that are wrong."""
    nothing: Write = as_parquet(log())
    for name, text in YAMLS.items():
        yield Case(f"yaml: {name}", nothing, "message", yaml=text)
    for n, (key, value) in enumerate(CHANGES):
        shown = f"{key} = {value!r}"[:60].replace("\x00", "NUL")
        yield Case(f"{n} {shown}", nothing, "either", _changed(key, value))


def all_cases() -> Sequence[Case]:
    """The whole corpus, names unique."""
    cases = [*yaml_cases(), *data_cases()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    return cases
