"""Values given by hand. (What a log's values become is tested with the log, in test_clean.py.)"""

import pytest

from conf.features import FieldConfig
from features.errors import DataError
from features.readable import readable_values


def test_readable_values_are_those_of_a_log(spark) -> None:
    fields = [
        FieldConfig(name="tab", side="context", encode="index", missing=(-124,)),
        FieldConfig(name="new", side="context", encode="index"),
        FieldConfig(name="tags", side="context", encode="multi", separator=",", missing=("?",)),
        FieldConfig(name="x", side="context", encode="value", check={"maximum": 9}),
    ]
    values = {"tab": "-124", "new": True, "tags": "a, b,?,,a", "x": 3}
    (row,) = readable_values(spark, fields, values).collect()
    assert row.asDict() == {"tab": None, "new": "true", "tags": ["a", "b"], "x": 3.0}
    with pytest.raises(DataError, match="x = 'many' is not a finite number"):
        readable_values(spark, fields, values | {"x": "many"})
    with pytest.raises(DataError, match="x = 10 is more than 9"):
        readable_values(spark, fields, values | {"x": 10})
