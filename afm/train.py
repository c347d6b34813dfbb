"""Training: one loop for any number of ranks.

After each epoch the validation rows are measured. Then, and every so many steps if asked for, the
run's state is written, so that a run that was killed goes on where it stood and ends, on as many
ranks, with the same weights as one that was not. Every random choice follows from (seed, epoch,
step, rank).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from afm import checkpoint
from afm.ahead import Ahead
from afm.alone import alone
from afm.artifact import Epoch, Manifest, Shares, libraries, revision, save, write
from afm.checkpoint import Checkpoint, Position, Writer
from afm.errors import DivergedError
from afm.logs import Logs, open_logs
from afm.look_ups import looked_up
from afm.machine import Machine, machine_of
from afm.metrics import Metrics, compute, state_from_counts, state_of
from afm.model import FM, build_model
from afm.objective import gradients
from afm.optimizers import Optimizers
from afm.order import Leg, Shuffle, onward
from afm.pretrained import start_from
from afm.progress import Progress
from afm.ranks import Ranks
from afm.reader import Batch, Part
from afm.run import Plan, finished_run, make_plan
from afm.schedule import best_epoch, is_over, learning_rate
from afm.stopwatch import Stopwatch
from afm.together import Together
from afm.whole_step import WholeStep
from conf.schema import Config
from conf.secrets import without_secrets
from conf.training import Loss, TrainConfig


@dataclass
class Trainee:
    """What changes while training."""

    model: FM
    optimizers: Optimizers
    together: Together | None
    """How ranks of one machine step."""
    whole: WholeStep | None
    """How it steps, where the kernel has all that it needs."""
    position: Position
    best: dict[str, Tensor]
    """Weights of the best epoch so far; only the leader keeps them."""

    def hold_best(self) -> None:
        """Keeps the weights as they are as those of the best epoch so far."""
        self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def settle(self) -> None:
        """Ends an epoch: from here to the next step the weights are those of the model."""
        (self.together or self.optimizers.lazy).settle()


Watch = Callable[[tuple[Epoch, ...]], None]
"""Called before each epoch but the first with those that are over, on every rank; what it raises
ends training there, and the run can be gone on with."""


def train(
    config: Config,
    ranks: Ranks,
    progress: Progress,
    device: torch.device,
    watch: Watch = lambda _: None,
) -> Manifest:
    """Trains a model as the configuration says, and leaves it in the model folder.

    A run that is finished already is left as it is, one that was interrupted goes on.

    Args:
        config: The configuration.
        ranks: The processes that train together.
        progress: Where the leader reports.
        device: Where the model is kept.
        watch: Follows the run.

    Returns:
        The run's manifest, the same on every rank.

    Raises:
        TableError: The prepared tables cannot be read.
        TrainError: They cannot be learned from, or a log cannot be written.
        DivergedError: Training diverges.
        ArtifactError: The run's folder holds a run of another configuration.
    """
    # What is wrong with tables or folders is wrong for all ranks; the leader alone says so.
    with ranks.leader_first():
        plan = make_plan(config, ranks.rank, ranks.size)
    # Ranks of a run whose horovodrun was killed may be at it still.
    with (
        alone(plan.folder, "train") if ranks.leads else nullcontext(),
        machine_of(ranks) as machine,
    ):
        return _train(plan, ranks, machine, progress, device, watch)


def _train(
    plan: Plan,
    ranks: Ranks,
    machine: Machine | None,
    progress: Progress,
    device: torch.device,
    watch: Watch,
) -> Manifest:
    """Trains, or does nothing if the run is finished."""
    manifest = finished_run(plan) if ranks.leads else None
    if shared := ranks.share(manifest.model_dump_json() if manifest else ""):
        if ranks.leads:
            progress.note(f"run {plan.folder.name} is finished already; nothing to do")
        return Manifest.model_validate_json(shared)

    trainee = _start(plan, ranks, machine, device)
    if ranks.leads and trainee.position != Position():
        progress.note(f"resuming run {plan.folder.name} {_reached(trainee.position)}")
    if trainee.position == Position() and plan.pretrained is not None:
        _measure_start(plan, trainee, ranks, progress, device)
    settings = plan.config.train
    names = settings.logs if ranks.leads else ()
    with open_logs(names, plan, trainee.position.curves) as logs:
        with Writer(plan.folder) as writer, ExitStack() as reading:
            number = len(trainee.position.curves) + 1
            batches = reading.enter_context(closing(_read(plan, number, trainee.position.legs)))
            start = trainee.position.start
            while not is_over(trainee.position.curves, settings, start):
                if trainee.position.curves:
                    watch(trainee.position.curves)
                loss, speed, time = _train_epoch(
                    plan, trainee, batches, ranks, progress, writer, device
                )
                number = len(trainee.position.curves) + 1
                if number < settings.epochs:  # while validation rows are measured
                    batches = reading.enter_context(closing(_read(plan, number + 1)))
                validation = measure(trainee.model, plan.validation, ranks, device, settings.loss)
                epoch = Epoch(number, loss, validation, speed, time)
                trainee.position = Position(start, (*trainee.position.curves, epoch))
                if ranks.leads:
                    best = best_epoch(trainee.position.curves, settings.stop_on, start)
                    is_best = best == epoch.number
                    if is_best:
                        trainee.hold_best()
                    _keep(plan, trainee, writer)
                    logs.epoch(trainee.position.curves)
                    progress.epoch(epoch, settings.epochs, is_best)
                ranks.let_in()
        text = _finish(plan, trainee, ranks, logs).model_dump_json() if ranks.leads else ""
    return Manifest.model_validate_json(ranks.share(text))


@torch.no_grad()
def measure(model: FM, part: Part, ranks: Ranks, device: torch.device, loss: Loss) -> Metrics:
    """Measures a model on a split, over all ranks.

    Args:
        model: The model.
        part: The split, as this rank reads it.
        ranks: The ranks.
        device: Where the model is.
        loss: What it was trained for.

    Returns:
        The metrics, the same on every rank.

    Raises:
        DivergedError: A score is not a finite number.
    """
    model.eval()
    columns = [np.empty((3, 0), np.float32)]
    for batch in part.batches():
        rows, x, _, _ = _tensors(batch, device)
        weights = np.ones_like(batch.labels) if batch.weights is None else batch.weights
        columns.append(np.stack([model(rows, x).cpu().numpy(), batch.labels, weights]))
    table = np.concatenate(columns, axis=1)  # (3, B)
    broken = ranks.sum(torch.tensor([float(np.sum(~np.isfinite(table[0])))])).item()
    if broken:
        raise DivergedError(
            f"training diverged: {broken:,.0f} scores of validation rows are not finite. "
            "Lower train.learning_rate"
        )
    state = state_of(*table)
    # float64 holds a float32 exactly, so one table carries scores and counts.
    mine = np.stack([state.scores.astype(np.float64), state.positives, state.negatives], axis=1)
    (everyones,) = ranks.gather(torch.from_numpy(mine))  # (Σ D, 3)
    return compute(state_from_counts(*everyones.numpy().T), loss)


def _read(plan: Plan, epoch: int, legs: Sequence[Leg] = ()) -> Ahead[Batch]:
    """Begins to read what these steps left of an epoch."""
    settings = plan.config.train
    return plan.train.batches(Shuffle(settings.seed, epoch, settings.shuffle_rows), legs)


def _train_epoch(
    plan: Plan,
    trainee: Trainee,
    batches: Iterator[Batch],
    ranks: Ranks,
    progress: Progress,
    writer: Writer,
    device: torch.device,
) -> tuple[float, float, Shares]:
    """Trains on what is left of an epoch, which are these batches.

    Returns:
        The mean log loss of all of its rows, penalties aside; rows per second; where time went.
    """
    settings, model = plan.config.train, trainee.model
    model.train()
    before = trainee.position
    number = len(before.curves) + 1
    loss_before, weight_before = before.sums_of(ranks.rank, ranks.size)
    # Losses stay on the device: to fetch them, the trainer would wait for each step.
    loss = torch.tensor(loss_before, dtype=torch.float64, device=device)
    weight = weight_before
    rows_before = rows_done = min(before.steps * settings.batch_size, plan.train.rows)  # or so
    seeds = _seeds(settings.seed, number, ranks.rank, count=plan.train.steps)
    begin, talked, reading = monotonic(), ranks.watch.seconds, Stopwatch()
    progress.start_epoch(rows_before)
    for step, batch in enumerate(reading.waiting_for(batches), before.steps + 1):
        # Dropout draws from torch's own generator; other ranks drop other numbers.
        _generator(device).manual_seed(seeds[step - 1])
        steps_before = (number - 1) * plan.train.steps + step - 1
        rate = learning_rate(settings, before.curves, steps_before, plan.train.steps)
        loss += _step(plan, trainee, ranks, rate, batch, device)
        weight += batch.weight
        rows_done += batch.global_rows
        if ranks.leads and progress.due:
            mean = (loss.item() - loss_before) / max(weight - weight_before, 1e-9)
            progress.within(number, settings.epochs, rows_done, plan.train.rows, mean)
        if settings.checkpoint_steps and step % settings.checkpoint_steps == 0:
            sums = torch.tensor([[loss.item(), weight]], dtype=torch.float64)
            (everyones,) = ranks.gather(sums)  # (size, 2)
            _check_finite(everyones.sum().item(), number, settings)
            trainee.position = replace(
                before,
                legs=onward(before.legs, ranks.size, step - before.steps),
                sums=tuple((a, b) for a, b in everyones.tolist()),
            )
            if ranks.leads:
                _keep(plan, trainee, writer)
            ranks.let_in()
    trainee.settle()
    seconds = monotonic() - begin
    mine = torch.tensor([[reading.seconds, ranks.watch.seconds - talked]]) / seconds
    (shares,) = ranks.gather(mine)  # (ranks, 2)
    time = Shares(*(tuple(each) for each in shares.T.tolist()))
    speed = (rows_done - rows_before) / seconds
    sums = ranks.sum(torch.tensor([loss.item(), weight], dtype=torch.float64))
    _check_finite(sums[0].item(), number, settings)
    return (sums[0] / sums[1]).item(), speed, time


def _step(
    plan: Plan, trainee: Trainee, ranks: Ranks, rate: float, batch: Batch, device: torch.device
) -> Tensor | float:
    """Takes a step.

    Returns:
        The sum of the losses of this rank's rows.
    """
    rows, x, labels, weights = _tensors(batch, device)
    if trainee.whole is not None:
        return trainee.whole(
            *(rate, rows, x, labels, weights), first=batch.first, global_rows=batch.global_rows
        )
    together, optimizers = trainee.together, trainee.optimizers
    sum_of_losses, *of_look_ups = gradients(
        trainee.model,
        *(rows, x, labels, weights),
        plan.config.train,
        global_rows=batch.global_rows,
        size=ranks.size,
        shrinkage=optimizers.lazy.shrinkage.item(),
        into=together.room(batch.first, len(batch)) if together else None,
    )
    numbers = None if plan.train.layout.only_indices else x
    if together:
        together.step(rate, batch.first, batch.global_rows, rows, numbers)
    else:
        optimizers.step(ranks, rate, *looked_up(rows, numbers, *of_look_ups))
    return sum_of_losses


def _check_finite(loss: float, number: int, settings: TrainConfig) -> None:
    if not np.isfinite(loss):
        raise DivergedError(
            f"training diverged: the loss of epoch {number} is {loss}. "
            f"Lower train.learning_rate, which is {settings.learning_rate:g}"
        )


def _start(plan: Plan, ranks: Ranks, machine: Machine | None, device: torch.device) -> Trainee:
    """The run's state: as its checkpoint has it, or new; the same on every rank."""
    settings = plan.config.train
    model = build_model(plan.train.layout, plan.config.model, settings.seed).to(device)
    if ranks.leads and plan.pretrained is not None:
        start_from(model, plan.pretrained)
    optimizers = Optimizers.of(model, settings)
    trainee = Trainee(model, optimizers, None, None, Position(), best={})
    if ranks.leads and (saved := checkpoint.read(plan.folder)) is not None:
        plan.require(saved.identity)
        model.load_state_dict(dict(saved.weights))
        for name, tensor in optimizers.state.items():
            tensor.copy_(saved.optimizer[name])
        trainee.position, trainee.best = saved.position, dict(saved.best)
    most = settings.batch_size + ranks.size  # each may have a row more than its part
    slots = len(plan.train.layout.field_of_slot)
    trainee.together = Together.of(machine, ranks, model, optimizers, most, slots)
    if ranks.size == 1 or trainee.together:
        trainee.whole = WholeStep.of(
            *(model, optimizers, trainee.together, settings),
            only_indices=plan.train.layout.only_indices,
        )
    state = {**model.state_dict(), **optimizers.state}
    ranks.copy({k: t for k, t in state.items() if not (machine and machine.shares(t))})
    shared = ranks.share(checkpoint.position_to_json(trainee.position))
    trainee.position = checkpoint.position_from_json(shared)
    return trainee


