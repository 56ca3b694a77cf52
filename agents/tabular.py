"""Exact solvers for finite Markov decision processes, in batches, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.functional import FuncEnv, load
from rewardzoo.registration import check_env_id


@dataclass(frozen=True)
class TabularMDP:
    """A finite Markov decision process, or a batch of them.

    Leading axes (...) of ``transition`` and ``reward`` broadcast: one transition with a batch of
    rewards shares the dynamics between reward functions.

    Args:
        transition: (..., S, A, S) float64, rows sum to 1.
        reward: (..., S, A) float64, expected reward.
        initial: (S,) float64, the start distribution.
        terminal: (S,) bool; the value of a terminal state is 0, whatever its rows hold.

    Raises:
        ValueError: naming the state and the action whose probabilities or reward are wrong.
    """

    transition: Tensor
    reward: Tensor
    initial: Tensor
    terminal: Tensor

    def __post_init__(self) -> None:
        """Check shapes, probabilities and rewards."""
        states = self.transition.shape[-1]
        if self.transition.ndim < 3 or self.transition.shape[-3] != states:
            raise ValueError(
                f"transition: shape {tuple(self.transition.shape)}, expected (..., S, A, S)"
            )
        self._check_reward()
        for name, dtype in (("initial", torch.float64), ("terminal", torch.bool)):
            found = getattr(self, name)
            if found.shape != (states,) or found.dtype != dtype:
                raise ValueError(
                    f"{name}: {tuple(found.shape)} {found.dtype}, expected ({states},) {dtype}"
                )
        _check_distributions("transition", self.transition)
        _check_distributions("initial", self.initial)

    def _check_reward(self) -> None:
        states, actions = self.transition.shape[-3:-1]
        found = self.reward
        if found.shape[-2:] != (states, actions) or found.dtype != torch.float64:
            raise ValueError(
                f"reward: {tuple(found.shape)} {found.dtype}, "
                f"expected (..., {states}, {actions}) torch.float64"
            )
        wrong = torch.isfinite(found).logical_not()
        if bool(wrong.any()):
            where = wrong.nonzero()[0].tolist()
            raise ValueError(f"reward{where}: expected a finite number")

    def with_reward(self, reward: Tensor) -> TabularMDP:
        """The same dynamics with another reward, (..., S, A)."""
        other = object.__new__(TabularMDP)  # the dynamics need no second check
        other.__dict__.update(self.__dict__, reward=reward)
        other._check_reward()
        return other

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes (...) of the batch."""
        return np.broadcast_shapes(self.transition.shape[:-3], self.reward.shape[:-2])


def mdp_of(env: FuncEnv | str, **params: Any) -> TabularMDP:
    """The exact model of an environment that has ``transition_matrix`` and ``terminal_states``.

    Args:
        env: a FuncEnv, or the id of a registered one.
        **params: its parameters, if ``env`` is an id.

    Raises:
        ValueError: if the environment offers no exact model.

    Example:
        >>> import rewardzoo
        >>> mdp = mdp_of("rewardzoo/GridWorld-v0")
        >>> float(value_iteration(mdp, gamma=0.9) @ mdp.initial) > 0
        True
    """
    func = _func_of(env, params)
    if not hasattr(func, "transition_matrix"):
        raise ValueError(f"env={env!r}: {type(func).__name__} has no finite model to solve")
    tables = (*func.transition_matrix(), func.terminal_states)  # type: ignore[attr-defined]
    return TabularMDP(*(torch.tensor(table) for table in tables))  # copies


def _func_of(env: FuncEnv | str, params: dict[str, Any]) -> FuncEnv:
    if not isinstance(env, str):
        if params:
            raise ValueError(f"mdp_of: {', '.join(params)} need an id, not an environment")
        return env
    check_env_id(env)
    kwargs = dict(gymnasium.spec(env).kwargs)
    if "dynamics" not in kwargs:
        raise ValueError(f"env={env!r}: not a functional environment, so no finite model to solve")
    return load(kwargs.pop("dynamics"))(**{**kwargs, **params})


def shaped(mdp: TabularMDP, phi: Tensor, gamma: float) -> TabularMDP:
    """``mdp`` with ``gamma * phi(s') - phi(s)`` added, phi of terminal states 0.

    Args:
        mdp: what to shape.
        phi: (..., S) potential.
        gamma: discount.
    """
    phi = torch.where(mdp.terminal, 0.0, phi.to(torch.float64))
    return mdp.with_reward(mdp.reward + gamma * _expected(mdp, phi) - phi.unsqueeze(-1))


