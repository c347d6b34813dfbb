"""Exact order statistics: on the driver, and from shares on a cluster."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.counting import count_numbers, packed
from features.quantiles import Counted, boundaries, median

numbers = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=60)


def held(values: np.ndarray) -> Counted:
    return Counted(count_numbers(pa.array(values)), lambda: None)


@pytest.fixture
def spread(spark):
    """Counts as shares of a cluster, values dealt to them in no order."""

    def spread_(values: np.ndarray) -> Counted:
        counts = count_numbers(pa.array(values))
        shares = [(packed(counts.take(pa.array(range(s, len(counts), 3)))),) for s in range(3)]
        return Counted(None, lambda: spark.createDataFrame(shares, "counts BINARY"))

    return spread_


@given(numbers)
def test_median_against_numpy(values: list[float]) -> None:
    assert median(held(np.array(values)), len(values)) == np.median(values)


@given(numbers, st.integers(2, 8))
def test_boundaries_against_numpy(values: list[float], buckets: int) -> None:
    shares = np.arange(1, buckets) / buckets
    cuts = np.quantile(values, shares, method="inverted_cdf")
    expected = sorted({c for c in cuts if c > min(values)})
    assert list(boundaries(held(np.array(values)), len(values), buckets)) == expected


def test_buckets_hold_equal_shares() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    cuts = boundaries(held(values), len(values), 10)
    assert np.bincount(np.searchsorted(cuts, values, side="right")).tolist() == [
        999,  # the cut itself belongs to the next bucket
        *[1_000] * 8,
        1_001,
    ]


@pytest.mark.parametrize("kind", ["continuous", "few values"])
def test_shares_give_what_the_driver_gives(spread, kind: str) -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=20_001)
    if kind == "few values":
        values = np.round(values, 1) + 0.0
    shares, driver = spread(values), held(values)
    assert median(shares, len(values)) == median(driver, len(values)) == np.median(values)
    assert boundaries(shares, len(values), 16) == boundaries(driver, len(values), 16)
    assert shares.mode() == driver.mode()
    ranks = [1, 2, 777, len(values) - 1, len(values)]
    assert shares.at_ranks(ranks) == np.sort(values)[np.array(ranks) - 1].tolist()


def test_nothing_has_no_quantiles() -> None:
    nothing = held(np.array([]))
    assert median(nothing, 0) is None
    assert boundaries(nothing, 0, 4) == ()
    assert nothing.mode() is None
