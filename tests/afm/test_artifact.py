"""The model folder: written whole or not at all, found again, and refused where it does not fit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from afm import artifact
from afm.artifact import Artifact, Epoch, Manifest, TableVersion, identity_of, load, run_folder
from afm.errors import ArtifactError
from afm.slots import Layout
from conf.schema import Config
from features.spec import FeatureSpec
from tests.afm.some_metrics import metrics_of

METRICS = metrics_of(accuracy=0.7, auc=0.75, log_loss=0.55, rows=400.0)
CURVES = (Epoch(1, 0.69, METRICS, 1000.0), Epoch(2, 0.6, METRICS, 1100.5))
FEATURES = TableVersion(path="/tables/features", version=3)

SaveRun = Callable[..., Path]


@pytest.fixture
def config(tmp_path: Path, config_of: Callable[..., Config]) -> Config:
    return config_of(tmp_path)


def manifest_of(config: Config, spec: FeatureSpec, run: str) -> Manifest:
    return Manifest(
        run=run,
        identity=identity_of(config, spec, FEATURES),
        config=config,
        spec=spec,
        spec_hash=spec.hash,
        features=FEATURES,
        seed=0,
        ranks=2,
        epochs=2,
        best_epoch=1,
        validation=METRICS,
        libraries={"torch": "2.13.0"},
        revision=None,
    )


@pytest.fixture
def weights(layout: Layout) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"bias": (), "linear": (layout.rows,), "embedding": (layout.rows, 4)}
    return {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}


@pytest.fixture
def save_run(config: Config, spec: FeatureSpec, weights: dict[str, np.ndarray]) -> SaveRun:
    """Saves a finished run of some name and returns its folder."""

    def save(run: str) -> Path:
        folder = Path(config.models_root) / "afm" / run
        artifact.save(folder, weights, CURVES, manifest_of(config, spec, run))
        return folder

    return save


def test_saved_model_is_loaded_as_it_was(
    config: Config,
    spec: FeatureSpec,
    layout: Layout,
    weights: dict[str, np.ndarray],
    save_run: SaveRun,
) -> None:
    folder = save_run("first")
    model = load(config.models_root, "afm")
    assert model.folder == folder
    named = {"weights_hash": artifact.hash_of(weights)}
    assert model.manifest == manifest_of(config, spec, "first").model_copy(update=named)
    assert model.layout == layout
    assert model.weights.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(model.weights[name], array)
        assert model.weights[name].dtype == np.float32
    assert artifact.read_curves(folder) == CURVES


def test_weights_that_are_views_are_saved_as_they_look(
    config: Config, spec: FeatureSpec, weights: dict[str, np.ndarray]
) -> None:
    # safetensors writes the memory of an array, whatever its strides.
    turned = np.ascontiguousarray(weights["embedding"].T).T
    folder = Path(config.models_root) / "afm" / "turned"
    artifact.save(folder, weights | {"embedding": turned}, CURVES, manifest_of(config, spec, "t"))
    np.testing.assert_array_equal(load(config.models_root, "afm").weights["embedding"], turned)


def test_latest_is_the_run_saved_last(config: Config, save_run: SaveRun) -> None:
    first = save_run("first")
    save_run("second")
    assert load(config.models_root, "afm").manifest.run == "second"
    assert load(config.models_root, "afm", "first").manifest.run == "first"
    artifact.point_latest(first)
    assert load(config.models_root, "afm").manifest.run == "first"
    assert os.readlink(first.parent / "latest") == "first"  # relative, so the folder can be moved


def test_folder_holds_what_was_promised_and_no_temporary_files(save_run: SaveRun) -> None:
    folder = save_run("first")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["curves.json", "manifest.json", "weights.safetensors"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["first", "latest"]


def test_model_is_found_from_a_relative_root(
    config: Config, save_run: SaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run("first")
    monkeypatch.chdir(config.models_root)
    assert load(".", "afm").manifest.run == "first"


def test_unfinished_run_is_not_loaded(config: Config, save_run: SaveRun) -> None:
    (save_run("first") / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"no finished model in .*/afm: run jobs/train\.py"):
        load(config.models_root, "afm")


def test_missing_model_is_an_error(config: Config, save_run: SaveRun) -> None:
    save_run("first")
    with pytest.raises(ArtifactError, match=r"no finished model in .*/fm.* model\.name=fm first"):
        load(config.models_root, "fm")
    with pytest.raises(ArtifactError, match="no finished run 'third' in .*/afm"):
        load(config.models_root, "afm", "third")


def test_damaged_manifest_is_an_error(config: Config, save_run: SaveRun) -> None:
    path = save_run("first") / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged or from another version"):
        load(config.models_root, "afm")


def test_manifest_of_another_version_names_the_key(config: Config, save_run: SaveRun) -> None:
    path = save_run("first") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ranks": "two"}))
    with pytest.raises(ArtifactError, match=r"\(ranks: Input should be a valid integer"):
        load(config.models_root, "afm")


def test_manifest_that_contradicts_itself_is_an_error(config: Config, save_run: SaveRun) -> None:
    path = save_run("first") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spec_hash": "cafe"}))
    with pytest.raises(ArtifactError, match="its spec does not have the hash cafe"):
        load(config.models_root, "afm")


def test_missing_or_damaged_weights_are_an_error(config: Config, save_run: SaveRun) -> None:
    path = save_run("first") / "weights.safetensors"
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:60]), path.unlink):
        spoil()
        with pytest.raises(ArtifactError, match=r"cannot read .*weights\.safetensors"):
            load(config.models_root, "afm")


def test_missing_or_damaged_curves_are_an_error(config: Config, save_run: SaveRun) -> None:
    path = save_run("first") / "curves.json"
    path.write_text(path.read_text()[:60])
    with pytest.raises(ArtifactError, match=r"curves\.json is damaged .*\(file: Invalid JSON.*run"):
        artifact.read_curves(path.parent)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*curves\.json .*Delete the folder"):
        artifact.read_curves(path.parent)


def test_a_weight_that_has_changed_is_an_error(config: Config, save_run: SaveRun) -> None:
    path = save_run("first") / "weights.safetensors"
    stored = bytearray(path.read_bytes())
    stored[-1] ^= 1  # a bit of the last number
    path.write_bytes(stored)
    with pytest.raises(ArtifactError, match="weights are not those that its manifest names"):
        load(config.models_root, "afm")


def test_weights_of_another_layout_are_an_error(
    config: Config, spec: FeatureSpec, weights: dict[str, np.ndarray]
) -> None:
    folder = Path(config.models_root) / "afm" / "first"
    short = weights | {"embedding": weights["embedding"][:-1]}
    artifact.save(folder, short, CURVES, manifest_of(config, spec, "first"))
    with pytest.raises(ArtifactError, match="holds 84 embeddings, but its manifest describes 85"):
        load(config.models_root, "afm")


def test_model_is_refused_for_tables_of_another_spec(
    config: Config, spec: FeatureSpec, save_run: SaveRun
) -> None:
    save_run("first")
    model: Artifact = load(config.models_root, "afm")
    model.require(spec)
    user = spec.fields[0].model_copy(update={"cardinality": 99})
    other = spec.model_copy(update={"fields": (user, *spec.fields[1:])})
    with pytest.raises(
        ArtifactError,
        match=r"trained on other features[^:]*:\n  field user: cardinality 42, not 99",
    ):
        model.require(other)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        artifact.replace_file(path, fail)
    assert path.read_text() == "old"


def test_identity_depends_on_what_determines_the_weights(
    config: Config, spec: FeatureSpec, config_of: Callable[..., Config], tmp_path: Path
) -> None:
    identity = identity_of(config, spec, FEATURES)
    assert identity == identity_of(config_of(tmp_path, train={"run": "named"}), spec, FEATURES)
    others = [
        identity_of(config_of(tmp_path, train={"seed": 1}), spec, FEATURES),
        identity_of(config_of(tmp_path, model={"name": "fm"}), spec, FEATURES),
        identity_of(config, spec.model_copy(update={"vocabulary_digest": "x"}), FEATURES),
        identity_of(config, spec, FEATURES.model_copy(update={"version": 4})),
        identity_of(config, spec, FEATURES.model_copy(update={"path": "/other/features"})),
    ]
    assert len({identity, *others}) == 6


def test_run_is_named_by_the_configuration_or_its_identity(
    config: Config, config_of: Callable[..., Config], tmp_path: Path
) -> None:
    assert run_folder(config, "0123") == tmp_path / "models" / "afm" / "0123"
    named = config_of(tmp_path, model={"name": "fm"}, train={"run": "mine"})
    assert run_folder(named, "0123") == tmp_path / "models" / "fm" / "mine"


def test_run_cannot_take_the_name_of_the_link(
    config_of: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match="`latest` is what points to the last run"):
        config_of(tmp_path, train={"run": "latest"})


def test_libraries_and_revision_are_those_of_this_code() -> None:
    libraries = artifact.libraries()
    assert libraries["python"] == sys.version.split()[0]
    assert libraries["numpy"] == np.__version__
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    revision = artifact.revision()
    assert (revision or "").removesuffix("-dirty") == head.stdout.strip()


def test_spark_workers_load_models_without_torch() -> None:
    code = "import sys, afm.artifact; assert not {'torch', 'pyspark', 'horovod'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
