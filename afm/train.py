"""Training: one loop for any number of ranks.

After each epoch the validation rows are measured. Then, and every so many steps if asked for, the
run's state is written, so that a run that was killed goes on where it stood and ends, on as many
ranks, with the same weights as one that was not. Every random choice follows from (seed, epoch,
step, rank).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from afm import checkpoint
from afm.artifact import (
    Epoch,
    Manifest,
    Shares,
    TableVersion,
    identity_of,
    libraries,
    point_latest,
    read_manifest,
    revision,
    run_folder,
    save,
)
from afm.checkpoint import Checkpoint, Position, Writer
from afm.errors import ArtifactError, TrainError
from afm.metrics import Metrics, compute, state_from_counts, state_of
from afm.model import FM, build_model
from afm.objective import losses, penalty
from afm.optimizers import Optimizers
from afm.order import Shuffle, onward
from afm.progress import Progress
from afm.ranks import Ranks
from afm.reader import Batch, Part, open_part
from afm.slots import Layout
from afm.stopwatch import Stopwatch
from afm.tables import read_prepared, table_uri
from conf.schema import Config, TrainConfig
from features.spec import Prepared


@dataclass(frozen=True)
class Plan:
    """All that a run reads, and where it writes."""

    config: Config
    prepared: Prepared
    features: TableVersion
    identity: str
    folder: Path
    train: Part
    validation: Part


@dataclass
class Trainee:
    """What changes while training."""

    model: FM
    optimizers: Optimizers
    position: Position
    best: dict[str, Tensor]
    """Weights of the best epoch so far; only the leader keeps them."""


def train(config: Config, ranks: Ranks, progress: Progress, device: torch.device) -> Manifest:
    """Trains a model as the configuration says, and leaves it in the model folder.

    A run that is finished already is left as it is, one that was interrupted goes on.

    Args:
        config: The configuration.
        ranks: The processes that train together.
        progress: Where the leader reports.
        device: Where the model is kept.

    Returns:
        The run's manifest, the same on every rank.

    Raises:
        TableError: The prepared tables cannot be read.
        TrainError: They cannot be learned from, or training diverges.
        ArtifactError: The run's folder holds a run of another configuration.
    """
    # What is wrong with tables or folders is wrong for all ranks; the leader alone says so.
    with ranks.leader_first():
        plan = make_plan(config, ranks.rank, ranks.size)
    manifest = finished_run(plan) if ranks.leads else None
    if shared := ranks.share(manifest.model_dump_json() if manifest else ""):
        if ranks.leads:
            progress.note(f"run {plan.folder.name} is finished already; nothing to do")
        return Manifest.model_validate_json(shared)

    trainee = _start(plan, ranks, device)
    if ranks.leads and trainee.position != Position():
        progress.note(f"resuming run {plan.folder.name} {_reached(trainee.position)}")
    settings = config.train
    with Writer(plan.folder) as writer:
        while not is_over(trainee.position.curves, settings):
            loss, speed, time = _train_epoch(plan, trainee, ranks, progress, writer, device)
            validation = measure(trainee.model, plan.validation, ranks, device)
            epoch = Epoch(len(trainee.position.curves) + 1, loss, validation, speed, time)
            trainee.position = Position(curves=(*trainee.position.curves, epoch))
            if ranks.leads:
                is_best = best_epoch(trainee.position.curves) == epoch.number
                if is_best:
                    state = trainee.model.state_dict()
                    trainee.best = {name: tensor.clone() for name, tensor in state.items()}
                _keep(plan, trainee, writer)
                progress.epoch(epoch, settings.epochs, is_best)
            ranks.let_in()
    text = _finish(plan, trainee, ranks).model_dump_json() if ranks.leads else ""
    return Manifest.model_validate_json(ranks.share(text))


def make_plan(config: Config, rank: int, size: int) -> Plan:
    """Finds the tables of a run and checks that they can be learned from.

    Args:
        config: The configuration.
        rank: This rank.
        size: How many there are.

    Returns:
        The plan.

    Raises:
        TableError: The prepared tables cannot be read.
        TrainError: The tables were prepared with another configuration, or the training or
            validation rows are none, or all of one class.
    """
    root = config.tables.root
    prepared = read_prepared(root)
    if problem := prepared.mismatch(config):
        raise TrainError(problem)
    features = TableVersion(path=table_uri(root, "features"), version=prepared.versions["features"])
    layout = Layout.of(prepared.spec.inputs)
    batch_size = config.train.batch_size
    training, validation = (
        open_part(
            root, features.version, split, layout, batch_size=batch_size, rank=rank, size=size
        )
        for split in ("train", "validation")
    )
    _check_labels("training", training)
    _check_labels("validation", validation)
    identity = identity_of(config, prepared.spec, features)
    folder = run_folder(config, identity)
    return Plan(config, prepared, features, identity, folder, training, validation)


def finished_run(plan: Plan) -> Manifest | None:
    """Looks for the finished run of a plan, and makes it the latest.

    Args:
        plan: The plan.

    Returns:
        Its manifest, or None if it is not finished.

    Raises:
        ArtifactError: The folder holds a run of another configuration.
    """
    manifest = read_manifest(plan.folder)
    if manifest is not None:
        _check_identity(plan, manifest.identity)
        point_latest(plan.folder)
    return manifest


def best_epoch(curves: Sequence[Epoch]) -> int:
    """Number of the epoch with the best validation AUC, the first of equals.

    Args:
        curves: The epochs so far, at least one.

    Returns:
        Its number, from 1.
    """
    return max(curves, key=lambda epoch: epoch.validation.auc).number


def is_over(curves: Sequence[Epoch], settings: TrainConfig) -> bool:
    """Whether training ends here: no epochs left, or too many without a better one.

    Args:
        curves: The epochs so far.
        settings: The ``train`` section.

    Returns:
        Whether it does.
    """
    if not curves:
        return False
    done = len(curves)
    return done >= settings.epochs or done - best_epoch(curves) >= settings.patience


@torch.no_grad()
def measure(model: FM, part: Part, ranks: Ranks, device: torch.device) -> Metrics:
    """Measures a model on a split, over all ranks.

    Args:
        model: The model.
        part: The split, as this rank reads it.
        ranks: The ranks.
        device: Where the model is.

    Returns:
        The metrics, the same on every rank.
    """
    model.eval()
    logits, labels = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for batch in part.batches():
        rows, x, _ = _tensors(batch, device)
        logits.append(model(rows, x).cpu().numpy())
        labels.append(batch.labels)
    state = state_of(np.concatenate(logits), np.concatenate(labels))
    # float64 holds a float32 exactly, so one table carries scores and counts.
    mine = np.stack([state.logits.astype(np.float64), state.positives, state.negatives], axis=1)
    (everyones,) = ranks.gather(torch.from_numpy(mine))  # (Σ D, 3)
    with ranks.leader_first():
        return compute(state_from_counts(*everyones.numpy().T))


def _train_epoch(
    plan: Plan,
    trainee: Trainee,
    ranks: Ranks,
    progress: Progress,
    writer: Writer,
    device: torch.device,
) -> tuple[float, float, Shares]:
    """Trains on what is left of an epoch.

    Returns:
        The mean log loss of all of its rows, penalties aside; rows per second; where time went.
    """
    settings, model = plan.config.train, trainee.model
    model.train()
    before = trainee.position
    number = len(before.curves) + 1
    total = torch.tensor(before.loss_of(ranks.rank, ranks.size), dtype=torch.float64, device=device)
    start = total.clone()
    rows_before = rows_done = min(before.steps * settings.batch_size, plan.train.rows)  # or so
    mine_done = 0
    begin, talked, reading = monotonic(), ranks.watch.seconds, Stopwatch()
    progress.start_epoch(rows_before)
    shuffle = Shuffle(settings.seed, number, settings.shuffle_rows)
    batches = reading.waiting_for(plan.train.batches(shuffle, before.legs))
    for step, batch in enumerate(batches, before.steps + 1):
        # Dropout draws from torch's own generator; other ranks drop other numbers.
        _generator(device).manual_seed(_seed(settings.seed, number, step, ranks.rank))
        rows, x, labels = _tensors(batch, device)
        # Gradients end at what was looked up: those of whole tables would be as large as they are.
        vectors, weights = (t.detach().requires_grad_() for t in model.look_up(rows))
        sum_of_losses = losses(model.logits(vectors, weights, x), labels).sum()
        # Ranks add their gradients up, so the loss is the mean over the rows of all of them.
        loss = sum_of_losses / batch.global_rows + penalty(
            model, vectors, x, settings.l2, global_rows=batch.global_rows, size=ranks.size
        )
        loss.backward()  # type: ignore[no-untyped-call]
        trainee.optimizers.step(ranks, rows, x, vectors, weights)
        total += sum_of_losses.detach()
        rows_done += batch.global_rows
        mine_done += len(batch)
        if ranks.leads and progress.due:
            mean = (total - start).item() / max(mine_done, 1)
            progress.within(number, settings.epochs, rows_done, plan.train.rows, mean)
        if settings.checkpoint_steps and step % settings.checkpoint_steps == 0:
            (everyones,) = ranks.gather(total.cpu().reshape(1))
            _check_finite(everyones.sum().item(), number, settings, ranks)
            trainee.position = Position(
                curves=before.curves,
                legs=onward(before.legs, ranks.size, step - before.steps),
                losses=tuple(everyones.tolist()),
            )
            if ranks.leads:
                _keep(plan, trainee, writer)
            ranks.let_in()
    seconds = monotonic() - begin
    mine = torch.tensor([[reading.seconds, ranks.watch.seconds - talked]]) / seconds
    (shares,) = ranks.gather(mine)  # (ranks, 2)
    time = Shares(*(tuple(each) for each in shares.T.tolist()))
    speed = (rows_done - rows_before) / seconds
    mean = ranks.sum(total.cpu()).item() / plan.train.rows
    _check_finite(mean, number, settings, ranks)
    return mean, speed, time


def _check_finite(loss: float, number: int, settings: TrainConfig, ranks: Ranks) -> None:
    with ranks.leader_first():
        if not np.isfinite(loss):
            raise TrainError(
                f"training diverged: the loss of epoch {number} is {loss}. "
                f"Lower train.learning_rate, which is {settings.learning_rate:g}"
            )


def _start(plan: Plan, ranks: Ranks, device: torch.device) -> Trainee:
    """The run's state: as its checkpoint has it, or new; the same on every rank."""
    settings = plan.config.train
    model = build_model(plan.train.layout, plan.config.model, settings.seed).to(device)
    optimizers = Optimizers.of(model, settings, ranks)
    trainee = Trainee(model, optimizers, Position(), best={})
    if ranks.leads and (saved := checkpoint.read(plan.folder)) is not None:
        _check_identity(plan, saved.identity)
        model.load_state_dict(dict(saved.weights))
        for name, tensor in optimizers.state.items():
            tensor.copy_(saved.optimizer[name])
        trainee.position, trainee.best = saved.position, dict(saved.best)
    ranks.copy(model.state_dict())
    ranks.copy(optimizers.state)
    shared = ranks.share(checkpoint.position_to_json(trainee.position))
    trainee.position = checkpoint.position_from_json(shared)
    return trainee


