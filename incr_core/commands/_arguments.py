"""Arguments of the commands of `incr`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

OWN_WEIGHTS = "with the private weights of a client; at an owner, CLIENT.toml"


def parsers(
    actions: Mapping[str | None, type[argparse.Action]] = {},
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Build the parser of the command line, and the parser of each command by its name.

    Parsed arguments have the command's name as `command`, and the command's own arguments.

    Args:
        actions: Classes that replace those of argparse, by the name of the action. None is the action of an argument
            with a value.

    Example:
        >>> _, commands = parsers()
        >>> commands["versions"].parse_args(["runs/people"]).directory
        'runs/people'
    """
    incr = argparse.ArgumentParser(
        prog="incr", description="Keep a PyTorch model current: learn increments of data as they arrive."
    )
    commands = incr.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    named: dict[str, argparse.ArgumentParser] = {}

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = named[name] = commands.add_parser(name, help=text, description=text)
        for action, kind in actions.items():
            added.register("action", action, kind)
        return added

    init = command("init", "describe the columns of rows, and write a job that learns them")
    what = init.add_mutually_exclusive_group(required=True)
    what.add_argument("rows", nargs="?", metavar="ROWS", help="a file or a folder: Parquet, Arrow, CSV or JSON lines")
    what.add_argument("--example", metavar="EXAMPLE", help="write rows too: flights, reviews, sensors or ratings")
    init.add_argument("--label", metavar="COLUMN", help="the column to predict; none: list the columns")
    init.add_argument("--out", metavar="JOB.toml", help="the job file to write (default: job.toml, or NAME/job.toml)")

    run = command("run", "learn a job's stream; an unfinished run of the same job is continued")
    run.add_argument("job", metavar="JOB.toml")
    run.add_argument("--on", default="local", metavar="ENGINE", help="local (default), cluster or federated")
    run.add_argument("--out", metavar="DIR", help="the run directory (default: runs/NAME, or runs/NAME-ENGINE)")
    run.add_argument("--set", action="append", default=[], metavar="section.key=value", help="change a key of the job")
    run.add_argument("--follow", action="store_true", help="wait for more files, until stopped: incr stop, or Ctrl-C")
    run.add_argument("--detach", action="store_true", help="start the run on the cluster, and return: see incr attach")
    run.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")

    explain = command("explain", "describe a key of a job file, a section, or all sections")
    explain.add_argument("key", nargs="?", metavar="SECTION.KEY", help="such as stream.every, or learner; none: all")

    client = command("client", "let a federated run learn from rows of your own, which stay on this machine")
    client.add_argument("file", metavar="CLIENT.toml", help="the place of the rows, and the terms for runs")
    what = client.add_mutually_exclusive_group(required=True)
    what.add_argument("--superlink", metavar="HOST:PORT", help="the federation's SuperLink (Flower)")
    what.add_argument("--ledger", action="store_true", help="print the rows that runs have learned, with hashes")
    client.add_argument("--certificates", metavar="CA.crt", help="the CA of the SuperLink's certificate; none: no TLS")
    client.add_argument("--key", metavar="FILE", help="the private key of a node that is registered there")
    client.add_argument("--on", default="federated", metavar="ENGINE", help=argparse.SUPPRESS)

    predict = command("predict", "predict the rows of a file with a version of a run")
    predict.add_argument("directory", metavar="DIR")
    predict.add_argument("rows", metavar="ROWS.parquet")
    predict.add_argument("--version", type=int, metavar="N", help="default: the champion")
    predict.add_argument("--keep", metavar="COLUMN,...", help="columns of the rows to print beside predictions")
    predict.add_argument("--explain", action="store_true", help="the effect of each column on each prediction")
    predict.add_argument("--client", metavar="NAME", help=OWN_WEIGHTS)
    predict.add_argument("-o", "--output", metavar="OUT.parquet", help="or OUT.csv; default: CSV on standard output")

    recommend = command("recommend", "name the items of the highest score for a user, best first")
    recommend.add_argument("directory", metavar="DIR")
    recommend.add_argument("--user", required=True, metavar="ID", help="the user's id")
    recommend.add_argument("-k", type=int, default=10, metavar="N", help="number of items (default: 10)")
    recommend.add_argument("--with-seen", action="store_true", help="include items that are in rows of the user")
    recommend.add_argument("--rows", metavar="ROWS", help="rows of items and users (default: the run's stream)")
    recommend.add_argument("--version", type=int, metavar="N", help="default: the champion")

    evaluate = command("evaluate", "measure a run's champion on labelled rows of a file")
    evaluate.add_argument("directory", metavar="DIR")
    evaluate.add_argument("rows", metavar="ROWS.parquet")
    evaluate.add_argument("--version", type=int, metavar="N", help="default: the champion")
    evaluate.add_argument("--client", metavar="NAME", help=OWN_WEIGHTS)
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")

    distill = command("distill", "train a smaller model on a champion's answers; `incr run` continues with it")
    distill.add_argument("directory", metavar="DIR")
    distill.add_argument("--out", required=True, metavar="DIR2", help="the student's run directory")
    distill.add_argument(
        "--student", action="append", default=[], metavar="section.key=value", help="a change of the student's job"
    )
    distill.add_argument("--strength", type=float, default=1.0, help="weight of the distillation loss (default: 1)")
    distill.add_argument("--temperature", type=float, default=2.0, help="softens the champion's answers (default: 2)")
    distill.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")

    export = command("export", "write a version for a service without incr: docs/export.md")
    export.add_argument("directory", metavar="DIR")
    export.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, or an empty one")
    formats = "onnx (default), for onnxruntime; pt2, a program of torch.export; safetensors, the weights"
    export.add_argument("--format", default="onnx", metavar="FORMAT", help=formats)
    export.add_argument("--version", type=int, metavar="N", help="default: the champion")
    export.add_argument("--client", metavar="NAME", help=OWN_WEIGHTS)
    export.add_argument(
        "--check", metavar="ROWS.parquet", help="compare the answers on these rows (default: rows of the run's stream)"
    )
    export.add_argument("--quantize", metavar="int8", help="quantize linear layers, and report the cost in accuracy")
    export.add_argument(
        "--prune", type=float, metavar="SHARE", help="set the smallest weights of linear and convolutional layers to 0"
    )
    export.add_argument("--json", action="store_true", help="print export.json, and nothing else")

    serve = command("serve", "serve predictions of a run's champion over HTTP, and receive labels: docs/serving.md")
    serve.add_argument("directory", metavar="DIR")
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any free port")
    serve.add_argument("--on", default="local", metavar="ENGINE", help="local, or cluster: Ray Serve (default: local)")
    serve.add_argument("--workers", type=int, default=1, metavar="N", help="processes that answer (default: 1)")
    serve.add_argument("--max-bytes", type=int, default=8_000_000, metavar="N", help="of a request (default: 8000000)")
    serve.add_argument("--max-rows", type=int, default=10_000, metavar="N", help="of a request (default: 10000)")
    serve.add_argument("--rate", type=float, metavar="N", help="requests a second, over all clients (default: any)")
    serve.add_argument("--concurrency", type=int, default=1024, metavar="N", help="requests at a time (default: 1024)")
    serve.add_argument("--token-file", metavar="FILE", help="the token that requests must send (default: $INCR_TOKEN)")
    serve.add_argument("--tls-cert", metavar="FILE", help="the server's certificate, for https")
    serve.add_argument("--tls-key", metavar="FILE", help="the key of the certificate")
    serve.add_argument(
        "--journal", metavar="PLACE", help="folder or postgresql:// for predictions; takes labels: /feedback"
    )
    serve.add_argument("--labelled", metavar="FOLDER", help="labelled rows, for a stream (default: in the journal)")
    serve.add_argument("--join-every", type=float, default=60.0, metavar="SECONDS", help="between files (default: 60)")
    serve.add_argument("--shadow", metavar="N", help='a version compared with the champion, or "newest": /shadow')
    serve.add_argument("--keep", type=int, default=1_000_000, metavar="N", help="predictions kept (default: 1000000)")

    ingest = command(
        "ingest", "take rows over Arrow Flight, or from Redis, into files that a run follows: docs/how-to/ingest.md"
    )
    ingest.add_argument("directory", metavar="FOLDER", help="the files of a table NAME are in FOLDER/NAME")
    ingest.add_argument(
        "--from", dest="source", metavar="redis://HOST:PORT/STREAM", help="a Redis stream (default: Arrow Flight)"
    )
    ingest.add_argument("--schema", metavar="ROWS", help="file with the columns of a table (default: the first rows)")
    ingest.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    ingest.add_argument("--port", type=int, default=8815, help="default: 8815; 0: any that is free")
    ingest.add_argument("--token-file", metavar="FILE", help="token that clients present (default: $INCR_TOKEN)")
    ingest.add_argument("--tls-cert", metavar="FILE", help="certificate of the server, for grpc+tls")
    ingest.add_argument("--tls-key", metavar="FILE", help="key of the certificate")
    ingest.add_argument("--max-bytes", type=int, default=64 << 20, metavar="N", help="of a batch (default: 67108864)")
    ingest.add_argument(
        "--max-pending", type=int, default=256 << 20, metavar="N", help="bytes not durable yet (default: 268435456)"
    )
    ingest.add_argument(
        "--max-unlearned", type=int, metavar="N", help="bytes of a table not learned yet (default: any)"
    )
    ingest.add_argument("--run", metavar="DIR", help="run whose learned files do not count for --max-unlearned")
    ingest.add_argument(
        "--linger", type=float, default=0.05, metavar="SECONDS", help="wait of a file for more rows (default: 0.05)"
    )

    attach = command("attach", "follow a detached run to its end; Ctrl-C does not stop it")
    attach.add_argument("directory", metavar="DIR")
    attach.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")
    attach.add_argument("--quiet", action="store_true", help="print nothing but errors")

    status = command("status", "print the progress of a run, during the run and afterwards")
    status.add_argument("directory", metavar="DIR")
    status.add_argument("--json", action="store_true", help="print it as JSON")
    status.add_argument("--watch", action="store_true", help="print every change until the run ends, or Ctrl-C")

    stop = command("stop", "let a run in progress, in any process, commit and end")
    stop.add_argument("directory", metavar="DIR")
    stop.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="to wait (default: 600)")

    versions = command("versions", "list the versions of a run")
    versions.add_argument("directory", metavar="DIR")

    rollback = command("rollback", "undo the learning since a version, and continue from it")
    rollback.add_argument("--drop", action="store_true", help="set the rows since aside; do not learn them again")
    promote = command("promote", "make a version the champion, until the next one is published")
    pin = command("pin", "keep a version as the champion, also after later commits")
    for one in (rollback, promote, pin):
        one.add_argument("directory", metavar="DIR")
        one.add_argument("version", type=int, metavar="N")
    hold = command("hold", "keep the current champion, also after later commits")
    unpin = command("unpin", "let the next version that is published become the champion")
    for one in (hold, unpin):
        one.add_argument("directory", metavar="DIR")

    diff = command("diff", "print the differences of two versions: weights, metrics, rows, verdicts")
    diff.add_argument("directory", metavar="DIR")
    diff.add_argument("one", type=int, metavar="N")
    diff.add_argument("other", type=int, metavar="M")
    diff.add_argument("--json", action="store_true", help="print it as JSON")

    compare = command("compare", "compare runs: metrics, speed, and differences between their jobs")
    compare.add_argument("directories", nargs="+", metavar="RUN", help="directories of runs, finished or not")
    compare.add_argument("--out", metavar="PAGE.html", help="write a page with plots, too")
    compare.add_argument("--json", action="store_true", help="print it as JSON")

    tune = command("tune", "search for better settings of a job on the first rows of its stream")
    tune.add_argument("job", metavar="JOB.toml")
    tune.add_argument(
        "space",
        nargs="*",
        metavar="KEY=VALUES",
        help="the search space: learner.optimizer.lr=1e-4..1e-1, learner.batch_size='32|64|128' "
        "(default: learning rate and batch size around those of the job)",
    )
    tune.add_argument("--trials", type=int, default=16, metavar="N", help="the job itself is the first (default: 16)")
    tune.add_argument("--rows", type=int, default=50_000, metavar="N", help="of a complete trial (default: 50000)")
    tune.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    tune.add_argument("--out", metavar="DIR", help="directory of the search (default: runs/NAME-tune)")
    tune.add_argument("--keep", action="store_true", help="keep the run directories of the trials")
    tune.add_argument("--json", action="store_true", help="print the table as JSON")

    forget = command("forget", "delete rows from all stored data of a run: a request for erasure")
    forget.add_argument("directory", metavar="DIR", help="of a run; or CLIENT.toml, for an owner's client")
    which = forget.add_mutually_exclusive_group(required=True)
    which.add_argument("--where", metavar="COLUMN=VALUE", help="the rows of the run's files for which this holds")
    which.add_argument("--rows", metavar="ROWS.parquet", help="rows by address: columns fragment and offset")
    forget.add_argument("--journal", metavar="PLACE", help="of a server, which may be running: erase there too")
    forget.add_argument("--json", action="store_true", help="print the counts as JSON")

    audit = command("audit", "prove that every row of a run's stream is in exactly one state; changes nothing")
    audit.add_argument("directory", metavar="DIR", help="of a run; or CLIENT.toml, for an owner's client")
    audit.add_argument("--json", action="store_true", help="print the result as JSON")

    report = command("report", "write the report of a run again and print its path")
    report.add_argument("directory", metavar="DIR")
    report.add_argument(
        "--tasks", metavar="ROWS.parquet", help="measure every version on each task of these rows (features.task)"
    )

    strategies = command("strategies", "list the strategies: formula, paper, hooks, shared state")
    strategies.add_argument("names", nargs="*", metavar="STRATEGY", help="only these, such as replay; none: all")

    completion = command("completion", "print a script for a shell that completes commands, options and names")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    return incr, named
