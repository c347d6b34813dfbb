"""Fixtures that several rooms' tests share."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.tally import Tally

# Tests start many JVMs, none for long: what their second compiler gains is less than what it takes.
# The first alone has room for 48 MB of code, and makes larger frames of ALS's recursion.
ONE_COMPILER = "-XX:TieredStopAtLevel=1"
JVM = f"{ONE_COMPILER} -XX:ReservedCodeCacheSize=240m -Xss16m -XX:+UseSerialGC"
os.environ.setdefault("SPARK_SUBMIT_OPTS", JVM)

LONGEST = (
    *("test_movielens.py", "test_real_data.py"),  # of the default suite
    *("test_bad_input.py", "test_kills.py", "test_soak.py"),  # of the faults
    *("test_lost_workers.py", "test_object_storage.py", "test_ranks.py", "test_writers.py"),
    *("test_train_on_spark.py", "test_cluster.py", "test_set_up.py", "test_bad_tables.py"),
)
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the longest files come first: at the end, no worker is to wait for another's."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    """Counts faults and bad inputs; shown at the end, and left in build/faults.json."""
    return pytestconfig.stash[TALLY]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of pytest -n's processes, which shows nothing
        session.config.workeroutput["tally"] = asdict(session.config.stash[TALLY])


def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", None) or {}
    if "tally" in output:  # or else the process died
        node.config.stash[TALLY].add(output["tally"])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tally = config.stash[TALLY]
    if tally and config.option.markexpr != "not faults":  # the default suite tries a few
        terminalreporter.section("faults and bad inputs")
        terminalreporter.write_line(tally.table())
        tally.write(ROOT / "build" / "faults.json")


@pytest.fixture(scope="session")
def spark() -> Iterator["SparkSession"]:  # noqa: F821  imported late: other tests need no Spark
    """One Spark with Delta Lake for the whole suite, set up by conf/spark.conf."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master("local[2]").appName("tests")
    for line in (ROOT / "conf" / "spark.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            builder = builder.config(*line.split(None, 1))
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.log.level": "ERROR",
        # What the pages of the web UI, which is off, would show of the last thousand queries.
        "spark.sql.ui.retainedExecutions": "10",
        "spark.ui.retainedJobs": "100",
        "spark.ui.retainedStages": "100",
        # Compiling a plan takes longer than running it on a few rows.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    with pytest.MonkeyPatch.context() as patch:  # this one lasts, and gets a third faster
        options = os.environ["SPARK_SUBMIT_OPTS"].replace(ONE_COMPILER, "")
        patch.setenv("SPARK_SUBMIT_OPTS", options)
        session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real data sets; the test is skipped where they are not."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real data sets at {DATA.relative_to(ROOT.parent)}")
    return DATA
