"""`incr export`: a version as files for a service without incr, and what was found when it was checked."""

from __future__ import annotations

import argparse
from typing import Any

from incr_core._util import json_text
from incr_core.runs import Version
from incr_core.shown import shown

__all__ = ["export"]


def export(options: argparse.Namespace) -> int:
    """Export a version of a run, and tell how it compares with it; returns the exit code."""
    version = Version.load(options.directory, options.version, client=options.client)
    record = version.export(
        options.out, options.format, check=options.check, quantize=options.quantize, prune=options.prune
    )
    print(json_text(record) if options.json else "\n".join(described(record, options.out)))
    return 0


def described(record: dict[str, Any], out: str) -> list[str]:
    """What export.json says, for a person."""
    check, latency = record["check"], record["latency_ms"]
    files = ", ".join(f"{name} ({told['bytes']:,} bytes)" for name, told in record["files"].items())
    small = f", {record['quantize']}" if record["quantize"] else ""
    small += f", {record['prune']:.0%} pruned" if record["prune"] else ""
    refused = f"; {check['rows_refused']:,} others cannot be used" if check["rows_refused"] else ""
    lines = [
        f"version {record['version']} as {record['format']}{small}: {shown(out)}: {files}, export.json",
        f"  checked on {check['rows']:,} rows of {shown(check['of'])}{refused}: answers differ by at most "
        f"{check['largest_difference']:.2g}; encoder.py makes the same inputs of {check['coded']:,} of them",
    ]
    size, layers = record["size"], record["linear_weights"]
    if before := size["before"]:
        lines.append(
            f"  {size['after']['bytes']:,} bytes, {size['after']['zipped']:,} zipped, of a model of "
            f"{before['bytes']:,}, {before['zipped']:,} zipped"
        )
    if layers["zero"]:
        lines.append(
            f"  {layers['zero'] / layers['weights']:.0%} of {layers['weights']:,} weights of linear and convolutional "
            "layers are 0"
        )
    for rows, told in latency.items():
        if told["exported"] is not None:
            lines.append(
                f"  {int(rows):,} row{'s' if rows != '1' else ''} at once: {told['exported']:.3g} ms, and "
                f"{told['incr']:.3g} in incr (the median; without encoding)"
            )
    if metrics := record["metrics"]:
        name = record["main_metric"]
        lines.append(f"  {shown(name)}: {metrics['after'][name]:.4f}, and {metrics['before'][name]:.4f} in incr")
    return lines