def q_values(mdp: TabularMDP, value: Tensor, gamma: float) -> Tensor:
    """``Q(s, a) = R(s, a) + gamma * sum_t P(t | s, a) V(t)``, (..., S, A); terminal states 0."""
    q = mdp.reward + gamma * _expected(mdp, value)
    return torch.where(mdp.terminal.unsqueeze(-1), 0.0, q)


def value_iteration(
    mdp: TabularMDP, gamma: float, tol: float = 1e-12, max_sweeps: int = 100_000
) -> Tensor:
    """Optimal values (..., S).

    Iterates ``V = max_a Q`` from 0 until no value moves by ``tol``. At ``gamma=1`` a loop that pays
    for ever is found only when the sweeps are used up; ``policy_iteration`` finds it at once.

    Raises:
        RuntimeError: if it has not settled after ``max_sweeps``.
    """
    _check_gamma(gamma)
    distinct = _distinct_rows(mdp.transition)
    value = torch.zeros(*mdp.shape, mdp.terminal.shape[0], dtype=torch.float64)
    for _ in range(max_sweeps):
        if distinct is None:
            new = q_values(mdp, value, gamma).amax(-1)
        else:
            rows, which = distinct
            best = (mdp.reward + gamma * (value @ rows.T)[..., which]).amax(-1)
            new = torch.where(mdp.terminal, 0.0, best)
        if float((new - value).abs().max()) < tol:
            return new
        value = new
    raise RuntimeError(f"value iteration: not settled after {max_sweeps} sweeps at gamma={gamma}")


def policy_iteration(
    mdp: TabularMDP, gamma: float, max_rounds: int = 1000
) -> tuple[Tensor, Tensor]:
    """Optimal values (..., S) and a greedy policy (..., S, A).

    Starts from the uniform policy, from which every state of a proper problem ends, and changes an
    action only where another is better by more than rounding.

    Raises:
        ValueError: if at ``gamma=1`` the uniform policy may never end, or a loop pays for ever.
    """
    actions = mdp.reward.shape[-1]
    policy = torch.full_like(mdp.reward, 1.0 / actions).expand(*mdp.shape, -1, -1)
    last = torch.full((), -math.inf, dtype=torch.float64)
    for _ in range(max_rounds):
        value = evaluate_policy(mdp, policy, gamma)
        q = q_values(mdp, value, gamma)
        current = (policy * q).sum(-1)
        best = q.amax(-1)
        better = best > current + 1e-12 * (1.0 + best.abs())
        # A better action raises a value at least as much: what raises none is rounding.
        gain = value > last + 1e-12 * (1.0 + value.abs())
        if not bool(better.any()) or not bool(gain.any()):
            return value, greedy(q)
        policy = torch.where(better.unsqueeze(-1), greedy(q), policy)
        last = value
    raise RuntimeError(f"policy iteration: not settled after {max_rounds} rounds")


def greedy(q: Tensor) -> Tensor:
    """The deterministic policy (..., S, A) of the first best action."""
    return torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)


def evaluate_policy(mdp: TabularMDP, policy: Tensor, gamma: float) -> Tensor:
    """Values (..., S) of a policy (..., S, A), by one linear solve over the states that go on.

    Raises:
        ValueError: if at ``gamma=1`` the policy may never end, so that it has no finite value.
    """
    policy, system = _chain(mdp, policy, gamma)
    alive = mdp.terminal.logical_not()
    reward = (policy * mdp.reward).sum(-1)[..., alive]
    if system.ndim == 2:  # one chain, any number of rewards: one factorisation
        right = reward.reshape(-1, reward.shape[-1]).T
        return _scatter(torch.linalg.solve(system, right).T.reshape(reward.shape), alive)
    right = reward.expand(*system.shape[:-2], reward.shape[-1]).unsqueeze(-1)
    return _scatter(torch.linalg.solve(system, right).squeeze(-1), alive)


def occupancy(mdp: TabularMDP, policy: Tensor, gamma: float) -> Tensor:
    """Expected discounted visits x(s, a), (..., S, A), by the transposed solve.

    ``sum_a x(t, a) = initial(t) + gamma * sum_{s, a} x(s, a) P(t | s, a)`` on states that go on;
    ``sum x * R`` is the expected return.
    """
    policy, system = _chain(mdp, policy, gamma)
    alive = mdp.terminal.logical_not()
    start = mdp.initial[alive].expand(*system.shape[:-2], -1)
    visits = torch.linalg.solve(system.transpose(-1, -2), start.unsqueeze(-1)).squeeze(-1)
    return _scatter(visits, alive).unsqueeze(-1) * policy


