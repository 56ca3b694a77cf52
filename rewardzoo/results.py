"""What an experiment hands to its report: arms, results and verdicts, with a JSON round trip."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import write_atomic

Array = NDArray[np.float64]

OUTCOMES = ("holds", "fails", "inconclusive")
COLUMNS = {"return": "specified return", "objective": "objective return"}
_SCHEMA = 2  # raised when a written file can no longer be read by older code


@dataclass(frozen=True, eq=False)
class ArmResult:
    """One arm of an experiment: everything measured over its seeds.

    Args:
        label: the arm's name in tables and figures.
        env: id of the environment.
        reward: the reward function, as the command line writes it.
        agent: the agent, as the command line writes it.
        seeds: one a run; row i of every array belongs to ``seeds[i]``.
        curves: (seeds, points) float64 by name: "step" and, each optional, "return" and "objective"
            while training, "eval_return" and "eval_objective" when evaluated; nan is "not measured
            here". "eval_step" is needed only where evaluations have steps of their own.
        final: (seeds,) float64 by name: "return" (the specified reward summed over an episode),
            "objective" (the objective summed over an episode), and others.
        folders: of each seed's job, relative to the folder of the results.
    """

    label: str
    env: str
    reward: str
    agent: str
    seeds: list[int]
    curves: dict[str, Array] = field(default_factory=dict)
    final: dict[str, Array] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError(f"seeds=[]: arm {self.label!r} needs at least one")
        n = len(self.seeds)
        for name, dims in (("curves", 2), ("final", 1)):
            values = {k: np.asarray(v, np.float64) for k, v in getattr(self, name).items()}
            for key, v in values.items():
                if v.ndim != dims or v.shape[0] != n:
                    expected = f"({n} seeds, points)" if dims == 2 else f"({n} seeds,)"
                    raise ValueError(
                        f"{name}[{key!r}]: shape {v.shape} in arm {self.label!r}, "
                        f"expected {expected}"
                    )
            object.__setattr__(self, name, values)


@dataclass(frozen=True, eq=False)
class Results:
    """The results of an experiment.

    Args:
        name: the experiment's id.
        paper: the paper whose claim is tested, with its address.
        title: one line for the top of the report.
        arms: in the order in which to show them.
        budget: "smoke", "quick" or "full", with the steps where useful.
        command: the exact command that made this.
        provenance: versions, git revision, hardware, wall time.
        references: known objective returns, as ``{"optimal": 0.875142, "uniform": 0.780071}``.
        columns: headings of the table by the final numbers that they show.
        root: folder of the results, where arrays are looked for.
    """

    name: str
    paper: str
    title: str
    arms: list[ArmResult]
    budget: str
    command: str
    provenance: dict[str, str] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=lambda: dict(COLUMNS))
    root: Path = Path()

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"arms: label {label!r} appears twice; name every arm differently")

    def __getitem__(self, label: str) -> ArmResult:
        """The arm of that label."""
        for arm in self.arms:
            if arm.label == label:
                return arm
        raise KeyError(f"arm {label!r}: there are {', '.join(arm.label for arm in self.arms)}")

    def arrays(self, label: str) -> list[dict[str, NDArray[Any]]]:
        """What each seed of an arm saved by ``Trial.save_arrays``, in the order of its seeds."""
        found = []
        for folder in self[label].folders:
            with np.load(self.root / folder / "arrays.npz", allow_pickle=False) as file:
                found.append({name: file[name] for name in file.files})
        return found


@dataclass(frozen=True)
class Verdict:
    """What the data says about one claim.

    Args:
        claim: the claim, one sentence.
        outcome: "holds", "fails" or "inconclusive".
        effect: the effect size, in the units that ``detail`` names.
        low: lower end of its interval.
        high: upper end.
        n: seeds behind it.
        detail: how it was decided.
        p_value: of the claim's test.
        p_adjusted: the same after Holm's correction over the experiment's claims.
    """

    claim: str
    outcome: str
    effect: float | None
    low: float | None
    high: float | None
    n: int
    detail: str
    p_value: float | None = None
    p_adjusted: float | None = None

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome={self.outcome!r}: expected one of {', '.join(OUTCOMES)}")


def to_json(results: Results, verdicts: Sequence[Verdict] = ()) -> str:
    """Results and verdicts as strict JSON: nan becomes null, infinities the words inf and -inf."""
    arms = [
        {
            **{k: getattr(arm, k) for k in ("label", "env", "reward", "agent")},
            "seeds": [int(s) for s in arm.seeds],
            "folders": arm.folders,
            "curves": {k: _encode(v.tolist()) for k, v in arm.curves.items()},
            "final": {k: _encode(v.tolist()) for k, v in arm.final.items()},
        }
        for arm in results.arms
    ]
    keys = ("name", "paper", "title", "budget", "command", "provenance", "columns")
    document = {
        "schema": _SCHEMA,
        **{k: getattr(results, k) for k in keys},
        "references": {k: _encode(float(v)) for k, v in results.references.items()},
        "arms": arms,
        "verdicts": [
            {k: _encode(_plain(v)) for k, v in asdict(verdict).items()} for verdict in verdicts
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)


def from_json(text: str) -> tuple[Results, list[Verdict]]:
    """The inverse of ``to_json``; a nan in a verdict comes back as None."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"text: not a results file ({error}); run the report again") from None
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        raise ValueError(f"text: schema {found}, expected {_SCHEMA} (written by another version?)")
    del document["schema"]
    try:
        verdicts = [
            Verdict(**{k: _decode_verdict(k, v) for k, v in each.items()})
            for each in document.pop("verdicts")
        ]
        document["arms"] = [
            ArmResult(
                **{
                    **arm,
                    "curves": {k: _decode(v, 2) for k, v in arm["curves"].items()},
                    "final": {k: _decode(v, 1) for k, v in arm["final"].items()},
                }
            )
            for arm in document["arms"]
        ]
        document["references"] = {k: _decode(v, 0) for k, v in document["references"].items()}
        return Results(**document), verdicts
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"text: not a results file ({error}); run the report again") from None


def write_json(results: Results, verdicts: Sequence[Verdict], path: str | Path) -> None:
    """Writes ``to_json`` to a file, whole or not at all."""
    write_atomic(path, to_json(results, verdicts) + "\n")


def read_json(path: str | Path) -> tuple[Results, list[Verdict]]:
    """Reads what ``write_json`` wrote."""
    try:
        results, verdicts = from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"path={str(path)!r}: {error}") from None
    return replace(results, root=Path(path).parent), verdicts


def _encode(value: Any) -> Any:
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _decode_verdict(key: str, value: Any) -> Any:
    if value is None or key in ("claim", "outcome", "detail", "n"):
        return value
    return float(value)


def _decode(value: Any, dims: int) -> Any:
    """Nested lists with null and the words inf and -inf as floats."""
    if dims:
        return [_decode(v, dims - 1) for v in value]
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
