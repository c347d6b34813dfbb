"""A run in MLflow: on the server that MLFLOW_TRACKING_URI names, or in ``<models>/mlflow``.

The experiment is that of MLFLOW_EXPERIMENT_NAME, or called as the folder of the tables. A finished
run has manifest.json, curves.json and model/, a model of MLflow (afm.mlflow_model) whose data/ are
the files of the run's folder.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from afm.artifact import CURVES, MANIFEST, Manifest, replace_file, revision
from afm.errors import EndedEarly, TrainError
from afm.logs import Write, parameters
from afm.mlflow_model import save_as_mlflow
from afm.run import Plan
from conf.secrets import masked

FILE = "mlflow.json"
"""In the run's folder: which run of MLflow it is."""
MODEL = "model"
"""Of the run's artifacts, the folder of the model: ``runs:/<id>/model``."""
_AT_A_TIME = 100
"""Parameters that MLflow takes in one call."""


class MlflowLog:
    """Writes a run of MLflow.

    Args:
        client: Where to.
        run: Its id there.
        logged: The epochs that it has.
    """

    def __init__(self, client: MlflowClient, run: str, logged: set[int]) -> None:
        self._client, self._run, self._logged = client, run, logged
        self._finished = False

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Logs the figures of an epoch, if the run does not have them."""
        if number in self._logged:
            return
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, number) for name, value in figures.items()]
        with _explained(self._client.tracking_uri):
            self._client.log_batch(self._run, metrics=metrics)
        self._logged.add(number)

    def finish(self, manifest: Manifest, write: Write) -> None:
        """Adds the manifest, the curves and the model, and marks the run as finished."""
        # Again, if that was interrupted: the same files replace what is there.
        with _explained(self._client.tracking_uri), tempfile.TemporaryDirectory() as temporary:
            files, model = Path(temporary, manifest.run), Path(temporary, MODEL)
            write(files)
            save_as_mlflow(files, manifest.spec, model, self._run)
            for name in (MANIFEST, CURVES):
                self._client.log_artifact(self._run, str(files / name))
            self._client.log_artifacts(self._run, str(model), MODEL)
            self._client.set_terminated(self._run, "FINISHED")
        self._finished = True

    def close(self, error: BaseException | None) -> None:
        """Marks the run as failed, or as killed on purpose, if it is not finished."""
        if not self._finished:
            failed = isinstance(error, Exception) and not isinstance(error, EndedEarly)
            status = "FAILED" if failed else "KILLED"
            with suppress(MlflowException):  # the error that ends the run says more
                self._client.set_terminated(self._run, status)


def open_log(plan: Plan, so_far: Sequence[Mapping[str, float]]) -> MlflowLog:
    """Opens the log of a run, or goes on with it.

    Args:
        plan: The run.
        so_far: Figures of the epochs that are over.

    Returns:
        Its log.

    Raises:
        TrainError: MLflow cannot be reached, or refuses.
    """
    for name in ("mlflow", "alembic"):  # or each table of a new store is announced
        logging.getLogger(name).setLevel(logging.WARNING)
    store = plan.folder.parents[1] / "mlflow"
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if not named:
        store.mkdir(parents=True, exist_ok=True)
    uri = named or f"sqlite:///{store / 'mlflow.db'}"
    with _explained(uri):
        client = MlflowClient(uri)
        run = _known_run(client, plan.folder)
        if run is None:
            run = _new_run(client, plan, None if named else store / "artifacts")
        # Epochs are logged as a whole, so one of their figures stands for all.
        history = client.get_metric_history(run, "train/loss")
    log = MlflowLog(client, run, {metric.step for metric in history})
    for number, figures in enumerate(so_far, 1):
        log.epoch(number, figures)
    return log


def _known_run(client: MlflowClient, folder: Path) -> str | None:
    """The run that the folder's log has begun, set going again; None if it has begun none here."""
    path = folder / FILE
    if not path.exists():
        return None
    known = json.loads(path.read_text())
    if known["uri"] != masked(client.tracking_uri):
        return None
    try:
        found = client.get_run(known["run"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    if found.info.lifecycle_stage != "active":
        return None
    client.update_run(known["run"], status="RUNNING")
    return str(known["run"])


def _new_run(client: MlflowClient, plan: Plan, artifacts: Path | None) -> str:
    root = plan.config.tables.root.rstrip("/").rpartition("/")[2]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or root
    experiment = client.get_experiment_by_name(name)
    location = None if artifacts is None else artifacts.as_uri()
    where = experiment.experiment_id if experiment else client.create_experiment(name, location)
    tags = {
        "identity": plan.identity,
        "spec": plan.prepared.spec.hash,
        "features": f"{plan.features.path} at version {plan.features.version}",
        "folder": str(plan.folder),
        "revision": revision() or "unknown",
    }
    made = client.create_run(where, run_name="/".join(plan.folder.parts[-2:]), tags=tags)
    run = str(made.info.run_id)
    params = [Param(key, str(value)) for key, value in parameters(plan.config).items()]
    for begin in range(0, len(params), _AT_A_TIME):
        client.log_batch(run, params=params[begin : begin + _AT_A_TIME])
    plan.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"uri": masked(client.tracking_uri), "run": run})
    replace_file(plan.folder / FILE, lambda path: path.write_text(text))
    return run


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise TrainError(
            f"train.logs: MLflow at {masked(uri)} says: {error.message}. Check "
            "MLFLOW_TRACKING_URI, or leave mlflow out of train.logs; the run can be gone on with "
            "either way"
        ) from None
