"""Rules per field, duplicates and orphans, and what they report, against pandas."""

import numpy as np
import pandas as pd
import pytest

from features.clean import check_orphans, clean_interactions, clean_side
from features.errors import DataError
from features.findings import require_quality, tally
from features.prepare import prepare
from features.quality import RULE, Checked
from features.spec import SPLITS
from features.tables import read
from tests.features.conftest import small_log


def log_of(**columns: list) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    base = {"u": "a", "i": 1, "t": range(n), "clicked": [i % 2 for i in range(n)]}
    return pd.DataFrame(base | columns)


def checked_log(spark, make_config, log: pd.DataFrame, *fields: dict, **quality) -> Checked:
    """A log with some fields of the context; every share of refused rows is allowed."""
    config = make_config(
        log,
        fields=[
            {"name": "user", "side": "context", "expr": "u", "encode": "index"},
            *({"side": "context"} | f for f in fields),
            {"name": "item", "side": "context", "expr": "i", "encode": "index"},
        ],
        quality={"max_share": 1} | quality,
    )
    return clean_interactions(spark, config)


def rules(checked: Checked) -> list[str | None]:
    """The rule that each row breaks, in the order of time."""
    return [r[RULE] for r in checked.rows.orderBy("event_time").select(RULE).collect()]


@pytest.mark.parametrize(
    ("field", "values", "refused", "reason"),
    [
        (
            {"encode": "value", "missing": [-1], "check": {"minimum": 0, "maximum": 10}},
            ["0", "10", "10.5", "-0.1", "-1", None, "many", "NaN"],
            [None, None, "x.range", "x.range", None, None, "x", "x"],
            "`x` is less than 0 or more than 10",
        ),
        (
            {"encode": "value", "check": {"minimum": 2.5}},
            [2.5, 2.4, np.nan, 1e30],
            [None, "x.range", None, None],
            "`x` is less than 2.5",
        ),
        (
            {"encode": "value", "check": {"allowed": [1, 2.5]}},
            [1.0, 2.5, 2.0, np.nan],
            [None, None, "x.allowed", None],
            "`x` is not one of 1, 2.5",
        ),
        (
            {"encode": "index", "missing": ["?"], "check": {"allowed": ["a", 1, True]}},
            ["a", "1.0", "true", "b", "?", None],
            [None, None, None, "x.allowed", None, None],
            "`x` is not one of a, 1, true",
        ),
        (
            {"encode": "index", "check": {"allowed": [0, 1, 2, 3, 4, 5]}},
            [0.0, 5.0, 6.0, np.nan],
            [None, None, "x.allowed", None],
            "`x` is not one of 0, 1, 2, 3, 4, …",
        ),
        (
            {"encode": "multi", "missing": ["?"], "check": {"allowed": ["a", "b", 3]}},
            ["a| b", "a|c", "3", "?|a", "", None, "c"],
            [None, "x.allowed", None, None, None, None, "x.allowed"],
            "`x` is not one of a, b, 3",
        ),
        (
            {"encode": "multi", "check": {"allowed": [1, 2]}},
            [[1, 2], [1, 3], [], None],
            [None, "x.allowed", None, None],
            "`x` is not one of 1, 2",
        ),
    ],
    ids=["range", "minimum", "numbers", "texts", "many", "list", "array"],
)
def test_field_check_refuses_rows(
    spark, make_config, field: dict, values: list, refused: list, reason: str
) -> None:
    checked = checked_log(spark, make_config, log_of(x=values), {"name": "x"} | field)
    assert rules(checked) == refused
    reasons = {r["rule"]: r["reason"] for r in checked.quarantine.collect()}
    assert next(text for rule, text in reasons.items() if rule != "x") == reason


def test_field_check_has_a_share_of_its_own(spark, make_config) -> None:
    log = log_of(x=[1, 2, 3, 50], y=[1, 2, 3, 50])
    checks = [{"minimum": 0, "maximum": 9, "max_share": share} for share in (0.25, 0.2)]
    fields = [{"name": n, "encode": "value", "check": c} for n, c in zip("xy", checks, strict=True)]
    x, y = (checked_log(spark, make_config, log, field) for field in fields)
    require_quality([tally(x)], both_labels=True)
    message = (
        r"source.interactions: rule y.range refuses 1 of 4 rows \(25.0%, allowed 20.0%\): `y` is "
        r"less than 0 or more than 9. Correct the data or the expression, or allow more with "
        r"max_share \(of the rule, of the field's check or of quality\). Nothing was written"
    )
    with pytest.raises(DataError, match=message):
        require_quality([tally(y)], both_labels=True)


