"""NIID-Bench on Fashion-MNIST (Li et al. 2022, arXiv:2102.02079): ten clients that see unlike rows, by the product.

    python -m benchmarks.niid                                 what is published, one seed: hours
    python -m benchmarks.niid --rounds 5 --rows 6000 ...      a short form

A round is an increment: the same rows once more, as a file of another name, so that a run goes on at the round at which
it was stopped. Every version is measured on the test set, and the best counts, as in the paper. Splits as in its code:
equal shares at random; Dirichlet(0.5) over clients for each label; two labels for each client. A result that is in
the file is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from benchmarks.fashion_mnist import FASHION_MNIST, fashion_mnist
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import Version

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "niid.json"
CLIENTS, CLASSES = 10, 10

PUBLISHED = {
    ("iid", "fedavg"): 89.23,
    ("dirichlet", "fedavg"): 88.09,
    ("labels", "fedavg"): 78.10,
    ("dirichlet", "fedprox"): 88.15,
    ("labels", "fedprox"): 78.05,
    ("dirichlet", "scaffold"): 88.44,
    ("dirichlet", "fednova"): 88.22,
}
"""Mean accuracy over three seeds, in percent; the short form is far from it."""

RULES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"strategy": [{"name": "fedprox", "strength": 0.01}]},
    "scaffold": {"strategy": [{"name": "scaffold"}]},
    "fednova": {"federated": {"aggregation": "fednova"}},
}


class LeNet(nn.Module):
    """Two convolutions of 6 and 16 channels, and layers of 120 and 84, on images (B, 784) as rows have them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        layers = [nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES)]
        self.head = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, 10)."""
        logits: Tensor = self.head(self.features(pixels.view(-1, 1, 28, 28)).flatten(1))
        return logits


def lenet() -> nn.Module:
    """The model that the job names."""
    return LeNet()


def dealt(split: str, labels: npt.NDArray[np.int64], draw: np.random.Generator) -> npt.NDArray[np.int64]:
    """The client of each row (n,).

    >>> labels = np.arange(1000) % 10
    >>> np.bincount(dealt("iid", labels, np.random.default_rng(0))).tolist()
    [100, 100, 100, 100, 100, 100, 100, 100, 100, 100]
    >>> owner = dealt("labels", labels, np.random.default_rng(0))
    >>> max(len(np.unique(labels[owner == client])) for client in range(10))
    2
    """
    owner = np.empty(len(labels), np.int64)
    if split == "iid":
        owner[draw.permutation(len(labels))] = np.arange(len(labels)) * CLIENTS // len(labels)
    elif split == "dirichlet":
        while True:
            for label in range(CLASSES):
                mine = draw.permutation(np.flatnonzero(labels == label))
                ends = (np.cumsum(draw.dirichlet(np.full(CLIENTS, 0.5)))[:-1] * len(mine)).astype(int)
                for client, part in enumerate(np.split(mine, ends)):
                    owner[part] = client
            if np.bincount(owner, minlength=CLIENTS).min() >= 10:
                break
    else:
        # Each client has the label of its own number, and another one.
        others = [[label for label in range(CLASSES) if label != client] for client in range(CLIENTS)]
        has = [{client, int(draw.choice(others[client]))} for client in range(CLIENTS)]
        for label in range(CLASSES):
            theirs = [client for client in range(CLIENTS) if label in has[client]]
            mine = draw.permutation(np.flatnonzero(labels == label))
            for client, part in zip(theirs, np.array_split(mine, len(theirs)), strict=True):
                owner[part] = client
    return owner


def table_of(pixels: Tensor, labels: Tensor, owner: npt.NDArray[np.int64] | None = None) -> pa.Table:
    """Images as lists of numbers, their labels, and whose they are."""
    flat = pa.array(pixels.numpy().astype(np.float32).ravel())
    columns = {"pixels": pa.FixedSizeListArray.from_arrays(flat, 784), "label": labels.numpy()}
    return pa.table(columns | ({} if owner is None else {"client": owner}))


def prepare(folder: Path, split: str, seed: int, rounds: int, rows: int | None, source: Path) -> Path:
    """Write the rows of a split once, and a name for each round; returns their folder."""
    place = folder / f"{split}-{seed}-{rows or 'all'}"
    place.mkdir(parents=True, exist_ok=True)
    file = place / "rows.bin"
    if not file.exists():
        train, test = fashion_mnist(source)
        some = slice(rows)
        owner = dealt(split, train.targets[some].numpy(), np.random.default_rng(seed))
        assert isinstance(train.inputs, Tensor)
        assert isinstance(test.inputs, Tensor)
        rows_of_all = table_of(train.inputs[some], train.targets[some], owner)
        pq.write_table(rows_of_all, place / "writing", row_group_size=10_000)
        pq.write_table(table_of(test.inputs, test.targets), place / "test.parquet")
        os.replace(place / "writing", file)
    for number in range(rounds):
        name = place / f"round-{number:03}.parquet"
        if not name.exists():
            os.link(file, name)
    return place


def job_of(place: Path, rule: str, epochs: int, seed: int) -> dict[str, Any]:
    """The job of a rule over the rounds in a folder."""
    chosen = RULES[rule]
    return {
        "name": f"niid-{rule}",
        "stream": {"path": str(place / "round-*.parquet"), "order": "file", "every": "file", "settle": "0s"},
        "features": {
            "label": "label",
            "numeric": ["pixels"],
            "classes": list(range(CLASSES)),
            "widths": {"pixels": 784},
        },
        "model": {"factory": "benchmarks.niid:lenet", "inputs": {"pixels": "pixels"}},
        "learner": {
            "objective": "multiclass",
            "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-5},
            "batch_size": 64,
            "epochs": epochs,
            "seed": seed,
        },
        "strategy": chosen.get("strategy", []),
        "federated": {"clients": "client", **chosen.get("federated", {})},
    }


def learn(document: dict[str, Any], out: Path) -> None:
    """Run a job, or go on with it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / f"{out.name}.toml"
    file.write_text(Job.from_document(document).toml())
    command = [sys.executable, "-m", "incr_core.commands.cli", "run", str(file), "--on", "federated", "--quiet"]
    subprocess.run([*command, "--out", str(out)], check=True)


