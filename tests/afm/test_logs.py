"""What TensorBoard and MLflow know of a run, and that they know it once."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afm import train as train_module
from afm.artifact import Manifest, load, read_curves
from afm.errors import TrainError
from afm.progress import Progress
from afm.ranks import Ranks
from afm.tensorboard_log import TensorBoardLog
from afm.train import train
from conf.schema import Config
from tests.afm.training import Killed, kill_in_epoch, one_thread  # noqa: F401

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
BOTH = ["tensorboard", "mlflow"]

ConfigOf = Callable[..., Config]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow as it is where nothing is said about it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of MLflow in which nothing is logged: to make one takes longer than a training."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def logged_root(prepared_root: Path, empty_store: Path) -> Path:
    """Prepared tables beside which MLflow's store is there already, as after an earlier run."""
    folder = prepared_root / "models" / "mlflow"
    folder.mkdir(parents=True)
    shutil.copy(empty_store, folder)
    return prepared_root


def run(config: Config, ranks: Ranks) -> Manifest:
    return train(config, ranks, Progress(io.StringIO()), CPU)


def on_tensorboard(config: Config, manifest: Manifest) -> dict[str, list[tuple[int, float]]]:
    """By name, the steps and numbers that TensorBoard shows of a run."""
    models = Path(config.models_root)
    events = EventAccumulator(str(models / "tensorboard" / config.model.name / manifest.run))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if "/" in name
    }


def client_of(config: Config) -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path(config.models_root).resolve()}/mlflow/mlflow.db")


def on_mlflow(client: MlflowClient, experiment: str = "tables") -> list[Run]:
    """The runs of an experiment."""
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def history(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    """By name, the steps and numbers that MLflow has of a run."""
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def expected(config: Config, manifest: Manifest) -> dict[str, list[tuple[int, float]]]:
    """What the learning curves say, without what depends on the clock."""
    curves = read_curves(Path(config.models_root) / config.model.name / manifest.run)
    by_name = {"train/loss": [(e.number, e.train_loss) for e in curves]}
    for name in asdict(curves[0].validation):
        by_name[f"validation/{name}"] = [(e.number, getattr(e.validation, name)) for e in curves]
    return by_name


def test_logs_have_what_the_curves_have(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks
) -> None:
    schedule = {"warmup": 24, "plateau": {}}
    config = config_of(prepared_root, train={"logs": BOTH, "epochs": 3, "schedule": schedule})
    manifest = run(config, ranks)
    known = expected(config, manifest)
    curves = read_curves(Path(config.models_root) / "afm" / manifest.run)

    (logged,) = on_mlflow(client := client_of(config))
    numbers = history(client, logged)
    assert {name: numbers[name] for name in known} == known
    others = {"samples_per_second", "waiting_for_data", "communicating", "learning_rate"}
    assert numbers.keys() - known.keys() == {f"train/{name}" for name in others}
    speeds = [(e.number, e.samples_per_second) for e in curves]
    assert numbers["train/samples_per_second"] == speeds
    waiting = [(e.number, e.time.data[0]) for e in curves]
    assert dict(numbers["train/waiting_for_data"]) == pytest.approx(dict(waiting))
    # 12 steps per epoch: the last step of the first one is the 12th of 24 that warm up.
    rates = [rate for _, rate in numbers["train/learning_rate"]]
    assert rates == pytest.approx([0.0025, 0.005, 0.005])

    shown = on_tensorboard(config, manifest)
    assert shown.keys() == numbers.keys()
    for name in numbers:
        assert [step for step, _ in shown[name]] == [1, 2, 3]
        ours = [value for _, value in numbers[name]]
        assert [value for _, value in shown[name]] == pytest.approx(ours, rel=1e-6)  # float32


def test_mlflow_knows_what_made_the_run(
    logged_root: Path, config_of: ConfigOf, ranks: Ranks, tmp_path: Path
) -> None:
    config = config_of(logged_root, train={"logs": ["mlflow"], "epochs": 1})
    manifest = run(config, ranks)
    (logged,) = on_mlflow(client := client_of(config))
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", f"afm/{manifest.run}")
    params = logged.data.params
    assert params["train.learning_rate"] == "0.005"  # a default
    assert params["train.schedule.plateau"] == "null"
    assert params["model.embedding_size"] == "4"
    assert params["fields.2.encode"] == "value"
    assert params["label"] == "rating >= 4"
    tags = logged.data.tags
    assert (tags["identity"], tags["spec"]) == (manifest.identity, manifest.spec_hash)
    path = client.download_artifacts(logged.info.run_id, "manifest.json", str(tmp_path))
    assert Manifest.model_validate_json(Path(path).read_bytes()) == manifest
    folder = Path(config.models_root) / "afm" / manifest.run
    assert json.loads(Path(path).read_text()) == json.loads((folder / "manifest.json").read_text())
    assert (
        Path(config.models_root).resolve() / "mlflow" / "artifacts"
        in Path(logged.info.artifact_uri.removeprefix("file://")).parents
    )


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_killed_run_goes_on_in_its_logs(
    logged_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
) -> None:
    config = config_of(logged_root, train={"logs": BOTH, "epochs": 3})
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, epoch)
        with pytest.raises(Killed):
            run(config, ranks)
    (killed,) = on_mlflow(client := client_of(config))
    assert killed.info.status == "KILLED"
    assert len(history(client, killed).get("train/loss", [])) == epoch - 1
    check_each_epoch_is_there_once(config, run(config, ranks))


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_run_killed_when_an_epoch_was_being_logged_goes_on_in_its_logs(
    logged_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    monkeypatch: pytest.MonkeyPatch,
    before: bool,
) -> None:
    # The checkpoint is written by another thread: an epoch may be kept and not logged, and logged
    # and not kept.
    config = config_of(logged_root, train={"logs": BOTH, "epochs": 3})
    kind, method = (
        (train_module.Logs, "epoch") if before else (train_module.Writer, "write")  # type: ignore[attr-defined]
    )
    real = getattr(kind, method)
    calls = iter(range(1, 100))

    def one(*arguments: object) -> None:
        dies = next(calls) == 2
        if not dies:
            real(*arguments)
        elif before:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, one)
        if not before:
            kill_in_epoch(patch, 3)
        with pytest.raises(Killed):
            run(config, ranks)
    check_each_epoch_is_there_once(config, run(config, ranks))