def expected_return(mdp: TabularMDP, policy: Tensor, gamma: float) -> Tensor:
    """The expected discounted return (...,) of a policy from the start distribution."""
    return evaluate_policy(mdp, policy, gamma) @ mdp.initial


def _expected(mdp: TabularMDP, value: Tensor) -> Tensor:
    """``sum_t P(t | s, a) value(t)``, (..., S, A)."""
    return torch.einsum("...sat,...t->...sa", mdp.transition, value)


def _chain(mdp: TabularMDP, policy: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """The policy, checked, and ``I - gamma * P_policy`` on the states that go on."""
    _check_gamma(gamma)
    states, actions = mdp.reward.shape[-2:]
    if policy.shape[-2:] != (states, actions):
        raise ValueError(
            f"policy: shape {tuple(policy.shape)}, expected (..., {states}, {actions})"
        )
    policy = torch.where(mdp.terminal.unsqueeze(-1), 1.0 / actions, policy.to(torch.float64))
    _check_distributions("policy", policy, 1e-5)  # float32 policies are off by 1e-7
    alive = mdp.terminal.logical_not()
    moves = torch.einsum("...sa,...sat->...st", policy, mdp.transition)[..., alive, :]
    chain = moves[..., alive]
    if gamma == 1.0:
        _check_that_it_ends(chain, (moves[..., mdp.terminal] > 0).any(-1, keepdim=True), alive)
    return policy, torch.eye(chain.shape[-1], dtype=torch.float64) - gamma * chain


def _check_that_it_ends(chain: Tensor, ends: Tensor, alive: Tensor) -> None:
    """Raise unless every state reaches one that ``ends``; a singular system may be solved."""
    for _ in range(chain.shape[-1]):  # backwards, a step at a time
        further = ends | (chain @ ends.to(torch.float64) > 0)
        if bool((further == ends).all()):
            break
        ends = further
    if not bool(ends.all()):
        row = ends.squeeze(-1).logical_not().nonzero()[0, -1]
        raise ValueError(
            f"gamma=1: under this policy state {int(alive.nonzero()[row, 0])} never reaches a "
            "terminal state; use gamma < 1"
        )


def _scatter(values: Tensor, alive: Tensor) -> Tensor:
    """(..., S) from the values of the states that go on, 0 elsewhere."""
    full = torch.zeros(*values.shape[:-1], alive.shape[0], dtype=torch.float64)
    full[..., alive] = values
    return full


def _distinct_rows(transition: Tensor) -> tuple[Tensor, Tensor] | None:
    """The distinct rows (U, S) of a shared transition, and of each (s, a) which; None if no gain.

    Models estimated from data repeat rows (five in six of ICU-Sepsis' 17,900 are repeats), and a
    sweep costs what it reads.
    """
    if transition.ndim > 3 or transition.shape[0] < 100:
        return None
    table = transition.reshape(-1, transition.shape[-1])
    seen: dict[bytes, int] = {}
    which = [seen.setdefault(row.tobytes(), len(seen)) for row in table.numpy()]
    if 2 * len(seen) > len(which):
        return None
    # Of equal rows any: the last that writes its number wins.
    place = torch.empty(len(seen), dtype=torch.int64)
    place[torch.tensor(which)] = torch.arange(len(which))
    return table[place], torch.tensor(which).reshape(transition.shape[:2])


def _check_gamma(gamma: float) -> None:
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma={gamma}: expected a number in [0, 1]")


def _check_distributions(name: str, probs: Tensor, tol: float = 1e-8) -> None:
    if probs.dtype != torch.float64:
        raise ValueError(f"{name}: {probs.dtype}, expected torch.float64")
    right = ((probs.sum(-1) - 1.0).abs() <= tol) & (probs >= 0).all(-1)  # NaN is not right either
    if not bool(right.all()):
        where = right.logical_not().nonzero()[0].tolist()
        raise ValueError(f"{name}{where or ''}: expected probabilities that sum to 1")


__all__ = [
    "TabularMDP",
    "evaluate_policy",
    "expected_return",
    "greedy",
    "mdp_of",
    "occupancy",
    "policy_iteration",
    "q_values",
    "shaped",
    "value_iteration",
]
