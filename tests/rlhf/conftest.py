"""A trial that all tests of experiments share."""

from __future__ import annotations

import pytest

from .made_up import TinyTrial


@pytest.fixture(scope="session")
def trial(tmp_path_factory):
    """Its laboratories are taught once for all tests."""
    return TinyTrial(tmp_path_factory.mktemp("x") / "arm" / "seed-0")