def best(out: Path, test: Path) -> tuple[float, int]:
    """The best accuracy of all versions on the test set, in percent, and of which."""
    found = {
        version["version"]: 100 * Version.load(out, version["version"]).evaluate(test)["accuracy"]
        for version in RunDirectory.open(out).versions()
    }
    number = max(found, key=lambda version: found[version])
    return found[number], number


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for and not there yet; print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=int, help="of the training set (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="SPLIT/RULE, as dirichlet/scaffold (default: all that are published)")
    parser.add_argument("--source", type=Path, default=FASHION_MNIST)
    parser.add_argument("--out", type=Path, default=Path("runs/niid"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for split, rule in PUBLISHED:
        if options.only and f"{split}/{rule}" not in options.only:
            continue
        key = f"{split}/{rule}/{options.rounds}x{options.epochs}/{options.rows or 'all'}/seed {options.seed}"
        if key not in results:
            place = prepare(options.out / "rows", split, options.seed, options.rounds, options.rows, options.source)
            out = options.out / key.replace("/", "-").replace(" ", "")
            learn(job_of(place, rule, options.epochs, options.seed), out)
            accuracy, version = best(out, place / "test.parquet")
            results[key] = {"accuracy": round(accuracy, 2), "round": version, "published": PUBLISHED[split, rule]}
            options.results.parent.mkdir(exist_ok=True)
            options.results.write_text(json.dumps(results, indent=2) + "\n")
        print(key, results[key], flush=True)


if __name__ == "__main__":
    main()
