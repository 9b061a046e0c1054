"""The options that several commands share, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Argument(help="Local folder or hub id; left out: the packaged demo model.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", "-o", help="New folder that everything goes into.", show_default=False)]
Config = Annotated[
    Path | None, typer.Option(help="TOML file with settings; the environment (EXCISE_*) and options win over it.")
]
Behaviour = Annotated[str | None, typer.Option(help="Packaged behaviour (refusal, hedging, agreeing) or a TOML file.")]
Target = Annotated[
    str | None,
    typer.Option(help="Prompts that show the behaviour: .txt, .jsonl, .csv, .parquet or name/split[:400]:column."),
]
Neutral = Annotated[str | None, typer.Option(help="Prompts of the same form that do not.")]
Keep = Annotated[str | None, typer.Option(help="Prompts whose answers must stay as they are.")]
Prompts = Annotated[str | None, typer.Option(help="packaged, or field: the field's usual hub data sets.")]
Column = Annotated[str | None, typer.Option(help="Column that holds the prompts.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same bytes. [default: 0]")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Trust = Annotated[bool | None, typer.Option("--trust-remote-code", help="Run the model's own Python code.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Thinking = Annotated[str | None, typer.Option(help="auto, closed, open or none: what to do with a reasoning block.")]
System = Annotated[str | None, typer.Option(help="System message of every prompt that has none of its own.")]
MicroBatch = Annotated[int | None, typer.Option(help="Rows in one forward pass. Numbers depend on it.")]
DirectionMethod = Annotated[str | None, typer.Option("--directions", help="difference-of-means or top-k.")]
K = Annotated[int | None, typer.Option("--k", help="Directions for each matrix at the start of the search.")]
Positions = Annotated[int | None, typer.Option(help="Last prompt positions that are measured.")]
Winsor = Annotated[float | None, typer.Option(help="Clamp outlier channels at this quantile, e.g. 0.995 (Gemma).")]
Search = Annotated[str | None, typer.Option(help="gradient, or sampler (Optuna).")]
Norm = Annotated[str | None, typer.Option(help="none, columns or rows: which norms of edited matrices are kept.")]
MaxRate = Annotated[float | None, typer.Option(help="Behaviour that may be left. [default: 0.02]")]
MaxDrift = Annotated[float | None, typer.Option(help="Largest KL per token on neutral prompts, nats. [default: 0.02]")]
Rounds = Annotated[int | None, typer.Option(help="Refinement rounds at most. [default: 4]")]
Trials = Annotated[int | None, typer.Option(help="Trials of the sampler. [default: 60]")]
TimeLimit = Annotated[float | None, typer.Option(help="Seconds after which the search begins nothing new.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer that is generated and judged. [default: 64]")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for machines.")]
