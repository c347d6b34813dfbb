"""A small log with all that real logs have: nulls, sentinels, lists, strays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conf.schema import Config


def small_log(rows: int = 400) -> pd.DataFrame:
    """A log whose content is a function of the row number alone."""
    n = pd.Series(range(rows))
    return pd.DataFrame(
        {
            "u": "u" + (n % 23).astype(str),
            "i": n * 7 % 31,
            "t": 1_000_000 + n * 60,
            "age": (n % 11 * 3.5).where(n % 5 != 0),
            "city": ("c" + (n % 6).astype(str)).where(n % 7 != 0),
            "tags": (("x|y|z " + "|w" + (n % 3).astype(str)).where(n % 4 != 0)),
            "clicked": ((n * n) % 3 == 0).astype(int),
        }
    )


FIELDS: list[dict[str, Any]] = [
    {"name": "user", "side": "user", "expr": "u", "encode": "index"},
    {"name": "age", "side": "user", "encode": "value", "impute": "median", "scale": "standard"},
    {"name": "item", "side": "item", "expr": "i", "encode": "index"},
    {"name": "tags", "side": "item", "encode": "multi", "max_values": 3},
    {"name": "city", "side": "context", "encode": "index"},
]


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """Makes a pipeline over a log written as Parquet; keyword arguments replace sections."""

    def make(log: pd.DataFrame | None = None, **sections: Any) -> Config:
        path = tmp_path / "log.parquet"
        (small_log() if log is None else log).to_parquet(path, index=False)
        base = {
            "source": {"interactions": {"format": "parquet", "path": str(path)}},
            "label": "clicked",
            "keys": {"user": "u", "item": "i", "time": "t"},
            "fields": FIELDS,
            "tables": {"root": str(tmp_path / "tables")},
        }
        return Config.model_validate(base | sections)

    return make
