"""A suite file from text, as a user would save it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan.suite import Suite, load_suite


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Suite]:
    """`load(text, "training.epochs=2")`: the suite of a file with this text, or the error it gives."""

    def write_and_load(text: str, *overrides: str) -> Suite:
        path = tmp_path / "suite.yaml"
        path.write_text(text, encoding="utf-8")
        return load_suite(path, overrides=overrides)

    return write_and_load
