"""Trains DeepCTR-Torch's AFM, one trial after the other, in an environment of its own.

    python benchmarks/accuracy/deepctr.py < trials > results

Lines are as those of ``benchmarks.accuracy.ours``. Training steps are those of the package's
``fit()``, and so are early stopping's; only the batches are cut from one tensor, for the package's
loader collects them row by row. Our indices are taken as they are. Of several values the package
takes the mean as we do, except that 0 fills up; so theirs are one higher, and where there are none
the first one stands for that.
"""

import json
import sys
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import AFM
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

Part = tuple[Tensor, Tensor]
"""Rows, columns of all fields side by side (B, C), and labels (B,)."""


def main() -> None:
    """Works until stdin ends."""
    torch.set_num_threads(1)
    # The package looks for a newer version of itself, and prints at some time that it found none.
    results, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(outcome(json.loads(line))), file=results, flush=True)


@lru_cache(maxsize=1)
def read(path: str) -> tuple[list[Any], dict[str, Part]]:
    """Reads a setting: the package's columns, and the parts of the rows."""
    arrays = np.load(path)
    fields = json.loads(str(arrays["fields"]))
    columns: list[Any] = []
    for one in fields:
        if one["encode"] == "multi":
            values = SparseFeat(one["name"], one["cardinality"] + 1, embedding_dim=one["size"])
            columns.append(VarLenSparseFeat(values, maxlen=one["width"], combiner="mean"))
        else:
            columns.append(SparseFeat(one["name"], one["cardinality"], embedding_dim=one["size"]))
    parts = {}
    for split in ("train", "validation", "test"):
        blocks = []
        for one in fields:
            block = arrays[f"{split}/{one['name']}"].reshape(-1, one["width"])
            if one["encode"] == "multi":
                present = block != 0
                block = np.where(present, block + 1, 0)
                block[~present.any(axis=1), 0] = 1
            blocks.append(block)
        rows = np.concatenate(blocks, axis=1).astype(np.float32)  # all models of the package do so
        labels = arrays[f"{split}/label"].astype(np.float32)
        parts[split] = torch.from_numpy(rows), torch.from_numpy(labels)
    return columns, parts


def outcome(trial: dict[str, Any]) -> dict[str, Any]:
    """Trains, and measures on the test rows if asked to."""
    columns, parts = read(str(Path(trial["rows"])))
    options = dict(trial["options"])
    rate = options.pop("learning_rate", 1e-3)
    model = AFM(columns, columns, seed=trial["seed"], **options)
    model.compile(torch.optim.Adam(model.parameters(), lr=rate), "binary_crossentropy")
    order = torch.Generator().manual_seed(trial["seed"])
    best, best_epoch, weights = 0.0, 0, {}
    for epoch in range(1, trial["epochs"] + 1):
        train_epoch(model, *parts["train"], trial["batch"], order)
        predicted = predict(model, parts["validation"])
        if not np.isfinite(predicted).all():
            return {"failed": f"training diverged in epoch {epoch}"}
        auc = roc_auc_score(parts["validation"][1], predicted)
        if auc > best:
            best, best_epoch, weights = auc, epoch, deepcopy(model.state_dict())
        if epoch - best_epoch >= trial["patience"]:
            break
    found = {"validation_auc": float(best), "epochs": epoch, "best_epoch": best_epoch}
    if trial["test"]:
        model.load_state_dict(weights)
        predicted, labels = predict(model, parts["test"]), parts["test"][1]
        found["test"] = {
            "auc": float(roc_auc_score(labels, predicted)),
            "log_loss": float(log_loss(labels, predicted)),
        }
    return found


def train_epoch(
    model: AFM, rows: Tensor, labels: Tensor, batch: int, order: torch.Generator
) -> None:
    """Steps as in the package's fit()."""
    model.train()
    for chosen in torch.randperm(len(rows), generator=order).split(batch):
        predicted = model(rows[chosen]).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted, labels[chosen], reduction="sum")
        (loss + model.get_regularization_loss() + model.aux_loss).backward()
        model.optim.step()


@torch.no_grad()
def predict(model: AFM, part: Part) -> np.ndarray:
    """Probabilities (B,)."""
    model.eval()
    return torch.cat([model(rows).squeeze(-1) for rows in part[0].split(8192)]).double().numpy()


if __name__ == "__main__":
    main()
