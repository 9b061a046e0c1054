"""The command line: commands.py says what there is, console.py is the only place that prints."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `excise` command."""
    from excise.cli.commands import app

    app()
