"""Configurations that are wrong: values of single keys, and YAML that is none."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.jobs.bad_inputs.case import FIELDS, KEYS, Case, Write, as_parquet, log

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


def cases() -> Iterator[Case]:
    """Configurations that are wrong."""
    nothing: Write = as_parquet(log())
    for name, text in YAMLS.items():
        yield Case(f"yaml: {name}", nothing, "message", yaml=text)
    for n, (key, value) in enumerate(CHANGES):
        shown = f"{key} = {value!r}"[:60].replace("\x00", "NUL")
        yield Case(f"{n} {shown}", nothing, "either", _changed(key, value))