def _measure_start(
    plan: Plan, trainee: Trainee, ranks: Ranks, progress: Progress, device: torch.device
) -> None:
    """Measures the FM that a model starts from: an epoch that is worse is none to keep."""
    start = measure(trainee.model, plan.validation, ranks, device, plan.config.train.loss)
    trainee.position = Position(start)
    if ranks.leads:
        trainee.hold_best()
        progress.start(start)


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


def _finish(plan: Plan, trainee: Trainee, ranks: Ranks, logs: Logs) -> Manifest:
    """Writes the model folder; the checkpoint is of no use then."""
    curves = trainee.position.curves
    start = trainee.position.start
    best = best_epoch(curves, plan.config.train.stop_on, start)
    manifest = Manifest(
        run=plan.folder.name,
        identity=plan.identity,
        config=without_secrets(plan.config),
        spec=plan.prepared.spec,
        spec_hash=plan.prepared.spec.hash,
        features=plan.features,
        seed=plan.config.train.seed,
        ranks=ranks.size,
        epochs=len(curves),
        best_epoch=best,
        validation=start if start and not best else curves[best - 1].validation,
        libraries=libraries(),
        revision=revision(),
    )
    weights = {name: tensor.cpu().numpy() for name, tensor in trainee.best.items()}
    # Before: a run whose folder is finished is not gone on with.
    logs.finish(manifest, lambda folder: write(folder, weights, curves, manifest))
    written = save(plan.folder, weights, curves, manifest)
    checkpoint.remove(plan.folder)
    return written


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Embedding rows, their numbers, labels, and weights if rows have any."""
    rows, x, labels = (torch.from_numpy(a).to(device) for a in (batch.rows, batch.x, batch.labels))
    weights = None if batch.weights is None else torch.from_numpy(batch.weights).to(device)
    return rows, x, labels, weights


def _seeds(*parts: int, count: int) -> list[int]:
    seeds: list[int] = np.random.SeedSequence(parts).generate_state(count).tolist()
    return seeds


def _generator(device: torch.device) -> torch.Generator:
    """The one that dropout draws from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index]
    return torch.default_generator
