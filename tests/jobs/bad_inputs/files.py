"""Logs that cannot be read, or not easily: CSV, JSON and Parquet, damaged by hand and at random."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tests.jobs.bad_inputs.case import (
    NARROW,
    ROWS,
    Case,
    Ending,
    as_arrow,
    as_bytes,
    as_files,
    csv_of,
    lines_of,
    log,
    parquet_of,
)

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


def cases() -> Iterator[Case]:
    """Files, wrong or odd."""
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