def test_files_of_tensorboard_sort_by_when_they_were_opened(tmp_path: Path) -> None:
    names = []
    for first in (1, 2):
        TensorBoardLog(tmp_path, first).close(None)
        names.append({path.name for path in tmp_path.iterdir()})
    (one,), (two,) = names[0], names[1] - names[0]
    assert one.split(".")[3] < two.split(".")[3]


@pytest.mark.faults
def test_run_that_was_really_killed_goes_on_in_its_logs(
    logged_root: Path, config_of: ConfigOf
) -> None:
    config = config_of(logged_root, train={"logs": BOTH, "epochs": 20, "patience": 20})
    path = logged_root / "conf.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(exclude_defaults=True))))
    training = [sys.executable, "jobs/train.py", str(path)]
    about = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    first = subprocess.Popen(training, stderr=subprocess.PIPE, **about)  # type: ignore[call-overload]
    for line in first.stderr:
        if line.startswith("epoch 3/20"):
            first.kill()
            break
    first.communicate()
    again = subprocess.run(training, capture_output=True, timeout=120, **about)  # type: ignore[call-overload]
    assert "resuming run" in again.stderr and again.returncode == 0, again.stderr
    manifest = load(config.models_root, "afm").manifest
    check_each_epoch_is_there_once(config, manifest, epochs=20)


def check_each_epoch_is_there_once(config: Config, manifest: Manifest, epochs: int = 3) -> None:
    """The logs have the run's epochs, each once, and MLflow has one run."""
    known = expected(config, manifest)
    (logged,) = on_mlflow(client := client_of(config))
    assert logged.info.status == "FINISHED"
    numbers = history(client, logged)
    assert {name: numbers[name] for name in known} == known
    shown = on_tensorboard(config, manifest)
    for name, values in known.items():
        assert [step for step, _ in shown[name]] == list(range(1, epochs + 1))
        assert [v for _, v in shown[name]] == pytest.approx([v for _, v in values], rel=1e-6)


