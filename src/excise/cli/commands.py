"""The commands. Each is a thin door to the Python interface: settings in, results shown, errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from excise.cli import console
from excise.cli import options as o
from excise.errors import ExciseError, SettingsError, StoreError

app = typer.Typer(
    help="Take a behaviour out of an open-weight language model by editing weights, and prove what changed.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip


@contextmanager
def clear_errors() -> Iterator[None]:
    """Excise's own errors become one line and an exit code; ^C says how to go on."""
    try:
        yield
    except ExciseError as error:
        console.fail(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        console.fail(ExciseError("stopped. What was finished is saved: excise resume goes on."))
        raise typer.Exit(130) from error


def _settings(config: Path | None, values: dict[str, Any]) -> Any:
    from excise.settings import RunSettings, load_settings

    return load_settings(config, {key: value for key, value in values.items() if key in RunSettings.model_fields})


@app.command()
def run(
    out: o.Out, model: o.Model = None, config: o.Config = None, behaviour: o.Behaviour = None, target: o.Target = None,
    neutral: o.Neutral = None, keep: o.Keep = None, prompts: o.Prompts = None, column: o.Column = None,
    seed: o.Seed = None,
    revision: o.Revision = None, trust_remote_code: o.Trust = None, dtype: o.Dtype = None, device: o.Device = None,
    thinking: o.Thinking = None, system: o.System = None, micro_batch: o.MicroBatch = None,
    directions: o.DirectionMethod = None, k: o.K = None, positions: o.Positions = None, winsor: o.Winsor = None,
    search: o.Search = None, norm: o.Norm = None, max_rate: o.MaxRate = None, max_drift: o.MaxDrift = None,
    rounds: o.Rounds = None, trials: o.Trials = None, time_limit: o.TimeLimit = None, max_tokens: o.MaxTokens = None,
    json: o.Json = False,
) -> None:  # fmt: skip
    """Everything: measure, search, confirm, verify on unseen prompts, write checkpoint and report."""
    _story(config, dict(locals()), None)


@app.command()
def measure(
    out: o.Out, model: o.Model = None, config: o.Config = None, behaviour: o.Behaviour = None, target: o.Target = None,
    neutral: o.Neutral = None, keep: o.Keep = None, prompts: o.Prompts = None, column: o.Column = None,
    seed: o.Seed = None,
    revision: o.Revision = None, trust_remote_code: o.Trust = None, dtype: o.Dtype = None, device: o.Device = None,
    thinking: o.Thinking = None, system: o.System = None, micro_batch: o.MicroBatch = None,
    directions: o.DirectionMethod = None, k: o.K = None, positions: o.Positions = None, winsor: o.Winsor = None,
    json: o.Json = False,
) -> None:  # fmt: skip
    """Only measure where target and neutral prompts part; `excise resume` goes on from there."""
    _story(config, dict(locals()), "separation")


@app.command()
def search(
    out: o.Out, model: o.Model = None, config: o.Config = None, behaviour: o.Behaviour = None, target: o.Target = None,
    neutral: o.Neutral = None, keep: o.Keep = None, prompts: o.Prompts = None, column: o.Column = None,
    seed: o.Seed = None,
    revision: o.Revision = None, trust_remote_code: o.Trust = None, dtype: o.Dtype = None, device: o.Device = None,
    thinking: o.Thinking = None, system: o.System = None, micro_batch: o.MicroBatch = None,
    directions: o.DirectionMethod = None, k: o.K = None, positions: o.Positions = None, winsor: o.Winsor = None,
    method: Annotated[str | None, typer.Option("--search", help="gradient, or sampler (Optuna).")] = None,
    norm: o.Norm = None, max_rate: o.MaxRate = None, max_drift: o.MaxDrift = None, rounds: o.Rounds = None,
    trials: o.Trials = None, time_limit: o.TimeLimit = None, max_tokens: o.MaxTokens = None, json: o.Json = False,
) -> None:  # fmt: skip
    """Measure, search and confirm, without touching the test split; `excise resume` goes on from there."""
    _story(config, {**locals(), "search": method}, "confirm")


def _story(config: Path | None, values: dict[str, Any], until: str | None) -> None:
    """Run up to a stage and show what there is to show."""
    with clear_errors(), console.Reporter() as reporter:
        settings = _settings(config, values)
        from excise import story

        finished = story.run(settings, values["out"], reporter, until=until)
        _show(values["out"], finished, until, json=values["json"])


@app.command()
def resume(run: Annotated[Path, typer.Argument(help="Run directory.")], json: o.Json = False) -> None:
    """Go on with a run that was stopped at any moment; it ends in the same bytes."""
    with clear_errors(), console.Reporter() as reporter:
        from excise import story

        _show(run, story.resume(run, reporter), None, json=json)


def _show(path: Path, finished: Any, until: str | None, *, json: bool) -> None:
    """What a run ended with: the verdict, the front, or the separation."""
    from excise.results import Front, Separation
    from excise.store import RunDirectory

    if finished is None:
        directory = RunDirectory.open(path)
        cls: Any = Separation if until == "separation" else Front
        value = directory.load(str(until), cls)
        if json:
            console.write_json({"run": str(path), "stage": until})
        elif until == "separation":
            console.show_separation(value)
        else:
            console.show_front(value)
        return
    if json:
        console.write_json(_summary(finished))
        return
    name = RunDirectory.open(path).settings["settings"]["behaviour"]
    console.show_verdict(finished.verdict, name)
    console.say(f"checkpoint: {finished.model}\nreport:     {finished.report}")


def _summary(finished: Any) -> dict[str, Any]:
    """The verdict's numbers without the answers."""

    def state(score: Any) -> dict[str, Any]:
        row = {key: value for key, value in asdict(score).items() if key not in ("target", "neutral")}
        if row["drift"]:
            row["drift"].pop("worst")
        return row

    verdict = finished.verdict
    return {
        "run": str(finished.path), "model": str(finished.model), "report": str(finished.report),
        "candidate": finished.front.chosen, "stopped": finished.front.stopped, "base": state(verdict.base),
        "edited": state(verdict.edited), "controls": [state(control) for control in verdict.controls],
    }  # fmt: skip


@app.command()
def apply(
    source: Annotated[str, typer.Argument(help="Run directory, recipe, or (with --direction) a model.")],
    out: o.Out,
    base: Annotated[str | None, typer.Option(help="The base model, where it is not where it was.")] = None,
    candidate: Annotated[int | None, typer.Option(help="Another point of the run's front.")] = None,
    direction: Annotated[Path | None, typer.Option(help="safetensors file with a tensor `direction`.")] = None,
    strength: Annotated[float, typer.Option(help="1 removes, 0 leaves, negative strengthens.")] = 1.0,
    layers: Annotated[str | None, typer.Option(help="A:B, half-open.")] = None,
    writers: Annotated[str | None, typer.Option(help="Roles, e.g. attention,mlp.")] = None,
    keep_norms: Annotated[bool, typer.Option("--keep-norms", help="Every input column keeps its norm.")] = False,
    json: o.Json = False,
) -> None:
    """Write an edited checkpoint from a run, a recipe, or a given direction."""
    with clear_errors(), console.Reporter() as reporter:
        from excise import api

        reporter.stage("write", f"writing {out}")
        result = api.apply(
            source, out=out, base=base, candidate=candidate, direction=direction, strength=strength,
            layers=_span(layers), writers=writers.split(",") if writers else None, keep_norms=keep_norms,
            progress=reporter,
        )  # fmt: skip
        if json:
            console.write_json({"out": str(out), "tensors": len(result.residuals), "files": list(result.files)})
        else:
            console.say(f"{out}: {len(result.residuals)} tensors edited, everything else byte for byte as in the base")


def _span(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit()):
        raise SettingsError(f"--layers: expected A:B with two numbers, such as 4:20, found {text!r}.")
    return int(first), int(last)


@app.command()
def inspect(model: o.Model = None, json: o.Json = False) -> None:
    """Which stored matrices write to the residual stream of a model, found and proved."""
    with clear_errors():
        from excise import api

        writers = api.writers_of(model)
        if json:
            console.write_json([asdict(writer) for writer in writers])
        else:
            console.show_writers(writers)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Show a finished run's verdict and front, and where its page lies."""
    with clear_errors():
        from excise.results import Front, Verdict
        from excise.store import RunDirectory

        directory = RunDirectory.open(run)
        for stage in ("confirm", "verdict"):
            if not directory.has(stage):
                raise StoreError(
                    f"{run}: expected a finished run, found none of stage {stage!r}. Use excise resume {run}."
                )
        console.show_verdict(directory.load("verdict", Verdict), directory.settings["settings"]["behaviour"])
        console.show_front(directory.load("confirm", Front))
        console.say(f"report: {run / 'report.html'}")


@app.command()
def judge(
    answers: Annotated[Path, typer.Argument(help='One {"prompt", "response"} a line.')],
    behaviour: Annotated[str, typer.Option(help="Packaged behaviour or TOML file.")] = "refusal",
) -> None:
    """Judge answers made by any model: one JSON object a line, with verdict, score and reason."""
    with clear_errors():
        from excise import judging

        for row in judging.judge_file(answers, behaviour):
            console.write_json(row)


@app.command()
def evaluate(
    base: Annotated[str, typer.Argument(help="Folder or hub id of the base.")],
    edited: Annotated[list[str], typer.Argument(help="Folders or hub ids to compare with it.")],
    behaviour: o.Behaviour = None, target: o.Target = None, neutral: o.Neutral = None, column: o.Column = None,
    seed: o.Seed = None, max_tokens: o.MaxTokens = None, json: o.Json = False,
) -> None:  # fmt: skip
    """Score checkpoints, also those made by other tools, on the same unseen prompts."""
    with clear_errors(), console.Reporter() as reporter:
        from excise import judging

        settings = _settings(None, {**locals(), "model": base})
        scores = judging.compare(settings, edited, reporter)
        if json:
            console.write_json([{k: v for k, v in asdict(s).items() if k not in ("target", "neutral")} for s in scores])
        else:
            console.show_scores(scores, settings.behaviour)


@app.command()
def chat(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    candidate: Annotated[int | None, typer.Option(help="Another point of the front.")] = None,
) -> None:
    """Talk to base and edited model at once, answers side by side. An empty line or ^D ends it."""
    with clear_errors():
        from excise.cli.talk import talk

        talk(run, candidate)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Finished run directory.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload the edited checkpoint with its card; the token comes from the environment or the hub's own login."""
    with clear_errors():
        from excise.hub import push as upload

        console.say(upload(run, repository, private=private))