def test_too_many_missing_values_stop_the_job_and_refuse_no_row(spark, make_config) -> None:
    log = log_of(x=[1, -1, None, 4, 5], clicked=[0, 1, 0, 1, 7])
    field = {"name": "x", "encode": "index", "missing": [-1], "check": {"max_missing": 0.5}}
    counts = tally(checked_log(spark, make_config, log, field))
    assert counts.refused == {"label": 1}
    require_quality([counts], both_labels=True)
    field["check"] = {"max_missing": 0.49}
    message = (
        r"field x has no value in 2 of 4 accepted rows \(50.0%, allowed 49.0%\)\. .*"
        r"allow more with max_missing \(of the field's check\)\. Nothing"
    )
    with pytest.raises(DataError, match=message):
        require_quality([tally(checked_log(spark, make_config, log, field))], both_labels=True)


def repetitive_log(rows: int = 300) -> pd.DataFrame:
    n = pd.Series(range(rows))
    log = pd.DataFrame({"u": "u" + (n % 7).astype(str), "i": n % 5, "t": n % 3, "n": n})
    log["u"] = log["u"].where(n % 4 != 0)
    return log.assign(clicked=n.where(n % 11 != 0) % 2)


def test_duplicates_keep_one_of_the_rows_that_break_no_other_rule(spark, make_config) -> None:
    log = repetitive_log()
    field = {"name": "n", "encode": "none"}
    checked = checked_log(spark, make_config, log, field, duplicates="quarantine")
    usable = log[log["u"].notna() & log["clicked"].notna()]
    accepted = checked.accepted.toPandas()
    keys = accepted[["user_key", "item_key", "event_time"]]
    assert not keys.duplicated().any()
    assert set(keys.itertuples(index=False, name=None)) == set(
        usable[["u", "i", "t"]].itertuples(index=False, name=None)
    )
    assert set(accepted["n"]) <= set(usable["n"])
    counts = tally(checked)
    assert counts.refused == {
        "label": log["clicked"].isna().sum(),
        "user_key": (log["u"].isna() & log["clicked"].notna()).sum(),
        "duplicate": usable.duplicated(["u", "i", "t"]).sum(),
    }
    assert counts.accepted + checked.quarantine.count() == len(log)

    shuffled = log.sample(frac=1, random_state=3)
    again = checked_log(spark, make_config, shuffled, field, duplicates="quarantine")
    assert set(again.accepted.toPandas()["n"]) == set(accepted["n"])
    kept = checked_log(spark, make_config, log, field)
    assert kept.accepted.count() == len(usable)


def test_duplicates_choose_without_regard_to_the_label(spark, make_config) -> None:
    users = [f"u{n}" for n in range(400) for _ in range(2)]
    log = log_of(u=users, t=[0] * 800)  # each user once with label 0, once with 1
    counts = tally(checked_log(spark, make_config, log, duplicates="quarantine"))
    assert counts.accepted == 400
    assert 150 < counts.labels[0] < 250


def with_users(make_config, folder, log: pd.DataFrame, users: pd.DataFrame, **sections):
    """A pipeline whose users have a table of their own, with a number ``age``."""
    users.to_parquet(folder / "users.parquet", index=False)
    source = {
        "interactions": {"format": "parquet", "path": str(folder / "log.parquet")},
        "users": {"format": "parquet", "path": str(folder / "users.parquet")},
    }
    fields = [
        {"name": "age", "side": "user", "encode": "value", "check": {"maximum": 100}},
        {"name": "item", "side": "item", "expr": "i", "encode": "index"},
        {"name": "city", "side": "context", "encode": "index"},
    ]
    return make_config(log, source=source, fields=fields, **sections)


USERS = pd.DataFrame(
    {"u": ["u1", "u2", "u2", None, "u3", "new"], "age": [30.0, 40.0, 41.0, 50.0, 999.0, None]}
)


@pytest.mark.parametrize("orphans", ["keep", "quarantine"])
def test_orphans_are_counted_alike_whether_kept_or_not(
    spark, make_config, tmp_path, orphans: str
) -> None:
    log = small_log()
    log.loc[::9, "u"] = None
    quality = {"orphans": orphans, "max_share": 1}
    config = with_users(make_config, tmp_path, log, USERS, quality=quality)
    users = clean_side(spark, config, "user")
    checked = check_orphans(clean_interactions(spark, config), {"user": users}, config)
    counts = tally(checked)
    known = log["u"].isin(["u1", "u2"])  # the row of u3 is refused: nothing is known of it
    orphan_rows = (log["u"].notna() & ~known).sum()
    (found,) = [f for f in counts.findings if f.rule == "orphan_user"]
    assert (found.failed, found.rows) == (orphan_rows, 400)
    assert found.action == ("count" if orphans == "keep" else "quarantine")
    assert found.allowed == (None if orphans == "keep" else 1)
    if orphans == "quarantine":
        accepted = checked.accepted.toPandas()
        assert sorted(accepted["event_time"]) == sorted(log.loc[known, "t"])
        assert "orphan_user" not in accepted.columns
        assert {r["reason"] for r in checked.quarantine.collect()} == {
            "keys.user is null, or not UTF-8 text",
            "keys.user is not in source.users",
        }
    else:
        assert checked.accepted.count() == log["u"].notna().sum()
        plan = checked.accepted._jdf.queryExecution().optimizedPlan().toString()
        assert "Join" not in plan


