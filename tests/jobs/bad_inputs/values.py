"""Odd values, names and expressions: in logs that can be read, and in what is said of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tests.jobs.bad_inputs.case import (
    FIELDS,
    ROWS,
    Case,
    Ending,
    as_bytes,
    as_parquet,
    csv_of,
    lines_of,
    log,
    some,
)

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


def cases() -> Iterator[Case]:
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
        labels = log().index * 5 // 12 % 2  # in each part are both, and so are they of odd times
        frame = log(t=times, clicked=labels)
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
