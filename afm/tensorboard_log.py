"""A run in TensorBoard: ``tensorboard --logdir <models>/tensorboard``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from afm.artifact import Manifest
from afm.logs import Write, parameters
from afm.run import Plan


class TensorBoardLog:
    """Writes event files of a run.

    Args:
        folder: Where to.
        first: The epoch that comes next; TensorBoard forgets what the folder has of it, and of
            later ones, from a process that was killed.
    """

    def __init__(self, folder: Path, first: int) -> None:
        _wait_for_a_new_second(folder)
        self._writer = SummaryWriter(str(folder), purge_step=first)

    def describe(self, plan: Plan) -> None:
        """Writes what the run is: its identity, and model and training as hyper-parameters."""
        settings = {
            key: value
            for key, value in parameters(plan.config).items()
            if key.startswith(("model.", "train."))
        }
        # Names the metric by which the dashboard HPARAMS compares runs; the epochs give its values.
        for summary in hparams(settings, {f"validation/{plan.config.train.stop_on}": 0.0}):
            self._writer._get_file_writer().add_summary(summary)
        about = {
            "identity": plan.identity,
            "spec": plan.prepared.spec.hash,
            "features": f"{plan.features.path} at version {plan.features.version}",
        }
        lines = "".join(f"| {key} | {value} |\n" for key, value in about.items())
        self._writer.add_text("run", f"| | |\n|---|---|\n{lines}", 0)

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Logs the figures of an epoch."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def finish(self, manifest: Manifest, write: Write) -> None:
        """Has nothing to add: TensorBoard keeps no states of runs."""

    def close(self, error: BaseException | None) -> None:
        """Closes the file."""
        self._writer.close()


def open_log(plan: Plan, so_far: Sequence[Mapping[str, float]]) -> TensorBoardLog:
    """Opens the log of a run, or goes on with it.

    Args:
        plan: The run.
        so_far: Figures of the epochs that are over.

    Returns:
        Its log.
    """
    models, (model, run) = plan.folder.parents[1], plan.folder.parts[-2:]
    folder = models / "tensorboard" / model / run
    goes_on = bool(so_far) and folder.exists()
    # The last epoch is logged again: the process may have been killed before it was.
    first = len(so_far) if goes_on else 1
    log = TensorBoardLog(folder, first)
    if not goes_on:
        log.describe(plan)
    for number, figures in enumerate(so_far[first - 1 :], first):
        log.epoch(number, figures)
    return log


def _wait_for_a_new_second(folder: Path) -> None:
    """TensorBoard reads files by name, and names begin with the second in which they are opened."""
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    left = max(seconds, default=0) + 1 - time.time()
    if 0 < left <= 1:  # a file from the future is of another clock
        time.sleep(left)
