"""Training against the best that is possible: labels drawn from a planted AFM."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from deltalake import WriterProperties, write_deltalake
from sklearn.metrics import log_loss, roc_auc_score

from afm.artifact import load
from afm.forward import Parameters, forward
from afm.progress import Progress
from afm.ranks import Ranks
from afm.train import train
from conf.features import FieldConfig, Keys, SplitConfig
from conf.schema import Config
from conf.synthetic import Synthetic
from features.spec import FIRST, FeatureSpec, FittedField, FittedSplit
from jobs.planted_log import BLOCK, log_block, make_plan
from tests.afm.planted import write_prepared

TRAIN, OTHER = 40, 4  # blocks of rows that train, and of those that validate and test
COUNTS = {"user": 200, "item": 100, "city": 30, "genre": 12}


def planted_rows() -> pd.DataFrame:
    """The log with its fields encoded as prepare encodes them."""
    category = {"side": "context", "kind": "category", "zipf": 0.5, "null_share": 0.1}
    fields = [
        category | {"name": "city", "cardinality": COUNTS["city"]},
        category | {"name": "genre", "cardinality": COUNTS["genre"]},
        {"name": "age", "side": "context", "kind": "normal", "mean": 40, "std": 12},
    ]
    config = {
        "rows": (TRAIN + 2 * OTHER) * BLOCK,
        "path": "none",
        "users": {"count": COUNTS["user"], "zipf": 0.5},
        "items": {"count": COUNTS["item"], "zipf": 0.5},
        "fields": fields,
        "planted": {"embedding_size": 4, "attention_size": 4},
    }
    plan = make_plan(Synthetic.model_validate(config))
    blocks = [log_block(plan, block) for block in range(TRAIN + 2 * OTHER)]
    log = pa.Table.from_batches(blocks).to_pandas()
    parts = np.repeat(["train", "validation", "test"], [TRAIN * BLOCK, *[OTHER * BLOCK] * 2])
    rows = {name: log[f"{name}_id"] + FIRST for name in ("user", "item")}
    rows |= {n: log[n].str[1:].astype(float).add(FIRST).fillna(0) for n in ("city", "genre")}
    return pd.DataFrame(
        {name: column.astype(np.int32) for name, column in rows.items()}
        | {"age": ((log["age"] - 40) / 12).astype(np.float32)}
        | {"label": log["clicked"].astype(float), "true_logit": log["true_logit"]}
        | {"row": np.arange(len(log)), "split": parts}
    )


def test_afm_reaches_the_ceiling_of_its_planted_log(tmp_path: Path) -> None:
    rows = planted_rows()
    write_deltalake(
        tmp_path / "features",
        pa.Table.from_pandas(rows.drop(columns="true_logit"), preserve_index=False),
        partition_by=["split"],
        writer_properties=WriterProperties(max_row_group_size=BLOCK),
    )
    fields = [
        FieldConfig(name=name, side="context", encode="value" if name == "age" else "index")
        for name in (*COUNTS, "age")
    ]
    fitted = [FittedField(config=f, cardinality=COUNTS.get(f.name, -1) + FIRST) for f in fields]
    split = FittedSplit(config=SplitConfig())
    spec = FeatureSpec(label="clicked", keys=Keys(), fields=tuple(fitted), split=split)
    write_prepared(tmp_path, spec)
    config = Config.model_validate(
        {
            "source": {"interactions": {"format": "csv", "path": "none"}},
            "label": "clicked",
            "fields": [f.model_dump(exclude_defaults=True) for f in fields],
            "model": {"embedding_size": 8, "attention_size": 8, "embedding_dropout": 0},
            "train": {"batch_size": 2048, "stop_on": "log_loss", "schedule": {"plateau": {}}},
            "tables": {"root": str(tmp_path)},
        }
    )
    train(config, Ranks(), Progress(sys.stderr), torch.device("cpu"))

    artifact, test = load(config.models_root, "afm"), rows[rows["split"] == "test"]
    columns = {i.name: test[i.name].to_numpy() for i in artifact.layout.inputs}
    parameters = Parameters.of(artifact.weights, artifact.layout, config.model.scale)
    logits, best = forward(parameters, columns).astype(float), test["true_logit"].astype(float)
    assert roc_auc_score(test["label"], best) > 0.75
    assert roc_auc_score(test["label"], logits) >= roc_auc_score(test["label"], best) - 0.005
    true, mine = (log_loss(test["label"], 1 / (1 + np.exp(-z))) for z in (best, logits))
    assert true <= mine <= true + 0.01
