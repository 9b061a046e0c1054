"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tiny import save_tiny


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with a tiny Llama, a BPE tokenizer and a ChatML template; takes `save_tiny`'s arguments."""

    def make(**options: Any) -> Path:
        return save_tiny(tmp_path / "tiny", **options)

    return make
