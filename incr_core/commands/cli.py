"""The command line: `incr run JOB.toml`, and what one does with a run directory afterwards."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from incr_core._util import json_text
from incr_core.commands import STOPPED
from incr_core.errors import ArgumentError, IncrError
from incr_core.shown import shown

__all__ = ["main"]

LOST = 120
"""How Python ends where what was printed could not be written."""

OWN_WEIGHTS = "with the weights that a client has for itself; at an owner, CLIENT.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 the job failed, 2 the job or the arguments are wrong.

    arguments: None, as the command `incr` calls it, for those of the process.
    """
    if arguments is not None:
        options = _parser().parse_args(arguments)
        return _guarded(options.command, options)
    code: list[int] = []
    atexit.register(_end, code)  # before what a command imports registers anything, and so called after all of it
    options = _parser().parse_args()
    apart = options.command is _run and options.on != "local"
    code.append(_guarded(_run_apart if apart else options.command, options))
    return code[0]


def _end(code: Sequence[int]) -> None:
    """End the process with its exit code while threads of a stream, or of a library, are still at something.

    A daemon thread that comes back from C++ while Python ends is unwound through it, and that aborts the process: what
    went well would end with exit code 134.
    """
    if code and threading.active_count() > 1:
        logging.shutdown()
        lost = 0
        for output in (sys.stdout, sys.stderr):
            try:
                output.flush()
            except (BrokenPipeError, ValueError):  # nobody reads it, or it is closed
                pass
            except OSError:
                lost = LOST
        os._exit(code[0] or lost)


