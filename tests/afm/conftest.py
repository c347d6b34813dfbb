"""Fixtures of the torch side's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from afm.ranks import Ranks
from afm.slots import Layout
from conf.schema import Config
from features.spec import FeatureSpec
from tests.afm.planted import make_spec, planted_rows, write_features, write_prepared

ConfigOf = Callable[..., Config]


@pytest.fixture
def spec() -> FeatureSpec:
    """The fields of the planted world."""
    return make_spec()


@pytest.fixture
def layout(spec: FeatureSpec) -> Layout:
    """Where they stand."""
    return Layout.of(spec.inputs)


@pytest.fixture
def prepared_root(tmp_path: Path, spec: FeatureSpec) -> Path:
    """Prepared tables: 3000 training rows in row groups of 100, 400 for validation and test."""
    root = tmp_path / "tables"
    write_features(
        root,
        {
            "train": planted_rows(3000, seed=1),
            "validation": planted_rows(400, seed=2),
            "test": planted_rows(400, seed=3),
        },
    )
    write_prepared(root, spec)
    return root


@pytest.fixture
def config_of() -> ConfigOf:
    """Makes a configuration for prepared tables: ``config_of(root, model={…}, train={…})``."""

    def make(
        root: Path, model: dict[str, object] | None = None, train: dict[str, object] | None = None
    ) -> Config:
        return Config.model_validate(
            {
                "source": {"interactions": {"format": "csv", "path": "log.csv"}},
                "label": "rating >= 4",
                "keys": {"user": "user", "item": "movie"},
                "fields": [f.config.model_dump(exclude_defaults=True) for f in make_spec().fields],
                "model": {"embedding_size": 4, "attention_size": 4, **(model or {})},
                "train": {"epochs": 4, "batch_size": 256, "patience": 4, **(train or {})},
                "tables": {"root": str(root)},
            }
        )

    return make


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    """This process alone."""
    return Ranks()
