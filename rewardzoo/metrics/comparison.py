"""Compare reward functions on an environment: exactly where it is enumerable, else from samples.

Exact are STARC (Skalse et al. 2024), EPIC (Gleave et al. 2021), DARD (Wulfe et al. 2022) and the
worst-case regret of optimising one reward for another, with what STARC distances say of it.
Sampled are, with intervals, STARC (by rollouts, or with a fitted potential) or DARD where states
can be gone on from again, and EPIC on a simulator that can only be reset and stepped.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from ..base_policy import BasePolicy
from ..functional import FuncEnv
from ..random import Rng
from ..rewards.base import RewardFunction, Spaces
from ..rewards.pay import pay
from ..transition import Transition
from .epic import dard_distance, epic_distance
from .planning import Array, check_model, expected
from .recorded import record, recorded_distances
from .regret import regret_constants, worst_case_regret
from .sampled import SampledDistances, sampled_distances
from .sampled_dard import sampled_dard_distances
from .sampled_fitted import fitted_distances
from .starc import starc_distance

LETTERS = string.ascii_uppercase
"""What rewards are called in tables and pictures."""

EXACT_CANONICAL = ("val", "minimal", "none")
"""Of an exact STARC distance."""

_CELLS = 4_000_000  # transitions of which tables of each reward are kept
_ROWS = 1_000_000  # transitions asked about at once
_STEPS = 256  # of each row of a recording, at least
_BOUNDED = 512  # states and actions up to which the bounds on the regret take no more than seconds


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far apart K reward functions are.

    Args:
        labels: of the rewards, K.
        matrices: (K, K) by the name of the measure: "starc", in [0, 2] where its norm and its
            metric are the same; exactly also "epic" and "dard", in [0, 1], and "regret", in [0, 1]:
            row i is what is meant, column j what is optimised. Sampled there is one of them.
        gamma: discount.
        low: lower ends of the intervals of what is sampled, (K, K); None where it is exact.
        high: upper ends.
        noise: (K,), see ``SampledDistances``; None where exact.
        n: states and actions compared.
        notes: what was left out, and why.
        how: canonicalisation, norm and metric of "starc".
        bounds: L and U with ``L starc <= regret <= U starc`` for all rewards; None where unknown.
    """

    labels: list[str]
    matrices: dict[str, Array]
    gamma: float
    n: int
    low: Array | None = None
    high: Array | None = None
    noise: Array | None = None
    notes: list[str] = field(default_factory=list)
    how: tuple[str, str, str] = ("val", "l2", "l2")
    bounds: tuple[float, float] | None = None

    @property
    def exact(self) -> bool:
        """Whether nothing was sampled."""
        return self.low is None

    def top(self, name: str) -> float:
        """The most that a measure can be; where nothing bounds it, the most that it is."""
        if name != "starc":
            return 1.0
        _, norm, metric = self.how
        return 2.0 if norm == metric else float(self.matrices[name].max())


def enumerable(func: FuncEnv) -> str:
    """Why an environment's distances cannot be exact, or nothing.

    Exact tables need ``transition_matrix``, ``Discrete`` observations that are the states' numbers,
    and a state that is one number: then every transition can be asked about.
    """
    if not hasattr(func, "transition_matrix"):
        return "it has no transition_matrix"
    if not isinstance(func.observation_space, spaces.Discrete):
        return f"its observations are {func.observation_space}, not the numbers of states"
    state = func.initial(_rng(1))
    if len(state) != 1 or state[0].dtype != torch.int64:
        return "its states are more than one number"
    every = type(state)(torch.arange(int(func.observation_space.n), device=func.device))
    if not torch.equal(func.observation(every, _rng(len(every[0]))), every[0]):
        return "its observations are not the numbers of states"
    return ""