def _guarded(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """The exit code of a command, whose errors are told."""
    try:
        return command(options)
    except IncrError as error:
        from incr_core.storage import told

        text = told(error)
        argument = re.match(r"\w+(?=[: ])", text)
        if isinstance(error, ArgumentError) and argument is not None and argument[0] in vars(options):
            text = f"--{text}"  # as it is typed
        print(f"incr: {text}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("incr: stopped; what was committed is intact, and the same command goes on from there", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="incr", description="Keep a PyTorch model current: learn increments of data as they come."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    init = command("init", _init, "look at rows, tell what is in them, and write a job that learns them")
    what = init.add_mutually_exclusive_group(required=True)
    what.add_argument("rows", nargs="?", metavar="ROWS", help="a file or a folder: Parquet, Arrow, CSV or JSON lines")
    what.add_argument("--example", metavar="NAME", help="write rows too: flights, reviews, sensors or ratings")
    init.add_argument("--label", metavar="COLUMN", help="the column to predict; none: tell the columns")
    init.add_argument("--out", metavar="JOB.toml", help="the job file to write (default: job.toml, or NAME/job.toml)")

    run = command("run", _run, "learn a job's stream; goes on where an unfinished run of the same job stands")
    run.add_argument("job", metavar="JOB.toml")
    run.add_argument("--on", default="local", metavar="ENGINE", help="local (default), cluster or federated")
    run.add_argument("--out", metavar="DIR", help="the run directory (default: runs/NAME, or runs/NAME-ENGINE)")
    run.add_argument("--set", action="append", default=[], metavar="section.key=value", help="change a key of the job")
    run.add_argument("--follow", action="store_true", help="wait for more files, until stopped: incr stop, or Ctrl-C")
    run.add_argument("--detach", action="store_true", help="let the cluster keep the run, and return: see incr attach")
    run.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")

    client = command("client", _client, "let a federated run learn from rows of your own, which stay on this machine")
    client.add_argument("file", metavar="CLIENT.toml", help="where the rows are, and what a run may do with them")
    what = client.add_mutually_exclusive_group(required=True)
    what.add_argument("--superlink", metavar="HOST:PORT", help="the federation's SuperLink (Flower)")
    what.add_argument("--ledger", action="store_true", help="tell which rows runs have had, and the hashes of that")
    client.add_argument("--certificates", metavar="CA.crt", help="who signed the SuperLink's certificate; none: no TLS")
    client.add_argument("--key", metavar="FILE", help="the private key of a node that is registered there")
    client.add_argument("--on", default="federated", metavar="ENGINE", help=argparse.SUPPRESS)

    predict = command("predict", _predict, "predict the rows of a file with a version of a run")
    predict.add_argument("directory", metavar="DIR")
    predict.add_argument("rows", metavar="ROWS.parquet")
    predict.add_argument("--version", type=int, metavar="N", help="default: the champion")
    predict.add_argument("--keep", metavar="COLUMN,...", help="columns of the rows to have beside their predictions")
    predict.add_argument("--client", metavar="NAME", help=OWN_WEIGHTS)
    predict.add_argument("--explain", action="store_true", help="what each column has to do with each prediction")
    predict.add_argument("-o", "--output", metavar="OUT.parquet", help="or OUT.csv; default: CSV on standard output")

    evaluate = command("evaluate", _evaluate, "measure a run's champion on labelled rows of a file")
    evaluate.add_argument("directory", metavar="DIR")
    evaluate.add_argument("rows", metavar="ROWS.parquet")
    evaluate.add_argument("--version", type=int, metavar="N", help="default: the champion")
    evaluate.add_argument("--client", metavar="NAME", help=OWN_WEIGHTS)
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")

    distill = command(
        "distill", _distill, "teach a smaller model what a run's champion knows; `incr run` goes on with it"
    )
    distill.add_argument("directory", metavar="DIR")
    distill.add_argument("--out", required=True, metavar="DIR2", help="the student's run directory")
    distill.add_argument(
        "--student", action="append", default=[], metavar="section.key=value", help="what the student's job changes"
    )
    distill.add_argument("--strength", type=float, default=1.0, help="weight of the distillation loss (default: 1)")
    distill.add_argument("--temperature", type=float, default=2.0, help="how soft its answers are made (default: 2)")
    distill.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")

    export = command(
        "export", _export, "write a version for a service that knows neither incr nor its job: docs/export.md"
    )
    export.add_argument("directory", metavar="DIR")
    export.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, or an empty one")
    formats = "onnx (default), for onnxruntime; pt2, a program of torch.export; safetensors, the weights"
    export.add_argument("--format", default="onnx", metavar="FORMAT", help=formats)
    export.add_argument("--version", type=int, metavar="N", help="default: the champion")
    export.add_argument("--client", metavar="NAME", help=OWN_WEIGHTS)
    export.add_argument(
        "--check", metavar="ROWS.parquet", help="compare the answers on these rows (default: rows of the run's stream)"
    )
    export.add_argument("--quantize", metavar="int8", help="of linear layers; their cost is told")
    export.add_argument("--json", action="store_true", help="print export.json, and nothing else")

    serve = command(
        "serve", _serve, "answer questions over HTTP with a run's champion, and hear what was right: docs/serving.md"
    )
    serve.add_argument("directory", metavar="DIR")
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any that is free")
    serve.add_argument("--max-bytes", type=int, default=8_000_000, metavar="N", help="of a request (default: 8000000)")
    serve.add_argument("--max-rows", type=int, default=10_000, metavar="N", help="of a request (default: 10000)")
    serve.add_argument("--rate", type=float, metavar="N", help="requests a second, of all together (default: any)")
    serve.add_argument("--concurrency", type=int, default=1024, metavar="N", help="requests at a time (default: 1024)")
    serve.add_argument("--token-file", metavar="FILE", help="the token that requests must bring (default: $INCR_TOKEN)")
    serve.add_argument("--tls-cert", metavar="FILE", help="the server's certificate, for https")
    serve.add_argument("--tls-key", metavar="FILE", help="the key of the certificate")
    serve.add_argument("--journal", metavar="FOLDER", help="keep predictions here, and take labels for them: /feedback")
    serve.add_argument("--labelled", metavar="FOLDER", help="rows whose labels came, for a stream (default: in there)")
    serve.add_argument("--join-every", type=float, default=60.0, metavar="SECONDS", help="between these (default: 60)")
    serve.add_argument("--keep", type=int, default=1_000_000, metavar="N", help="predictions kept (default: 1000000)")

    attach = command("attach", _attach, "follow a detached run to its end; Ctrl-C leaves it alone")
    attach.add_argument("directory", metavar="DIR")
    attach.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")
    attach.add_argument("--quiet", action="store_true", help="print nothing but errors")

    status = command("status", _status, "tell where a run stands, while it goes on and afterwards")
    status.add_argument("directory", metavar="DIR")
    status.add_argument("--json", action="store_true", help="print it as JSON")
    status.add_argument("--watch", action="store_true", help="go on telling until the run ends, or Ctrl-C")

    stop = command("stop", _stop, "let a run that goes on, in whatever process, commit and end")
    stop.add_argument("directory", metavar="DIR")
    stop.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="to wait (default: 600)")

    versions = command("versions", _versions, "list the versions of a run")
    versions.add_argument("directory", metavar="DIR")

    rollback = command("rollback", _change, "undo what was learned since a version: learning goes on from it")
    rollback.add_argument("--drop", action="store_true", help="set the rows since aside, instead of learning them anew")
    promote = command("promote", _change, "make a version the champion, until the next one is published")
    pin = command("pin", _change, "let a version stay the champion, whatever is committed")
    for one, action in ((rollback, "rollback"), (promote, "promote"), (pin, "pin")):
        one.add_argument("directory", metavar="DIR")
        one.add_argument("version", type=int, metavar="N")
        one.set_defaults(action=action)
    hold = command("hold", _change, "let the champion stay what it is, whatever is committed")
    unpin = command("unpin", _change, "let the next version that is published become the champion")
    for one, action in ((hold, "hold"), (unpin, "unpin")):
        one.add_argument("directory", metavar="DIR")
        one.set_defaults(action=action)

    diff = command("diff", _diff, "tell what differs between two versions: weights, metrics, rows, verdicts")
    diff.add_argument("directory", metavar="DIR")
    diff.add_argument("one", type=int, metavar="N")
    diff.add_argument("other", type=int, metavar="M")
    diff.add_argument("--json", action="store_true", help="print it as JSON")

    compare = command("compare", _compare, "compare runs: metrics, speed, and what differs between their jobs")
    compare.add_argument("directories", nargs="+", metavar="RUN", help="directories of runs, finished or not")
    compare.add_argument("--out", metavar="PAGE.html", help="write a page with plots, too")
    compare.add_argument("--json", action="store_true", help="print it as JSON")

    forget = command("forget", _forget, "delete rows from all that a run keeps of rows: a request for erasure")
    forget.add_argument("directory", metavar="DIR", help="of a run; or CLIENT.toml, for what an owner's client keeps")
    which = forget.add_mutually_exclusive_group(required=True)
    which.add_argument("--where", metavar="COLUMN=VALUE", help="the rows of the run's files of which this holds")
    which.add_argument("--rows", metavar="ROWS.parquet", help="rows by address: columns fragment and offset")
    forget.add_argument("--journal", metavar="FOLDER", help="of a server: erase there too, while it answers")
    forget.add_argument("--json", action="store_true", help="print the counts as JSON")

    audit = command("audit", _audit, "prove that every row of a run's stream is in exactly one state; changes nothing")
    audit.add_argument("directory", metavar="DIR", help="of a run; or CLIENT.toml, for what an owner's client keeps")
    audit.add_argument("--json", action="store_true", help="print what was found as JSON")

    report = command("report", _report, "write the report of a run again and print its path")
    report.add_argument("directory", metavar="DIR")
    report.add_argument(
        "--tasks", metavar="ROWS.parquet", help="measure every version on each task of these rows (features.task)"
    )

    command("strategies", _strategies, "list the strategies: formula, paper, hooks, what is shared")
    return parser


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
        from incr_core.commands.serve import Serving, serve
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"serve: needs {missing.name}, which is not installed; pip install 'incr[serve]'"
        ) from missing
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Serving)}
    serve(options.directory, Serving(**chosen))
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
    print(change(options.directory, options.action, version, drop=drop))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from incr_core.commands.diff import described
    from incr_core.runs import difference

    found = difference(options.directory, options.one, options.other)
    print(json_text(found) if options.json else described(found))
    return 0


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

    print(describe())
    return 0


if __name__ == "__main__":
    sys.exit(main())
