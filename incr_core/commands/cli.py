"""The command line: `incr run JOB.toml`, and the commands for a run directory."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from incr_core._util import json_text
from incr_core.commands import STOPPED
from incr_core.commands._arguments import parsers
from incr_core.errors import ArgumentError, IncrError
from incr_core.shown import shown

__all__ = ["main", "parsers"]

LOST = 120
"""Exit code of Python if the output could not be written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The arguments. None, as the command `incr` calls it: those of the process.

    Returns:
        The exit code: 0 done, 1 the job failed, 2 the job or the arguments are wrong.
    """
    if arguments is not None:
        options = parsers()[0].parse_args(arguments)
        return _guarded(COMMANDS[options.command], options)
    code: list[int] = []
    atexit.register(_end, code)  # before an import of a command registers a handler, so called after those
    options = parsers()[0].parse_args()
    apart = options.command == "run" and options.on != "local"
    code.append(_guarded(_run_apart if apart else COMMANDS[options.command], options))
    return code[0]


def _end(code: Sequence[int]) -> None:
    """End the process with its exit code, even if threads of a stream or of a library are still running.

    When a daemon thread returns from C++ during the interpreter's exit, its stack is unwound, and that aborts the
    process. A successful command would end with exit code 134.
    """
    if code and threading.active_count() > 1:
        logging.shutdown()
        lost = 0
        for output in (sys.stdout, sys.stderr):
            try:
                output.flush()
            except (BrokenPipeError, ValueError):  # the reader is gone, or it is closed
                pass
            except OSError:
                lost = LOST
        os._exit(code[0] or lost)


def _guarded(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Return the exit code of a command, and print its error."""
    try:
        return command(options)
    except IncrError as error:
        from incr_core.storage import told

        text = told(error)
        argument = re.match(r"\w+(?=[: ])", text)
        if isinstance(error, ArgumentError) and argument is not None and argument[0] in vars(options):
            text = f"--{text}"  # as the option is typed
        print(f"incr: {text}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "incr: stopped; committed versions are intact, and the same command continues from there", file=sys.stderr
        )
        return STOPPED
    except BrokenPipeError:  # the reader of the output has stopped reading
        sys.stderr.close()
        return 0


# Each command imports what it needs, so that `incr --help` answers at once.


def _init(options: argparse.Namespace) -> int:
    from incr_core.commands.init import init

    return init(options)


def _run(options: argparse.Namespace) -> int:
    _check_follow(options)
    if options.detach:
        from incr_core.commands.detached import detach_here

        return detach_here(options)
    from incr_core.commands.run import run_here

    return run_here(options)


def _check_follow(options: argparse.Namespace) -> None:
    from incr_core.errors import JobError

    if options.follow and options.detach:
        raise JobError("--follow, --detach: expected one of them, got both; a detached run ends with its files")


def _run_apart(options: argparse.Namespace) -> int:
    _check_follow(options)
    if options.detach:
        from incr_core.commands.detached import detach_apart

        return detach_apart(options, _guarded)
    from incr_core.commands.run import run_apart

    return run_apart(options, _guarded)


def _explain(options: argparse.Namespace) -> int:
    from incr_core.commands.explain import explained

    print(explained(options.key))
    return 0


def _client(options: argparse.Namespace) -> int:
    from incr_core.engines import at_owner

    owner = at_owner(options.on)
    if options.superlink is None:
        print(owner.described(options.file))
    else:
        owner.serve(options.file, options.superlink, options.certificates, options.key)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from incr_core.commands.predict import predict

    return predict(options)


def _recommend(options: argparse.Namespace) -> int:
    from incr_core.commands.recommend import recommend

    return recommend(options)


def _evaluate(options: argparse.Namespace) -> int:
    from incr_core.commands.predict import evaluate

    return evaluate(options)


def _distill(options: argparse.Namespace) -> int:
    from incr_core.commands.distill import distill
    from incr_core.commands.run import print_summary, said_whether_stopped

    summary = distill(
        options.directory, options.out, options.student, strength=options.strength, temperature=options.temperature
    ).document()
    if options.json:
        print(json_text(summary))
    else:
        print_summary(summary, options.out)
        print(f"  it goes on with: incr run {Path(options.out, 'job.toml')} --out {options.out}")
    return said_whether_stopped(summary)


def _export(options: argparse.Namespace) -> int:
    from incr_core.commands.export import export

    return export(options)


