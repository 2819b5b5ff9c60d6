"""Fingerprint of a job: equal for jobs that are the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from incr_core.job._sections import JobSections

__all__ = ["fingerprint"]


def fingerprint(job: JobSections, document: dict[str, Any]) -> str:
    """SHA-256 of the keys that decide what a job learns. Two jobs with equal fingerprints are the same run.

    These keys may change while a run goes on:

    - The name of the run, its alerts and its limits.
    - Where workers are found, how long they are waited for, how many versions are kept, and the size of the cache of an
      encoder (`_OPERATIONAL`).
    - The number of replicas that share one stream, and the number of shards of a replica's model.
    - The folder of the job, if it moves with the data in it.
    - `features.on_bad_row` and `on_bad_file`. A run that a bad row or file has stopped goes on with "quarantine".

    Args:
        job: The sections of the job.
        document: The same job as nested dictionaries. It is changed.
    """
    document["features"]["on_bad_row"] = "fail"
    for section, key in _OPERATIONAL:
        document.get(section, {}).pop(key, None)
    federated = job.federated
    if federated.owned or not (federated.selects or federated.availability):  # else how many are drawn at least
        document["federated"].pop("min_clients", None)
    if federated.availability is None:  # else who is too late
        document["federated"].pop("round_timeout", None)
    if job.publish.on_hold == "go_on":  # else the gate says what is learned
        for key in ("margin", "patience", "reference", "on_hold"):
            del document["publish"][key]
    if job.publish.holdout or job.publish.on_hold == "rollback":
        document["publish"]["gate"] = True
    else:
        document["publish"].pop("gate", None)
    if not job.publish.holdout:  # as an earlier incr has it
        del document["publish"]["holdout"]
    document["cluster"]["shards"] = 1
    if job.cluster.partition == "blocks":  # else each replica has a stream of its own
        document["cluster"].pop("replicas", None)
    del document["alerts"], document["limits"]
    del document["name"]  # of the folder, where none is given
    path, root = Path(job.stream.path), Path(document.pop("root"))
    if document["federated"].pop("superlink", None) is not None:
        document["stream"]["path"] = "with their owners"
    elif path.is_relative_to(root):
        document["stream"]["path"] = path.relative_to(root).as_posix()
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


_OPERATIONAL = [
    ("learner", "graphs"),
    ("model", "encoder_cache"),
    ("cluster", "gpus"),
    ("features", "on_bad_file"),
    ("features", "slices"),
    ("features", "slice_values"),
    *(("cluster", key) for key in ("address", "timeout", "spares", "max_failures")),
    *(("federated", key) for key in ("certificates", "accept_failures")),
    ("publish", "keep"),
    ("publish", "states"),
    *(("track", key) for key in ("tensorboard", "mlflow", "callbacks")),
]
"""Further keys that may change while a run goes on, because they do not decide what is learned."""
