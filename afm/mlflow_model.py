"""A finished run as a model of MLflow: encoded rows in, probabilities out.

MLflow loads it by this module's name (``loader_module``): files and code, nothing pickled. It needs
numpy, pandas, pydantic, PyYAML and safetensors, neither torch nor Spark. The input is what the
Delta table ``features`` holds, a column per field; raw rows become that in Spark alone, whose SQL
the configuration is written in.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types.schema import Array, ColSpec, DataType, Schema
from numpy.typing import NDArray

from afm.artifact import load_run
from afm.forward import Parameters, forward
from afm.link import to_probability
from conf.training import Loss
from features.spec import FIRST, FeatureSpec, Input

NEEDED = ("mlflow-skinny", "numpy", "pandas", "pydantic", "pyyaml", "safetensors")
PROBABILITY = "probability"


class Predictor:
    """A model that MLflow calls.

    Args:
        parameters: The model.
        loss: What it was trained for.
    """

    def __init__(self, parameters: Parameters, loss: Loss) -> None:
        self._parameters, self._loss = parameters, loss

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> NDArray[np.float64]:
        """The probability of label 1 of each row.

        Args:
            model_input: B encoded rows: a column per field, crosses included; lists for ``multi``.
            params: None are known; MLflow hands them on.

        Returns:
            Probabilities (B,).

        Raises:
            ValueError: A column is missing, a list has another length than its field, or an index
                lies outside its vocabulary.
        """
        inputs = self._parameters.layout.inputs
        columns = {i.name: _array(i, model_input[i.name]) for i in inputs if i.name in model_input}
        return to_probability(forward(self._parameters, columns), self._loss)


def _load_pyfunc(path: str) -> Predictor:
    """Called by MLflow with the folder of a run's files."""
    artifact = load_run(Path(path))
    model, loss = artifact.manifest.config.model, artifact.manifest.config.train.loss
    return Predictor(Parameters.of(artifact.weights, artifact.layout, model.scale), loss)


def save_as_mlflow(run_folder: Path, spec: FeatureSpec, path: Path, run: str) -> None:
    """Writes a model of MLflow, with the code that it needs.

    Args:
        run_folder: The files of a finished run.
        spec: Its features.
        path: The folder to make.
        run: MLflow's id of the run.
    """
    project = Path(__file__).parents[1]
    save_model(
        path,
        loader_module=__name__,
        data_path=str(run_folder),
        code_paths=[str(project / package) for package in ("afm", "conf", "features")],
        mlflow_model=Model(artifact_path=path.name, run_id=run),
        signature=signature(spec),
        input_example=example(spec),
        pip_requirements=[f"{name}=={version(name)}" for name in NEEDED],
    )


def signature(spec: FeatureSpec) -> ModelSignature:
    """What the model takes and gives. Indices of any width are taken: int32 fits into long."""
    kinds: dict[str, DataType | Array] = {
        "index": DataType.long,
        "value": DataType.double,
        "multi": Array(DataType.long),
    }
    taken = Schema([ColSpec(kinds[i.encode], i.name) for i in spec.inputs])
    return ModelSignature(taken, Schema([ColSpec(DataType.double, PROBABILITY)]))


def example(spec: FeatureSpec) -> pd.DataFrame:
    """Two rows: one where all is missing, one of the most frequent values."""
    columns: dict[str, list[Any]] = {}
    for field in spec.inputs:
        most_frequent = min(FIRST, field.cardinality - 1)
        match field.encode:
            case "value":
                columns[field.name] = [0.0, 1.0]
            case "multi":
                unused = [0] * (field.width - 1)
                columns[field.name] = [[0, *unused], [most_frequent, *unused]]
            case "index":
                columns[field.name] = [0, most_frequent]
    return pd.DataFrame(columns)


def _array(field: Input, column: "pd.Series[Any]") -> NDArray[np.generic]:
    """A column as arrays of the forward."""
    if field.encode != "multi":
        return column.to_numpy()
    wrong = [len(values) for values in column if len(values) != field.width]
    if wrong:
        raise ValueError(f"field {field.name}: a list of {wrong[0]} indices, not {field.width}")
    return np.array(column.to_list(), np.int64).reshape(len(column), field.width)
