"""Exact optima of a reward less a divergence from a base policy, on finite models.

``max_x <x, r> - coef D(x, base)`` over occupancies x: concave, with a dual in one value a state,
``A_V = r + gamma E V - V``, solved by damped Newton steps along a path of coefficients:

    chi2:  x = base max(0, A_V) / (2 coef)        KL:  x = base exp(A_V / coef - 1)

``sqrt_chi2`` follows chi2's path: its optimum for ``coef`` is chi2's for that k at which ``2 k
sqrt(chi2) = coef``. The KL divergence of action distributions is soft value iteration.

Paper: Laidlaw, Singhal, Dragan (2024), "Correlated proxies".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse

from rewardzoo.metrics.occupancy import chi2, moments, policy_occupancy


@dataclass(frozen=True, eq=False)
class Problem:
    """A finite model, a reward to optimise and a base policy to stay near.

    Args:
        transition: (S, A, S).
        reward: (S, A), what is optimised.
        initial: (S,).
        gamma: discount in [0, 1).
        base: (S, A), action probabilities, every action possible.
    """

    transition: np.ndarray
    reward: np.ndarray
    initial: np.ndarray
    gamma: float
    base: np.ndarray

    def __post_init__(self) -> None:
        """Check, and prepare what all optima need."""
        if not (self.base > 0).all():
            raise ValueError("base: expected a policy under which every action is possible")
        occupancy = policy_occupancy(self.base, self.transition, self.initial, self.gamma)
        states, actions = self.reward.shape
        moves = scipy.sparse.csr_matrix(self.transition.reshape(-1, states))
        stay = scipy.sparse.kron(scipy.sparse.eye(states), np.ones((actions, 1)), format="csr")
        chain = np.einsum("sa,sat->st", self.base, self.transition, optimize=True)
        paid = (self.base * self.reward).sum(1)
        value = np.linalg.solve(np.eye(states) - self.gamma * chain, paid)
        for name, found in (
            ("occupancy", occupancy),  # (S, A), of the base
            ("flow", (stay - self.gamma * moves).tocsr()),  # (S A, S), V to V - gamma E V
            ("value", value),  # (S,), of the base
        ):
            object.__setattr__(self, name, found)

    @property
    def sigma(self) -> float:
        """The reward's standard deviation under the base."""
        return float(moments(self.occupancy, self.reward)[1])


def chi2_path(problem: Problem, coefs: Sequence[float]) -> list[np.ndarray]:
    """Optimal occupancies (S, A) less ``k chi2``, for each k of a falling sequence."""
    follow = _Follower(problem, _chi2_dual, 2.0)
    return [follow(k) for k in _falling(coefs)]


def kl_path(problem: Problem, coefs: Sequence[float]) -> list[np.ndarray]:
    """Optimal occupancies (S, A) less ``coef KL``, for each of a falling sequence."""
    follow = _Follower(problem, _kl_dual, 1.0)
    return [follow(k) for k in _falling(coefs)]


def sqrt_chi2_path(
    problem: Problem, coefs: Sequence[float], points: int = 40, least: float = 1e-3
) -> list[np.ndarray]:
    """Optimal occupancies (S, A) less ``coef sqrt(chi2)``, for each of a falling sequence.

    Those of the base where ``coef >= problem.sigma``.

    Args:
        problem: what to solve.
        coefs: of the divergence, > 0.
        points: of the path of chi2's coefficients, between which is refined by bisection.
        least: of chi2's coefficients, in units of ``problem.sigma``.

    Raises:
        ValueError: for a coefficient that needs chi2's below ``least``.
    """
    follow = _Follower(problem, _chi2_dual, 2.0)
    path = problem.sigma * np.geomspace(20.0, least, points)
    slopes, values = [], []
    for k in path:
        slopes.append(_slope(problem, k, follow(k)))
        values.append(follow.value)
        if slopes[-1] <= min(coefs):
            break
    found = []
    for coef in _falling(coefs):
        if coef >= problem.sigma or slopes[0] <= coef:
            found.append(problem.occupancy)
            continue
        if slopes[-1] > coef:
            raise ValueError(f"coef={coef}: too small; {least=} allows {slopes[-1]:.2g} or more")
        after = next(i for i, slope in enumerate(slopes) if slope <= coef)
        high, low = path[after - 1], path[after]
        follow.last, follow.value = high, values[after - 1]
        while high / low > 1.0 + 1e-5:
            middle = float(np.sqrt(high * low))
            kept = follow.last, follow.value
            x = follow(middle)
            if _slope(problem, middle, x) > coef:
                high = middle
            else:
                low = middle
                follow.last, follow.value = kept
        found.append(x)
    return found


