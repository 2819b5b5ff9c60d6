"""The pretrained transformer of a job: its folder, the check of its files, and the settings that exclude it."""

from __future__ import annotations

from pathlib import Path

from incr_core.data.encoding import Pretrained, pretrained_at, pretrained_sha256
from incr_core.errors import ArgumentError, JobError
from incr_core.job._file import JobFile
from incr_core.storage import is_address

__all__ = ["encoder_hash", "learns_encoder", "pretrained_of"]

LEARNED_BY = ("ia3", "peft_lora", "prefix", "prompt")
"""Adaptations, by peft, of the transformer itself."""


def pretrained_of(job: JobFile) -> Pretrained | None:
    """Return the transformer of a job, if it names one.

    Raises:
        JobError: There is none, its files are not those that the run began with, or another key excludes it.
    """
    model = job.model
    if model.encoder is None:
        return None
    _check(job)
    folder = _folder(job)
    if model.encoder_sha256 is not None and (got := pretrained_sha256(folder)) != model.encoder_sha256:
        raise JobError(
            f"model.encoder: expected the files whose hash is {model.encoder_sha256[:12]} in {folder}, got "
            f"{got[:12]}; put them back, or start another run"
        )
    try:
        return pretrained_at(folder, model.encoder_tokens, model.encoder_cache)
    except ArgumentError as error:
        raise JobError(str(error)) from error


def learns_encoder(job: JobFile) -> bool:
    """Return whether the transformer is part of the model, and adapted there."""
    return job.model.encoder is not None and any(step.name in LEARNED_BY for step in job.model.adapt)


def encoder_hash(job: JobFile) -> str | None:
    """Return the hash of the transformer's files, as the job states it or as they are now; None without one."""
    if job.model.encoder is None:
        return None
    return job.model.encoder_sha256 or pretrained_sha256(_folder(job))


def _folder(job: JobFile) -> Path:
    """Return the folder of a job's transformer.

    Raises:
        JobError: There is none.
    """
    name = str(job.model.encoder)
    if is_address(name):
        raise JobError(f"model.encoder: expected a folder of this machine, got {name}; copy it here")
    folder = Path(job.root, Path(name).expanduser())
    if not folder.is_dir():
        folder = _downloaded(name) or folder
    if not (folder / "config.json").is_file():
        got = "a folder without it" if folder.is_dir() else "nothing there"
        raise JobError(
            f"model.encoder: expected a folder with config.json, or a name that was downloaded, got {name!r}, {got}; "
            f"check the path, or run: hf download {name}"
        )
    return folder


def _downloaded(name: str) -> Path | None:
    """Return the folder of a name among the files downloaded before; nothing is downloaded."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        return None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _check(job: JobFile) -> None:
    features = job.features
    in_the_way = {
        "columns in features.text, got none": not features.text,
        "no features.ranges, which must name all numbers of a row": bool(features.ranges),
        f"an objective that takes text, got {job.learner.objective!r}": job.learner.objective
        in ("ranking", "next_token"),
        "no model.inputs, which names columns of numbers": bool(job.model.inputs),
        "no model.factory beside what adapts the encoder in the built-in model": learns_encoder(job)
        and job.model.factory is not None,
    }
    if fault := next((what for what, there in in_the_way.items() if there), None):
        raise JobError(f"model.encoder: expected {fault}; change it, or leave the encoder out")