def compare_exactly(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    labels: Sequence[str],
    gamma: float,
    canonical: str = "val",
    norm: str = "l2",
    metric: str = "l2",
) -> Comparison:
    """Exact distances and regrets; see ``enumerable``.

    Args:
        func: the dynamics.
        rewards: K reward functions without memory.
        labels: their names.
        gamma: discount in [0, 1).
        canonical: of the STARC distance: "val", "minimal" or "none".
        norm: "l1", "l2", "linf" or "range".
        metric: "l1", "l2" or "linf".

    Raises:
        ValueError: for an environment that is not enumerable, a reward function with memory, or an
            unknown name.
    """
    if reason := enumerable(func):
        raise ValueError(f"env: no exact distances on {type(func).__name__}: {reason}; sample")
    _check_markov(rewards)
    if canonical not in EXACT_CANONICAL:
        raise ValueError(
            f"canonical={canonical!r}: expected one of {', '.join(EXACT_CANONICAL)} (EPIC and DARD "
            "distances are there beside the STARC distance)"
        )
    moves, _, initial = func.transition_matrix()  # type: ignore[attr-defined]
    check_model(moves, gamma)
    states, actions = moves.shape[:2]
    whole = moves.size <= _CELLS
    tables, means = [], []
    for fn in rewards:
        table = _table(func, fn, moves, gamma, whole)
        means.append(expected(table, moves) if whole else table)
        tables.append(table)
    r = np.stack(means)
    pairs = {
        "starc": starc_distance(r[:, None], r[None], moves, gamma, canonical, norm, metric, initial)
    }
    notes = []
    if whole:
        full = np.stack(tables)
        for name, distance in (("epic", epic_distance), ("dard", dard_distance)):
            pairs[name] = _pairwise(lambda a, b, d=distance: d(a, b, moves, gamma), full)
        if func.terminal_states.any():  # type: ignore[attr-defined]
            notes.append(
                "EPIC and DARD see shaping here: terminal states pay nothing, so that impossible "
                "transitions out of them tell one from the other"
            )
    else:
        notes.append(
            f"no EPIC and DARD: they look at all {moves.size:,} transitions, possible or not"
        )
    pairs["regret"] = _pairwise(lambda a, b: worst_case_regret(a, b, moves, initial, gamma), r)
    bounds = None
    if canonical == "none" or (norm, metric) != ("l2", "l2"):
        notes.append("no bounds on the regret: they are known for val and minimal, both in L2")
    elif states * actions > _BOUNDED:
        notes.append(f"no bounds on the regret: more than {_BOUNDED} states and actions")
    else:
        low, high = (float(x) for x in regret_constants(moves, initial, gamma, canonical))
        if low > 0.0 or high < np.inf:
            bounds = low, high
        else:
            notes.append(
                "no bounds on the regret: the uniform policy never comes to some of the states, "
                "and others can be avoided for ever"
            )
    return Comparison(
        list(labels), pairs, gamma, states * actions, notes=notes,
        how=(canonical, norm, metric), bounds=bounds,
    )  # fmt: skip


def expected_rewards(func: FuncEnv, rewards: Sequence[RewardFunction], gamma: float) -> Array:
    """What reward functions pay in expectation, (K, S, A), on an enumerable environment."""
    moves = func.transition_matrix()[0]  # type: ignore[attr-defined]
    return np.stack([_table(func, fn, moves, gamma, whole=False) for fn in rewards])


def compare_by_samples(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    labels: Sequence[str],
    gamma: float,
    num_samples: int = 512,
    rollouts: int = 4,
    seed: int = 0,
    canonical: str = "val",
    policy: BasePolicy | None = None,
    share: float = 0.5,
    critic: bool = False,
) -> Comparison:
    """STARC or DARD distances with 95 % intervals.

    See ``sampled_distances``, ``sampled_dard_distances``, and, for "minimal" or with a critic,
    ``fitted_distances``.

    Raises:
        ValueError: for a critic where there is no value to fit.
    """
    _check_markov(rewards)
    if critic and canonical != "val":
        raise ValueError(f"critic: fits the values of val, and canonical={canonical!r} has none")
    if critic or canonical == "minimal":
        found = fitted_distances(
            func, rewards, gamma, num_samples, rollouts, seed, canonical=canonical, policy=policy,
            share=share,
        )  # fmt: skip
        return _estimated("starc", found, labels, gamma, [], canonical)
    if canonical == "dard":
        found = sampled_dard_distances(
            func, rewards, gamma, num_samples, rollouts, seed, policy=policy, share=share
        )
        return _estimated("dard", found, labels, gamma, [])
    found = sampled_distances(
        func, rewards, gamma, num_samples, rollouts, seed=seed, canonical=canonical, policy=policy,
        share=share,
    )  # fmt: skip
    return _estimated("starc", found, labels, gamma, [], canonical)