def action_kl_optimum(problem: Problem, coef: float, tol: float = 1e-10) -> np.ndarray:
    """The occupancy (S, A) of the best policy less ``coef KL(policy, base)`` at every step."""
    log_base = np.log(problem.base)
    flat = scipy.sparse.csr_matrix(problem.transition.reshape(-1, len(problem.initial)))
    value = problem.value.copy()
    while True:
        q = problem.reward + problem.gamma * (flat @ value).reshape(problem.reward.shape)
        logits = log_base + q / coef
        top = logits.max(1, keepdims=True)
        new = coef * (top[:, 0] + np.log(np.exp(logits - top).sum(1)))
        # The span bounds how far the policy can still move.
        change = new - value
        value = new
        if change.max() - change.min() < tol * (1.0 - problem.gamma):
            break
    policy = np.exp(logits - top)
    policy /= policy.sum(1, keepdims=True)
    return policy_occupancy(policy, problem.transition, problem.initial, problem.gamma)


def _slope(problem: Problem, k: float, x: np.ndarray) -> float:
    """The coefficient of ``sqrt(chi2)`` for which chi2's optimum at ``k`` is the optimum."""
    return float(2.0 * k * np.sqrt(max(0.0, float(chi2(x, problem.occupancy)))))


Dual = Callable[[np.ndarray, float, np.ndarray], tuple[float, np.ndarray, np.ndarray]]


def _chi2_dual(
    base: np.ndarray, k: float, advantage: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The conjugate of ``k chi2`` at the advantages (S A,), its gradient and its curvature."""
    positive = np.maximum(advantage, 0.0)
    x = base * positive / (2.0 * k)
    return float(x @ positive) / 2.0, x, base * (advantage > 0) / (2.0 * k)


def _kl_dual(
    base: np.ndarray, k: float, advantage: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The same of ``k KL``."""
    with np.errstate(over="ignore"):
        x = base * np.exp(advantage / k - 1.0)
    return k * float(x.sum()), x, x / k


def _falling(coefs: Sequence[float]) -> list[float]:
    given = [float(k) for k in coefs]
    if not given or given != sorted(given, reverse=True) or given[-1] <= 0.0:
        raise ValueError(f"coefs={given}: expected falling numbers > 0")
    return given


class _Follower:
    """Follows the optimum of ``source V + dual(A_V)`` as the coefficient falls.

    At a large coefficient the optimum is near the base's value, lowered so that ``A_V`` is
    ``level`` times the coefficient where the base is the optimum.
    """

    def __init__(self, problem: Problem, dual: Dual, level: float) -> None:
        self.problem, self._dual, self._level = problem, dual, level
        self._base, self._reward = problem.occupancy.ravel(), problem.reward.ravel()
        self._source = (1.0 - problem.gamma) * problem.initial
        self.last, self.value = 0.0, problem.value

    def __call__(self, k: float) -> np.ndarray:
        """The optimal occupancy (S, A) at ``k``."""
        self.value = self.value + self._level * (self.last - k) / (1.0 - self.problem.gamma)
        self.last = k
        self.value, x = self._newton(k)
        return x.reshape(self.problem.reward.shape)

    def _at(self, k: float, value: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        cost, x, weight = self._dual(self._base, k, self._reward - self.problem.flow @ value)
        return cost + float(self._source @ value), x, weight

    def _newton(self, k: float) -> tuple[np.ndarray, np.ndarray]:
        flow, value = self.problem.flow, self.value
        cost, x, weight = self._at(k, value)
        for _ in range(500):
            gradient = self._source - flow.T @ x
            if np.abs(gradient).sum() < 1e-9:
                return value, x
            curvature = (flow.T @ flow.multiply(weight[:, None]).tocsr()).toarray()
            curvature[np.diag_indices_from(curvature)] += 1e-12 * curvature.diagonal().max()
            step = scipy.linalg.solve(curvature, gradient, assume_a="pos", check_finite=False)
            slope, length = float(gradient @ step), 1.0
            while True:
                moved = value - length * step
                new, x, weight = self._at(k, moved)
                if new <= cost - 1e-4 * length * slope + 1e-14 * abs(cost) or length < 1e-12:
                    break
                length /= 2.0
            value, cost = moved, new
        raise RuntimeError(f"coef={k}: Newton's method has not settled")
