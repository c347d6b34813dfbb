"""The model that a run leaves in MLflow, loaded by a Python that does not know this project."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from deltalake import DeltaTable
from mlflow import MlflowClient
from safetensors.numpy import load_file

from afm.mlflow_model import Predictor, example, signature
from afm.progress import Progress
from afm.ranks import Ranks
from afm.slots import Layout
from afm.train import train
from conf.schema import Config
from features.spec import FeatureSpec
from tests.afm.planted import planted_rows
from tests.afm.random_models import Case, random_weights, reference
from tests.jobs.cluster import python_without_project
from tests.jobs.commands import ENVIRONMENT

ConfigOf = Callable[..., Config]

PREDICT = """
import json, sys

for absent in ("torch", "pyspark", "horovod", "petastorm"):
    sys.modules[absent] = None
import mlflow, pandas as pd

uri, run, rows = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(f"runs:/{run}/model")
frame = pd.read_parquet(rows)


def said(frame):
    try:
        return model.predict(frame).tolist()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


longs = frame.assign(user=frame["user"].astype("int64"), age=frame["age"].astype("float64"))
short = frame.assign(genres=[[1]] * len(frame))
print(json.dumps({
    "probabilities": said(frame),
    "as_json_has_them": said(longs.assign(genres=[list(map(int, g)) for g in frame["genres"]])),
    "example": said(model.input_example),
    "no_column": said(frame.drop(columns="movie")),
    "short_list": said(short),
    "unknown": said(frame.assign(movie=10_000)),
    "code": sys.modules["afm"].__file__,
}))
"""


def artifacts(client: MlflowClient, run: str, folder: str | None = None) -> set[str]:
    """Paths of all files of a run, code aside."""
    found: set[str] = set()
    for file in client.list_artifacts(run, folder):
        if file.path != "model/code":
            found |= artifacts(client, run, file.path) if file.is_dir else {file.path}
    return found


def reference_case(spec: FeatureSpec, weights: dict[str, np.ndarray]) -> Case:
    return Case(
        layout=Layout.of(spec.inputs),
        weights=weights,
        scale="pairs",
        users={},
        items={},
        context={},
        vocabularies={},
    )


def test_logged_model_gives_the_probabilities_of_the_equations(
    prepared_root: Path,
    config_of: ConfigOf,
    spec: FeatureSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    config = config_of(prepared_root, train={"logs": ["mlflow"], "epochs": 1})
    manifest = train(config, Ranks(), Progress(io.StringIO()), torch.device("cpu"))

    uri = f"sqlite:///{Path(config.models_root).resolve()}/mlflow/mlflow.db"
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'tables'")
    (run,) = client.search_runs([experiment.experiment_id])
    data = f"model/data/{manifest.run}"
    files = artifacts(client, run.info.run_id)
    assert files >= {"manifest.json", "curves.json", "model/MLmodel", "model/input_example.json"}
    own = {f"{data}/{name}" for name in ("weights.safetensors", "curves.json", "manifest.json")}
    assert {file for file in files if file.startswith("model/data/")} == own
    folder = Path(config.models_root) / "afm" / manifest.run
    logged = Path(client.download_artifacts(run.info.run_id, data, str(tmp_path)))
    for name in ("weights.safetensors", "curves.json", "manifest.json"):
        assert (logged / name).read_bytes() == (folder / name).read_bytes()

    rows = DeltaTable(f"{prepared_root}/features").to_pandas(filters=[("split", "=", "test")])
    rows.head(40).to_parquet(tmp_path / "rows.parquet")
    python = python_without_project(tmp_path)
    words = [str(python), "-c", PREDICT, uri, run.info.run_id, str(tmp_path / "rows.parquet")]
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert Path(said["code"]).parts[-3:] == ("code", "afm", "__init__.py")

    case = reference_case(spec, load_file(folder / "weights.safetensors"))

    def probability(row: pd.Series) -> float:
        return 1 / (1 + np.exp(-reference(case, row).logit))

    expected = [probability(row) for _, row in rows.head(40).iterrows()]
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(said["probabilities"], expected, atol=1e-5)
    assert said["as_json_has_them"] == said["probabilities"]
    of_example = [probability(row) for _, row in example(spec).iterrows()]
    np.testing.assert_allclose(said["example"], of_example, atol=1e-5)
    assert "missing inputs ['movie']" in said["no_column"]
    assert "field genres: a list of 1 indices, not 3" in said["short_list"]
    assert "field movie: index 10000…10000 outside its vocabulary of 32" in said["unknown"]


def test_scores_of_squared_loss_become_probabilities(spec: FeatureSpec) -> None:
    random = np.random.default_rng(0)
    weights = random_weights(random, Layout.of(spec.inputs), model="afm", size=4, units=3)
    case = reference_case(spec, weights)
    frame = pd.DataFrame({name: list(column) for name, column in planted_rows(60, seed=4).items()})
    given = Predictor(case.parameters, "squared").predict(frame)
    scores = np.array([reference(case, row).logit for _, row in frame.iterrows()])
    assert (np.abs(scores) > 1).any() and (np.abs(scores) < 1).any()
    np.testing.assert_allclose(given, np.clip((1 + scores) / 2, 0, 1), atol=1e-5)


def test_signature_has_a_column_per_field(spec: FeatureSpec) -> None:
    given = signature(spec)
    kinds = {column["name"]: column["type"] for column in given.inputs.to_dict()}
    assert kinds == {"user": "long", "movie": "long", "age": "double", "genres": "array"}
    assert [(c["name"], c["type"]) for c in given.outputs.to_dict()] == [("probability", "double")]