def test_run_that_could_not_be_saved_is_finished_once(
    logged_root: Path, config_of: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(logged_root, train={"logs": BOTH, "epochs": 3})

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save", die)
        with pytest.raises(Killed):
            run(config, ranks)
    check_each_epoch_is_there_once(config, run(config, ranks))
    run(config, ranks)  # finished: nothing to do, and nothing to log
    check_each_epoch_is_there_once(config, run(config, ranks))


def test_run_whose_folder_was_deleted_is_logged_anew(
    logged_root: Path, config_of: ConfigOf, ranks: Ranks
) -> None:
    config = config_of(logged_root, train={"logs": BOTH, "epochs": 3})
    run(config, ranks)
    shutil.rmtree(Path(config.models_root) / "afm")
    manifest = run(config, ranks)
    assert [r.info.status for r in on_mlflow(client_of(config))] == ["FINISHED", "FINISHED"]
    shown = on_tensorboard(config, manifest)
    assert [step for step, _ in shown["train/loss"]] == [1, 2, 3]


def test_failed_run_is_marked(logged_root: Path, config_of: ConfigOf, ranks: Ranks) -> None:
    config = config_of(logged_root, train={"logs": ["mlflow"], "learning_rate": 1e30})
    with pytest.raises(TrainError, match="training diverged"):
        run(config, ranks)
    (logged,) = on_mlflow(client_of(config))
    assert logged.info.status == "FAILED"


def test_mlflows_own_variables_say_where(
    prepared_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"sqlite:///{tmp_path}/theirs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "nightly")
    monkeypatch.chdir(tmp_path)  # where such a store puts its artifacts
    config = config_of(prepared_root, train={"logs": ["mlflow"], "epochs": 2})
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, 2)
        with pytest.raises(Killed):
            run(config, ranks)
    assert len(on_mlflow(MlflowClient(uri), "nightly")) == 1
    assert not (Path(config.models_root) / "mlflow").exists()

    # Gone on with elsewhere: all epochs are there.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    manifest = run(config, ranks)
    (logged,) = on_mlflow(client := client_of(config), "nightly")
    assert history(client, logged)["train/loss"] == expected(config, manifest)["train/loss"]


def test_mlflow_that_refuses_is_one_message(
    prepared_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    config = config_of(prepared_root, train={"logs": ["mlflow"]})
    message = r"train\.logs: MLflow at file://.*/mlruns says: .* Check MLFLOW_TRACKING_URI"
    with pytest.raises(TrainError, match=message):
        run(config, ranks)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("tensorboard", "tensorboard", "tensorboard"), ("mlflow", "mlflow", "mlflow-skinny")],
)
def test_missing_library_is_named(
    prepared_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
    package: str,
) -> None:
    for known in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, known)
    for known in ("afm.tensorboard_log", "afm.mlflow_log", "torch.utils.tensorboard"):
        monkeypatch.delitem(sys.modules, known, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    config = config_of(prepared_root, train={"logs": [name]})
    message = rf"train\.logs: {name} needs the package {package} \(.*pip install {package}\)"
    with pytest.raises(TrainError, match=message):
        run(config, ranks)
    assert not Path(config.models_root).exists()


def test_logs_do_not_name_the_run(
    logged_root: Path, config_of: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = config_of(logged_root, train={"epochs": 2, "run": "mine"})
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, 2)
        with pytest.raises(Killed):
            run(silent, ranks)
    logged = config_of(logged_root, train={"epochs": 2, "run": "mine", "logs": BOTH})
    manifest = run(logged, ranks)  # goes on
    assert manifest.identity == run(silent, ranks).identity
    (on_it,) = on_mlflow(client := client_of(logged))
    assert [step for step, _ in history(client, on_it)["train/loss"]] == [1, 2]
    assert [step for step, _ in on_tensorboard(logged, manifest)["train/loss"]] == [1, 2]


def test_libraries_are_imported_only_when_asked_for() -> None:
    code = "import sys, jobs.train; print({'mlflow', 'tensorboard'} & sys.modules.keys())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert result.stdout.strip() == "set()", result.stderr
