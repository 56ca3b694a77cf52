"""Experiments: environments × reward functions × agents × seeds, and claims about the outcome.

An experiment only says what is compared; ``jobs.py`` does it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .metrics.statistics import holm
from .registration import EXPERIMENTS
from .results import COLUMNS, Results, Verdict
from .rewards.base import RewardFunction

if TYPE_CHECKING:
    import matplotlib.figure

    from .jobs import Trial

RewardSpec = str | Callable[[Any], RewardFunction]


class ExperimentError(ValueError):
    """An experiment cannot be run as asked."""


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Args:
        label: its name in tables.
        env: environment id.
        reward: an expression for ``make_reward``, or a function from the vector environment to a
            reward function.
        agent: a registered agent.
        env_kwargs: passed to ``gymnasium.make_vec``.
        agent_kwargs: hyperparameters.
    """

    label: str
    env: str
    reward: RewardSpec
    agent: str = "ppo"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    agent_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as a folder name."""
        return _slug(self.label)

    @property
    def text(self) -> str:
        """The reward function in words."""
        return self.reward if isinstance(self.reward, str) else _first_line(self.reward)

    @property
    def config(self) -> dict[str, Any]:
        """What tells this arm from others, for a job's folder."""
        return {
            "env": self.env,
            "env_kwargs": dict(self.env_kwargs),
            "reward": self.text,
            "agent": self.agent,
            "agent_kwargs": dict(self.agent_kwargs),
        }


@dataclass(frozen=True)
class Measure:
    """One line of a comparison that is not an agent trained on a reward, but whatever ``run`` does.

    Args:
        label: its name in tables.
        run: one seed's work: a function of its ``Trial`` to its final numbers by name. The first
            line of its docstring describes it.
    """

    label: str
    run: Callable[[Trial], Mapping[str, float]]

    env = agent = ""

    @property
    def slug(self) -> str:
        """The label as a folder name."""
        return _slug(self.label)

    @property
    def text(self) -> str:
        """What is done, in words."""
        return _first_line(self.run)

    @property
    def config(self) -> dict[str, Any]:
        """What tells this arm from others, for a job's folder."""
        if isinstance(self.run, functools.partial):
            function, given = self.run.func, {"args": self.run.args, **self.run.keywords}
        else:
            function, given = self.run, {}
        return {"run": f"{function.__module__}.{function.__qualname__}", "given": given}


@dataclass(frozen=True)
class Budget:
    """How much to spend on a job.

    Args:
        total_timesteps: environment steps of training.
        num_envs: environments in the batch.
        eval_episodes: fresh episodes of the final evaluation.
        seeds: how many of the experiment's seeds are run unless said otherwise.
    """

    total_timesteps: int
    num_envs: int
    eval_episodes: int
    seeds: int


@dataclass(frozen=True)
class Claim:
    """What the paper says, and how the results decide it.

    Args:
        sentence: the claim.
        check: results to verdict; it can come out false.
    """

    sentence: str
    check: Callable[[Results], Verdict]

    def judge(self, results: Results) -> Verdict:
        """What the check says.

        Raises:
            TypeError: if that is no verdict.
        """
        found: Any = self.check(results)
        if not isinstance(found, Verdict):
            raise TypeError(f"the check returned {type(found).__name__}, expected a Verdict")
        return found


@dataclass(frozen=True)
class Figure:
    """A picture of an experiment's report.

    Args:
        title: its heading.
        caption: what is seen, one or two sentences; a screen reader says it too.
        draw: fills a Matplotlib figure, by ``figure.subplots()``; colours of arms are
            ``rewardzoo.report.colour(i)``.
        size: (width, height) in inches; the page is 9 wide.
    """

    title: str
    caption: str
    draw: Callable[[matplotlib.figure.Figure, Results], None]
    size: tuple[float, float] = (9.0, 4.0)


@dataclass(frozen=True)
class Experiment:
    """A comparison that decides claims; creating one registers it.

    Args:
        name: its id on the command line.
        title: one line for the top of the report.
        paper: whose claim it is.
        grid: the arms, trained or measured; each differs from the first in one thing.
        budgets: ``smoke`` (seconds), ``quick``, ``full``.
        claims: decided over the results.
        seeds: for reporting.
        tuning_seeds: on which hyperparameters were chosen; disjoint from ``seeds``.
        references: known returns of the objective.
        columns: headings of the table by the final numbers that they show.
        figures: pictures of its own for the report.
        max_workers: how many processes serve it; 0: any number. 1 where the first job learns what
            the others of its process only look up.
    """

    name: str
    title: str
    paper: str
    grid: Sequence[Arm | Measure]
    budgets: Mapping[str, Budget]
    claims: Sequence[Claim]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int] = ()
    references: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=lambda: dict(COLUMNS))
    figures: Sequence[Figure] = ()
    max_workers: int = 0

    def __post_init__(self) -> None:
        """Check and register."""
        if both := set(self.seeds) & set(self.tuning_seeds):
            raise ValueError(f"seeds: {sorted(both)} were tuned on; report on others")
        slugs = [arm.slug for arm in self.grid]
        if len(set(slugs)) < len(slugs):
            raise ValueError(f"grid: labels {slugs} are not distinct")
        EXPERIMENTS.register(self.name)(self)


def judge(experiment: Experiment, results: Results) -> list[Verdict]:
    """The verdicts, with p values corrected for the number of claims (Holm)."""
    return corrected([claim.judge(results) for claim in experiment.claims])


def corrected(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts with their p values corrected for how many of them are tests (Holm)."""
    found = list(verdicts)
    tested = [i for i, v in enumerate(found) if v.p_value is not None]
    if tested:
        adjusted = holm([float(found[i].p_value or 0.0) for i in tested])
        for i, p in zip(tested, adjusted, strict=True):
            found[i] = replace(found[i], p_adjusted=float(p))
    return found


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def _first_line(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        function = function.func
    return (function.__doc__ or function.__name__).strip().splitlines()[0]
