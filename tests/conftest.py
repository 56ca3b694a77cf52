"""Settings of the whole suite, read before any test imports torch, and the command line."""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# One thread a process: two test workers, and the programs that they start, share two cores, and
# threads that spin at every barrier for a core that another process has make all of them slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and some tests interrupt themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Done]]:
    """``rewardzoo`` with some arguments, in this process: a new one takes seconds to import."""
    from rewardzoo.cli import main

    def run(*args: Any) -> Done:
        monkeypatch.setattr(sys, "argv", ["rewardzoo", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of docs/ by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs"))
    return importlib.import_module