def compare_by_recording(
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    rewards: Sequence[RewardFunction],
    labels: Sequence[str],
    gamma: float,
    num_samples: int = 512,
    draws: int = 4,
    seed: int = 0,
    policy: Callable[[Any], Any] | None = None,
) -> Comparison:
    """EPIC distances with 95 % intervals over what a policy visits; see ``record``."""
    _check_markov(rewards)
    recording = record(envs, max(_STEPS, -(-num_samples // envs.num_envs)), policy, seed)
    found = recorded_distances(recording, rewards, gamma, num_samples, draws, seed)
    visit = "random actions visit" if policy is None else "the policy visits"
    notes = [
        "no STARC: the simulator cannot go on from a state twice; EPIC looks at impossible "
        f"transitions too, between states that {visit} in {len(recording.row):,} steps"
    ]
    if recording.terminated.any():
        notes.append(
            "EPIC sees shaping here: terminal states pay nothing, so that impossible transitions "
            "out of them tell one from the other"
        )
    return _estimated("epic", found, labels, gamma, notes)


def _estimated(
    name: str,
    found: SampledDistances,
    labels: Sequence[str],
    gamma: float,
    notes: list[str],
    canonical: str = "val",
) -> Comparison:
    unknown = [
        f"{label}: noise swamps it (or all policies are equal under it), so that its distances are "
        "unknown; try more samples"
        for label, length in zip(labels, np.diagonal(found.distance), strict=True)
        if np.isnan(length)
    ]
    return Comparison(
        list(labels), {name: found.distance}, gamma, found.n, found.low, found.high, found.noise,
        notes + unknown, (canonical, "l2", "l2"),
    )  # fmt: skip


def draw(comparison: Comparison, path: str | Path) -> None:
    """The heat maps as a picture, by the suffix of ``path``: svg, png or pdf."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, k = list(comparison.matrices), len(comparison.labels)
    letters = [LETTERS[i] for i in range(k)]
    long = [f"{a}  {shorten(t, 48)}" for a, t in zip(letters, comparison.labels, strict=True)]
    side = 1.6 + 0.55 * k
    figure = Figure(figsize=(side * len(names) + 1.0, side + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        values, top = comparison.matrices[name], comparison.top(name)
        ax.imshow(values, cmap="viridis", vmin=0.0, vmax=top)
        for i, j in np.ndindex(k, k):
            text = "?" if np.isnan(values[i, j]) else f"{values[i, j]:.2f}"
            dark = not values[i, j] > 0.6 * top
            ax.text(j, i, text, ha="center", va="center", color="w" if dark else "k", fontsize=8)
        ax.set_title(f"{name}, 0 to {top:g}")
        ax.set_xticks(range(k), letters, fontsize=8)
        ax.set_yticks(range(k), long if ax is figure.axes[0] else letters, fontsize=8)
    figure.savefig(path)


def _pairwise(measure: Any, rewards: Array) -> Array:
    """(K, K), a pair at a time: tables over successors are large."""
    found: Array = np.array([[float(measure(a, b)) for b in rewards] for a in rewards])
    return found


def _table(func: FuncEnv, fn: RewardFunction, moves: Array, gamma: float, whole: bool) -> Array:
    """What ``fn`` pays, (S, A, S); its expectation (S, A) where that is too large.

    Terminal states pay nothing: they are absorbing.
    """
    states, actions = moves.shape[:2]
    asked: Any = np.arange(moves.size) if whole else np.flatnonzero(moves)
    parts = np.array_split(asked, -(-asked.size // _ROWS))
    paid = np.concatenate([_paid(func, fn, part, moves.shape, gamma) for part in parts])
    table: Array = np.zeros((states, actions))
    if whole:
        table = paid.reshape(moves.shape)
    else:
        np.add.at(table.reshape(-1), asked // states, paid * moves.reshape(-1)[asked])
    ends: Any = func.terminal_states  # type: ignore[attr-defined]
    table[ends] = 0.0
    return table


@torch.no_grad()
def _paid(
    func: FuncEnv, fn: RewardFunction, asked: Any, shape: tuple[int, ...], gamma: float
) -> Array:
    """What ``fn`` pays for transitions numbered row by row, (M,)."""
    s, a, t = (torch.from_numpy(x).to(func.device) for x in np.unravel_index(asked, shape))
    fn.bind(len(s), func.device, Spaces(func.observation_space, func.action_space, func))
    fn.match_gamma(gamma)
    make = type(func.initial(_rng(1)))
    before, after, rng = make(s), make(t), _rng(len(s), func.device)
    a = a + int(getattr(func.action_space, "start", 0))
    every = torch.ones_like(s, dtype=torch.bool)
    step = Transition(
        obs=s,
        action=a,
        next_obs=t,
        reward=func.reward(before, a, after, rng).to(torch.float32),
        terminated=func.terminal(after, rng),
        truncated=~every,
        valid=every,
        episode_step=torch.zeros_like(s),
    )
    return pay(_Relabelled(fn), step).double().cpu().numpy()  # type: ignore[no-any-return]


class _Relabelled(RewardFunction):
    """``relabel`` of another, so that what it returns is checked as everywhere."""

    def __init__(self, inner: RewardFunction) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        """The inner one's."""
        return self.inner.name

    def __call__(self, t: Transition) -> Any:
        """Changes nothing."""
        return self.inner.relabel(t)


def _check_markov(rewards: Sequence[RewardFunction]) -> None:
    if len(rewards) < 2:
        raise ValueError(f"rewards: {len(rewards)} given, expected at least two to compare")
    for fn in rewards:
        if not fn.markov:
            raise ValueError(
                f"reward function {fn.name}: it has memory, so that it has no distance to others "
                "on states and actions alone"
            )


def _rng(rows: int, device: torch.device | str = "cpu") -> Rng:
    zero = torch.zeros(rows, dtype=torch.int64, device=device)
    return Rng(zero, zero, 0)