def _serve(options: argparse.Namespace) -> int:
    import dataclasses

    try:
        from incr_core.commands.serve import serve
        from incr_core.serving import Serving
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"serve: needs {missing.name}, which is not installed; pip install 'incr[serve]'"
        ) from missing
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Serving)}
    serve(options.directory, Serving(**chosen))
    return 0


def _ingest(options: argparse.Namespace) -> int:
    import dataclasses

    from incr_core.commands.ingest import ingest
    from incr_core.ingest import Ingest

    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Ingest)}
    ingest(options.directory, Ingest(**chosen))
    return 0


def _attach(options: argparse.Namespace) -> int:
    from incr_core.commands.detached import attach

    return attach(options)


def _status(options: argparse.Namespace) -> int:
    from incr_core.commands.status import described, watch
    from incr_core.runs import Status

    if options.watch:
        with suppress(KeyboardInterrupt):
            watch(options.directory, json=options.json)
        return 0
    found = Status.of(options.directory)
    print(json_text(found.document()) if options.json else described(found))
    return 0


def _stop(options: argparse.Namespace) -> int:
    from incr_core.runs import stop

    version = stop(options.directory, options.timeout)
    stands = "nothing is committed" if version is None else f"it stands at version {version}"
    print(f"the run has ended; {stands}, and the command that started it goes on from there")
    return 0


def _versions(options: argparse.Namespace) -> int:
    from incr_core.runs import VersionRecord

    found = VersionRecord.all_of(options.directory)
    print(f"{'version':>8}  {'created (UTC)':20} {'after':20} {'rows':>9}  model")
    for version in found:
        marks = " champion" if version.champion else ""
        marks += "" if version.has_weights else " (weights pruned)"
        marks += f" held: {shown(version.held)}" if version.held else ""
        print(
            f"{version.number:>8}  {version.created[:19]:20} {shown(version.after):20} {version.rows:>9,}  "
            f"{version.model_sha256[:12]}{marks}"
        )
    return 0


def _change(options: argparse.Namespace) -> int:
    from incr_core.runs import change

    version, drop = getattr(options, "version", None), getattr(options, "drop", False)
    print(change(options.directory, options.command, version, drop=drop))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from incr_core.commands.diff import described
    from incr_core.runs import difference

    found = difference(options.directory, options.one, options.other)
    print(json_text(found) if options.json else described(found))
    return 0


def _tune(options: argparse.Namespace) -> int:
    from incr_core.commands.tune import tune_job

    return tune_job(options)


def _compare(options: argparse.Namespace) -> int:
    from incr_core.commands.compare import compare_runs

    return compare_runs(options)


def _forget(options: argparse.Namespace) -> int:
    from incr_core.commands.forget import forget

    return forget(options)


def _audit(options: argparse.Namespace) -> int:
    from incr_core.commands.audit import audit, described, owners_audit
    from incr_core.commands.forget import is_owners

    if is_owners(options.directory):
        runs = owners_audit(options.directory)
        documents = {name: found.document() for name, found in runs.items()}
        text = "\n".join(described(found, f"run {name}") for name, found in runs.items())
        print(json_text(documents) if options.json else text or "no run has had rows of this client")
        return 0 if all(found.holds for found in runs.values()) else 1
    found = audit(options.directory)
    print(json_text(found.document()) if options.json else described(found))
    return 0 if found.holds else 1


def _report(options: argparse.Namespace) -> int:
    from incr_core.runs import Run
    from incr_core.storage import told

    print(shown(told(Run(options.directory).write_report(options.tasks))))
    return 0


def _strategies(options: argparse.Namespace) -> int:
    from incr_core.commands.strategies import describe

    print(describe(options.names))
    return 0


def _completion(options: argparse.Namespace) -> int:
    from incr_core.commands.completion import script

    print(script(options.shell))
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "run": _run,
    "explain": _explain,
    "client": _client,
    "predict": _predict,
    "recommend": _recommend,
    "evaluate": _evaluate,
    "distill": _distill,
    "export": _export,
    "serve": _serve,
    "ingest": _ingest,
    "attach": _attach,
    "status": _status,
    "stop": _stop,
    "versions": _versions,
    "rollback": _change,
    "promote": _change,
    "pin": _change,
    "hold": _change,
    "unpin": _change,
    "diff": _diff,
    "compare": _compare,
    "tune": _tune,
    "forget": _forget,
    "audit": _audit,
    "report": _report,
    "strategies": _strategies,
    "completion": _completion,
}

if __name__ == "__main__":
    sys.exit(main())
