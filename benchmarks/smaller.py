"""Smaller models: pruned or rounded while they learn, and when they are exported.

    python -m benchmarks.smaller

The flights of January and February, a day at a time, by the network of `examples/flights/job.toml` without rates of the
past. Each model is exported as safetensors, and the exported model is asked about the first week of March, which no
model has learned. AUC is the mean of the seeds.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scores import Scores, spread
from examples.flights.prepare import main as prepare
from incr_core.job import Job
from incr_core.runs import Run

RESULTS = Path(__file__).parent / "results" / "smaller.json"
FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"
LEARNED: dict[str, str] = {
    "dense": "[]",
    **{f"magnitude {share}": f'[{{name="magnitude_pruning", sparsity={share}, over=20}}]' for share in (0.8, 0.95)},
    **{f"movement {share}": f'[{{name="movement_pruning", sparsity={share}, over=20}}]' for share in (0.8, 0.95)},
    "qat": '[{name="qat"}]',
}
"""What is learned -> model.adapt."""

EXPORTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "int8": {"quantize": "int8"},
    "prune 0.8": {"prune": 0.8},
    "prune 0.95": {"prune": 0.95},
}


def days(data: Path) -> tuple[Path, pa.Table]:
    """The folder of the days to learn, and the rows of the week after them."""
    found = sorted((FLIGHTS / "data").glob("2013-0?-??.parquet"))
    for file in found:
        if file.stem < "2013-03-01":
            shutil.copy(file, data)
    held = [pq.read_table(file) for file in found if "2013-03-01" <= file.stem < "2013-03-08"]
    return data, pa.concat_tables(held)


def measured(adapt: str, seed: int, data: Path, held: pa.Table, folder: Path) -> dict[str, dict[str, float]]:
    """Learn once, and export in every form: AUC before and after, the largest difference, and bytes."""
    settings = [f"stream.path={data}/*.parquet", "baselines={}", "features.rate=[]", "publish.gate=false"]
    job = Job.read(FLIGHTS / "job.toml", [*settings, f"learner.seed={seed}", f"model.adapt={adapt}"])
    run = Run(folder / "run", job.resolved())
    run.run()
    found = {}
    for name, arguments in EXPORTS.items():
        if adapt != "[]" and "prune" in name:
            continue
        record = run.champion.export(folder / name, "safetensors", check=held, **arguments)
        found[name] = {
            "before": record["metrics"]["before"]["auc"],
            "after": record["metrics"]["after"]["auc"],
            "difference": record["check"]["largest_difference"],
            "zipped": record["size"]["after"]["zipped"],
        }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that were not made yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    prepare([])
    kept = Scores(RESULTS, {})
    print(f"{'learned':<16}{'exported':<12}{'AUC in incr':>12}{'exported':>10}{'difference':>12}{'zipped':>10}")
    for name, adapt in LEARNED.items():
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(options.seeds):
            for export in EXPORTS:
                run = {"learned": name, "exported": export, "seed": seed}
                if kept.find(run) is None and (adapt == "[]" or "prune" not in export):
                    with tempfile.TemporaryDirectory() as place:
                        (Path(place) / "data").mkdir()
                        data, held = days(Path(place) / "data")
                        for form, scores in measured(adapt, seed, data, held, Path(place)).items():
                            kept.add({"learned": name, "exported": form, "seed": seed}, scores)
                if (line := kept.find(run)) is not None:
                    found.setdefault(export, []).append(line)
        for export, lines in found.items():
            means = {key: spread([line[key] for line in lines])[0] for key in lines[0]}
            print(
                f"{name:<16}{export:<12}{means['before']:>12.4f}{means['after']:>10.4f}{means['difference']:>12.5f}"
                f"{means['zipped']:>10,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
