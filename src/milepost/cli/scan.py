"""`milepost scan`: what a file could do to who opens it the usual way."""

from __future__ import annotations

import dataclasses

import click

import milepost
from milepost.cli.options import as_json
from milepost.cli.output import echo, echo_json


@click.command()
@click.argument("path")
@as_json
@click.pass_context
def scan(context: click.Context, path: str, as_json: bool) -> None:
    """Tell what PATH could do to who opens it the usual way. A folder is scanned to its depths.

    Every pickle's globals with their offsets, code in Keras models, source code beside a model,
    links, archives made to burst, operations that reach files. Nothing is run. What cannot be
    looked into is not clean.

    \b
    Exit status: 0 clean; 6 anything else.

    \b
    Examples:
      milepost scan downloaded.pt
      milepost scan models/ --json
    """
    report = milepost.scan(path)
    if as_json:
        findings = [
            {**dataclasses.asdict(f), "severity": f.severity.name.lower()} for f in report.findings
        ]
        facts = {"path": report.path, "files": report.files, "verdict": report.verdict}
        echo_json({**facts, "findings": findings})
    else:
        for finding in sorted(report.findings, key=lambda f: -f.severity):
            echo(f"{finding.severity.name.lower():<10}  {finding}")
        echo(f"{report.path}: {report.verdict} ({report.files} files)")
    context.exit(0 if report.is_clean else 6)
