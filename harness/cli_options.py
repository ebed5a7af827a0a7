"""The arguments and options that several verbs of the command line share.

Invariant: an option means the same for every verb. What does not live here: the verbs (cli.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="A sweep or study of sweeps/.", show_default=False)]
OptionalName = Annotated[str | None, typer.Argument(help="A sweep or study; all of them if left out.")]
Base = Annotated[str, typer.Option(help="An experiment, a path to a model folder, or trial:<id>.")]
Data = Annotated[
    str | None, typer.Option(help="A JSON-lines or Parquet file of conversations, in place of the base's.")
]
Evals = Annotated[
    str | None,
    typer.Option(help="A folder of evaluation items, or hub:owner/name of a fetched dataset, in place of the base's."),
]
Suites = Annotated[
    str | None,
    typer.Option(help="Suites with commas between, e.g. general,safety; their files lie in --evals."),
]
Set = Annotated[str | None, typer.Option("--set", help='JSON object of dotted fields, e.g. {"train.batch_size": 8}.')]
Panel = Annotated[str, typer.Option(help="primary: the sweep's own slices; full: every slice.")]
Out = Annotated[Path, typer.Option(help="Where records go.")]
Workers = Annotated[int | None, typer.Option(help="Trials at a time; default: fill the cores.")]
Executor = Annotated[str | None, typer.Option(help="Where trials run: local (this machine), ray or slurm.")]
Address = Annotated[str | None, typer.Option(help="host:port of a running Ray cluster, for --executor ray.")]
Partition = Annotated[str | None, typer.Option(help="SLURM partition, for --executor slurm; default: its own.")]
Port = Annotated[int, typer.Option(min=1024, max=65535, help="Where it listens on 127.0.0.1.")]
Storage = Annotated[
    str | None,
    typer.Option(
        help="PostgreSQL server that mirrors a study, postgresql://user@host:port/database, in place of a file. "
        "The password is that of PGPASSWORD or PGPASSFILE."
    ),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run FAILED(data, bug) trials again.")]
Budget = Annotated[str | None, typer.Option(help="Stop cleanly after so long, e.g. 2h, 90m, 45s.")]
Watch = Annotated[
    bool, typer.Option("--watch", help="Again whenever something changed, until every trial has ended or Ctrl-C.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