@pytest.mark.parametrize("rule", ["duplicate", "orphan_user"])
def test_refused_rows_spread_over_all_tasks(spark, make_config, tmp_path, rule: str) -> None:
    """With null keys and equal content, they would all meet in one task."""
    log = small_log().assign(u=None, i=1, t=1, age=1.0, city="c", tags="x", clicked=1)
    log["u"] = log["u"].astype(object).where(log.index >= 4, "u1").astype("string")
    quality = {"max_share": 1} | (
        {"duplicates": "quarantine"} if rule == "duplicate" else {"orphans": "quarantine"}
    )
    settings = {
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "4",
    }
    before = {key: spark.conf.get(key) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        config = with_users(make_config, tmp_path, log, USERS, quality=quality)
        users = clean_side(spark, config, "user")
        checked = check_orphans(clean_interactions(spark, config), {"user": users}, config)
        sizes = [len(part) for part in checked.rows.select(RULE).rdd.glom().collect()]
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)
    assert sum(sizes) == 400
    assert len(sizes) == 4
    assert max(sizes) < 200


def test_quality_table_says_what_was_found(spark, make_config, tmp_path) -> None:
    log = small_log()
    log.loc[[3, 6, 9], "clicked"] = 5
    quality = {"max_share": 0.5, "rules": [{"name": "late", "expr": "t > 1000000"}]}
    config = with_users(make_config, tmp_path, log, USERS, quality=quality)
    prepared = prepare(spark, config)
    root = str(tmp_path / "tables")
    table = read(spark, root, "quality", prepared.versions["quality"]).toPandas()
    assert list(table.columns) == [
        *("source", "rule", "field", "reason", "rows", "failed", "share", "allowed", "action")
    ]
    found = {(r.source, r.rule): r for r in table.itertuples()}
    assert len(found) == len(table)

    accepted = log.drop([0, 3, 6, 9])
    city, known = accepted["city"].isna().sum(), accepted["u"].isin(["u1", "u2"])
    log_rows = ("interactions", 400)
    expected = {
        "label": (*log_rows, 3, 0.5, "quarantine"),
        "late": (*log_rows, 1, 0.5, "quarantine"),
        "item_key": (*log_rows, 0, 0.5, "quarantine"),
        "orphan_user": (*log_rows, (~known).sum(), None, "count"),
        "city.missing": ("interactions", 396, city, None, "count"),
        "label=0": ("interactions", 396, (accepted["clicked"] == 0).sum(), None, "count"),
        "label=1": ("interactions", 396, (accepted["clicked"] == 1).sum(), None, "count"),
        "user_key": ("users", 6, 1, 0.5, "quarantine"),
        "age.range": ("users", 6, 1, 0.5, "quarantine"),
        "duplicate": ("users", 6, 1, 0.5, "quarantine"),
        "age.missing": ("users", 3, 1, None, "count"),
    }
    for rule, (source, rows, failed, allowed, action) in expected.items():
        row = found[source, rule]
        assert (row.rows, row.failed, row.action) == (rows, failed, action), rule
        assert row.share == pytest.approx(failed / rows)
        assert row.allowed == allowed or (allowed is None and np.isnan(row.allowed))
    assert found["interactions", "city.missing"].field == "city"
    assert found["users", "age.range"].reason == "`age` is more than 100"
    assert sum(prepared.rows[s] for s in SPLITS) == 396


def test_job_that_stops_names_every_broken_rule_of_every_source(
    spark, make_config, tmp_path
) -> None:
    log = small_log()
    log.loc[:99, "clicked"] = 5
    quality = {"orphans": "quarantine"}
    config = with_users(make_config, tmp_path, log, USERS, quality=quality)
    with pytest.raises(DataError) as error:
        prepare(spark, config)
    message = str(error.value)
    for problem in (
        "source.interactions: rule label refuses 100 of 400 rows (25.0%, allowed 10.0%)",
        "source.interactions: rule orphan_user refuses ",
        "source.users: rule user_key refuses 1 of 6 rows",
        "source.users: rule age.range refuses 1 of 6 rows",
        "source.users: rule duplicate refuses 1 of 6 rows",
    ):
        assert problem in message
    assert message.endswith("Nothing was written")
    assert not (tmp_path / "tables").exists()
