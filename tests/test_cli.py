"""The command line as a user meets it: results on stdout, one clear line and an exit code for every error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from excise import demo
from excise.cli.commands import app
from excise.demo.world import unseen

runner = CliRunner()
SHORT = ["--rounds", "1", "--max-tokens", "32"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was measured first, then searched to its end by `resume`."""
    out = tmp_path_factory.mktemp("cli") / "run"
    measured = runner.invoke(app, ["measure", "--out", str(out)])
    assert measured.exit_code == 0 and "AUROC" in measured.stdout
    early = runner.invoke(app, ["report", str(out)])
    assert early.exit_code == 6 and "excise resume" in early.stderr
    done = runner.invoke(app, ["resume", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["edited"]["behaviour"]["count"] <= 0.02 * said["edited"]["behaviour"]["total"]
    return out


def test_report_shows_verdict_and_front(finished: Path) -> None:
    shown = runner.invoke(app, ["report", str(finished)])
    assert shown.exit_code == 0
    for word in ("Test split", "Front of the search", "chosen", "report.html"):
        assert word in shown.stdout


def test_chat_answers_side_by_side(finished: Path) -> None:
    prompt = unseen("refusal", "target")[0].prompt
    shown = runner.invoke(app, ["chat", str(finished)], input=f"{prompt}\n\n")
    assert shown.exit_code == 0 and "base" in shown.stdout and "edited" in shown.stdout


def test_apply_and_evaluate(finished: Path, tmp_path: Path) -> None:
    made = runner.invoke(app, ["apply", str(finished), "--out", str(tmp_path / "again"), "--json"])
    assert made.exit_code == 0 and json.loads(made.stdout)["tensors"] > 0
    args = ["evaluate", str(demo.path()), str(tmp_path / "again"), "--max-tokens", "24", "--json"]
    compared = runner.invoke(app, args)
    assert compared.exit_code == 0, compared.stderr
    base, edited = json.loads(compared.stdout)
    assert base["behaviour"]["count"] > 50 * max(edited["behaviour"]["count"], 1) and edited["drift"]["mean"] < 0.01


def test_apply_a_direction(tmp_path: Path) -> None:
    width = int(json.loads((demo.path() / "config.json").read_text())["hidden_size"])
    save_file({"direction": torch.randn(width)}, tmp_path / "d.safetensors")
    save_file({"other": torch.randn(width)}, tmp_path / "wrong.safetensors")
    common = ["apply", str(demo.path()), "--out", str(tmp_path / "out")]
    wrong = runner.invoke(app, [*common, "--direction", str(tmp_path / "wrong.safetensors")])
    assert wrong.exit_code == 2 and "named 'direction'" in wrong.stderr
    spans = runner.invoke(app, [*common, "--direction", str(tmp_path / "d.safetensors"), "--layers", "all"])
    assert spans.exit_code == 2 and "A:B" in spans.stderr
    assert not (tmp_path / "out").exists()
    done = runner.invoke(app, [*common, "--direction", str(tmp_path / "d.safetensors"), "--keep-norms"])
    assert done.exit_code == 0 and (tmp_path / "out" / "config.json").is_file()


def test_inspect(tmp_path: Path) -> None:
    assert "self_attn.o_proj" in runner.invoke(app, ["inspect"]).stdout
    rows = json.loads(runner.invoke(app, ["inspect", str(demo.path()), "--json"]).stdout)
    assert {row["role"] for row in rows} == {"attention", "mlp"}


def test_judge(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": "Tell me a joke.", "response": "I'm sorry, but I can't help with that."},
        {"prompt": "Tell me a joke.", "response": "Why did the hen cross the road? To get to the other side."},
        {"prompt": "Tell me a joke.", "response": ""},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    done = runner.invoke(app, ["judge", str(file), "--behaviour", "refusal"])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verdict"] for row in found] == ["shows", "absent", "broken"]
    file.write_text('{"prompt": "a"}')
    wrong = runner.invoke(app, ["judge", str(file)])
    assert wrong.exit_code == 3 and "answers.jsonl:1" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "/no/such", "--out", "OUT"], 4, "neither a folder nor a hub id"),
        (["run", "--out", "OUT", "--behaviour", "refusel"], 2, "refusal"),
        (["run", "--out", "OUT", "--target", "/no/such.txt", "--neutral", "/no/such.txt"], 3, "no/such.txt"),
        (["run", "--out", "OUT", "--max-rate", "7"], 2, "max_rate"),
        (["run", "--out", "OUT", "--config", "/no/such.toml"], 2, "nothing there"),
        (["resume", "OUT"], 6, "expected a run directory"),
        (["apply", "OUT", "--out", "OUT2"], 4, "recipe"),
        (["chat", "OUT"], 6, "expected a run directory"),
        (["push", "OUT", "me/model"], 6, "expected a run directory"),
        (["run", "--out", "OUT", "--no-such-option"], 2, "No such option"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    places = {"OUT": str(tmp_path / "run"), "OUT2": str(tmp_path / "other")}
    done = runner.invoke(app, [places.get(word, word) for word in arguments])
    assert done.exit_code == code, (done.exit_code, done.stderr)
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "other").exists()