def _reached(position: Position) -> str:
    """How far a run has come, in words."""
    if position.legs:
        return f"after step {position.steps:,} of epoch {len(position.curves) + 1}"
    return f"after epoch {len(position.curves)}"


def _keep(plan: Plan, trainee: Trainee, writer: Writer) -> None:
    """Writes a checkpoint."""
    writer.write(
        Checkpoint(
            identity=plan.identity,
            position=trainee.position,
            weights=trainee.model.state_dict(),
            optimizer=trainee.optimizers.state,
            best=trainee.best,
        )
    )


def _finish(plan: Plan, trainee: Trainee, ranks: Ranks) -> Manifest:
    """Writes the model folder; the checkpoint is of no use then."""
    curves = trainee.position.curves
    best = best_epoch(curves)
    manifest = Manifest(
        run=plan.folder.name,
        identity=plan.identity,
        config=plan.config,
        spec=plan.prepared.spec,
        spec_hash=plan.prepared.spec.hash,
        features=plan.features,
        seed=plan.config.train.seed,
        ranks=ranks.size,
        epochs=len(curves),
        best_epoch=best,
        validation=curves[best - 1].validation,
        libraries=libraries(),
        revision=revision(),
    )
    weights = {name: tensor.cpu().numpy() for name, tensor in trainee.best.items()}
    save(plan.folder, weights, curves, manifest)
    checkpoint.remove(plan.folder)
    return manifest


def _check_identity(plan: Plan, identity: str) -> None:
    if identity != plan.identity:
        raise ArtifactError(
            f"{plan.folder} holds a run of another configuration or of other tables. "
            "Choose another train.run, or delete the folder"
        )


def _check_labels(name: str, part: Part) -> None:
    if not part.rows:
        raise TrainError(f"there are no {name} rows; change `split`, or prepare more data")
    if part.labels is not None and part.labels[0] == part.labels[1]:
        raise TrainError(
            f"all {part.rows:,} {name} rows have the label {part.labels[0]:g}: there is nothing "
            "to tell apart. Check `label` in the configuration"
        )


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    rows, x, labels = (torch.from_numpy(a).to(device) for a in (batch.rows, batch.x, batch.labels))
    return rows, x, labels


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _generator(device: torch.device) -> torch.Generator:
    """The one that dropout draws from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index]
    return torch.default_generator
