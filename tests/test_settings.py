"""Settings from file, environment and command line, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from excise.errors import SettingsError
from excise.settings import RunSettings, load_settings


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.toml"
    file.write_text('seed = 1\nbehaviour = "hedging"\nmax_rate = 0.1\n')
    monkeypatch.setenv("EXCISE_MAX_RATE", "0.2")
    monkeypatch.setenv("EXCISE_ROUNDS", "7")
    found = load_settings(file, {"rounds": 3, "seed": None})
    assert (found.seed, found.behaviour, found.max_rate, found.rounds) == (1, "hedging", 0.2, 3)
    assert load_settings(None, {}).max_rate == 0.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("behavior = 'refusal'", "Did you mean 'behaviour'"),
        ("seed = 'many'", "seed"),
        ("max_rate = 3", "less than or equal to 1"),
        ("search = 'guess'", "search"),
        ("not toml", "expected TOML"),
    ],
)
def test_wrong_settings_are_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        load_settings(file, {})


def test_missing_file_and_unknown_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="found nothing there"):
        load_settings(tmp_path / "none.toml", {})
    monkeypatch.setenv("EXCISE_SEEDS", "1")
    with pytest.raises(SettingsError, match="EXCISE_SEED"):
        load_settings(None, {})


def test_every_setting_has_an_option() -> None:
    from typer.testing import CliRunner

    from excise.cli.commands import app

    text = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}).output
    for name in RunSettings.model_fields:
        assert name == "model" or f"--{name.replace('_', '-')}" in text, name
