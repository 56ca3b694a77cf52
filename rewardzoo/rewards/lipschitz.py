"""Local Lipschitz constants: measured, penalised and bounded (Blondé, Strasser, Kalousis 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

PENALTIES = ("wgan", "dragan", "nagard", "bare", "expert", "none")
"""Where a gradient penalty looks; see ``penalty_points``."""


def gradient_norm(f: Callable[..., Tensor], *inputs: Tensor, create_graph: bool = False) -> Tensor:
    """``||grad f||`` of each row, over all inputs together, (B,).

    Args:
        f: of the inputs to (B,); a row of it reads that row of the inputs alone.
        *inputs: (B, ...) each.
        create_graph: keep what the norm itself can be differentiated by.

    Example:
        >>> import torch
        >>> gradient_norm(lambda x, y: 3.0 * x[:, 0] + 4.0 * y[:, 1], torch.zeros(2, 2),
        ...               torch.ones(2, 3)).tolist()
        [5.0, 5.0]
    """
    with torch.enable_grad():
        points = [x.detach().requires_grad_() for x in inputs]
        slopes = torch.autograd.grad(f(*points).sum(), points, create_graph=create_graph)
        flat = torch.cat([slope.flatten(1) for slope in slopes], 1)
        norm: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return norm


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivatives of each row, (B, outputs, inputs), exactly and in one pass backwards.

    Args:
        f: (B, inputs) to (B, outputs); a row of it reads that row alone.
        x: (B, inputs).

    Example:
        >>> import torch
        >>> jacobian(lambda x: x @ torch.tensor([[2.0], [3.0]]), torch.zeros(1, 2)).tolist()
        [[[2.0, 3.0]]]
    """
    with torch.enable_grad():
        outputs, rows = f(x).shape[1], x.shape[0]
        copies = x.detach().repeat(outputs, 1).requires_grad_()
        y = f(copies).reshape(outputs, rows, outputs)  # copy i gives the derivatives of output i
        (slopes,) = torch.autograd.grad(y.diagonal(dim1=0, dim2=2).sum(), copies)
        derivatives: Tensor = slopes.reshape(outputs, rows, -1).transpose(0, 1)
        return derivatives


def excess(norm: Tensor, k: float = 1.0, one_sided: bool = True) -> Tensor:
    """``max(0, norm - k)``; two-sided ``norm - k``."""
    over = norm - k
    return over.clamp(min=0.0) if one_sided else over


def gradient_penalty(
    f: Callable[..., Tensor], *points: Tensor, k: float = 1.0, one_sided: bool = True
) -> Tensor:
    """``E max(0, ||grad f|| - k)^2``, or two-sided ``E (||grad f|| - k)^2``; a scalar.

    It keeps its graph: differentiated by the parameters of ``f``, it makes ``f`` flatter at
    ``points``.

    Args:
        f: of the points to (B,).
        *points: (B, ...) each; the norm is over all of them together.
        k: the slope that is allowed, or, two-sided, wanted.
        one_sided: let smaller slopes be.

    Example:
        >>> import torch
        >>> x = torch.zeros(4, 2)
        >>> steep = lambda x: 3.0 * x[:, 0]
        >>> float(gradient_penalty(steep, x)), float(gradient_penalty(steep, x, k=4.0))
        (4.0, 0.0)

    Paper: Gulrajani et al. (2017), "Improved training of Wasserstein GANs", eq. 3.
    """
    return excess(gradient_norm(f, *points, create_graph=True), k, one_sided).square().mean()


def penalty_points(
    penalty: str, agent: Tensor, expert: Tensor, eps: Tensor, noise: Tensor
) -> Tensor:
    """Where the gradient is penalised, (B, D).

    ==========  ====================================================================
    ``wgan``    ``eps * agent + (1 - eps) * expert`` (Gulrajani et al. 2017)
    ``dragan``  ``expert + noise`` (Kodali et al. 2017)
    ``nagard``  ``agent + noise`` (Blondé et al. 2022)
    ``bare``    ``agent``
    ``expert``  ``expert``; with ``k=0`` this is R1 (Mescheder et al. 2018)
    ==========  ====================================================================

    Args:
        penalty: a row of the table.
        agent: (B, D).
        expert: (B, D).
        eps: (B, D) in [0, 1]: one number a row, or one a row and input.
        noise: (B, D).
    """
    if penalty == "wgan":
        return eps * agent + (1.0 - eps) * expert
    base = expert if penalty in ("dragan", "expert") else agent
    return base + noise if penalty in ("dragan", "nagard") else base


class LipschitzEstimate(NamedTuple):
    """How steep a function is on a batch: a lower bound of its Lipschitz constant there."""

    mean: Tensor
    high: Tensor  # the 95th percentile
    max: Tensor


def lipschitz_estimate(f: Callable[..., Tensor], *batch: Tensor) -> LipschitzEstimate:
    """Mean, 95th percentile and maximum of ``||grad f||`` on a batch, three scalars.

    Args:
        f: of the inputs to (B,).
        *batch: (B, ...) each.
    """
    norm = gradient_norm(f, *batch)
    return LipschitzEstimate(norm.mean(), norm.quantile(0.95), norm.max())


def value_growth(dynamics: float, policy: float, gamma: float) -> float:
    """``rho = gamma * A * sqrt(1 + B^2)``: by how much a step back steepens the value.

    Args:
        dynamics: A, the norm of the Jacobian of the next state by state and action.
        policy: B, the norm of the Jacobian of the action by the state.
        gamma: discount.
    """
    return gamma * dynamics * math.sqrt(1.0 + policy * policy)


def value_lipschitz_bound(
    reward: float, dynamics: float, policy: float, gamma: float, horizon: float = math.inf
) -> float:
    """The Lipschitz constant that the value of a policy cannot exceed, whatever is aligned.

    ``reward * sum_{k < horizon} rho^k`` with ``value_growth`` as ``rho``; infinite where ``rho`` is
    1 or more and the horizon is infinite. Norms are spectral ones, or any above them.

    Args:
        reward: the norm of the reward's gradient.
        dynamics: A.
        policy: B.
        gamma: discount.
        horizon: steps of an episode.

    Example:
        >>> round(value_lipschitz_bound(1.0, 1.0, 0.0, 0.9), 6)  # 1 / (1 - 0.9)
        10.0
    """
    rho = value_growth(dynamics, policy, gamma)
    if math.isclose(rho, 1.0):
        return reward * horizon
    if math.isinf(horizon):
        return reward / (1.0 - rho) if rho < 1.0 else math.inf
    # As an exponential, a steep one is infinite and no error.
    grown = horizon * math.log(rho) if rho > 0.0 else -math.inf
    return reward * (math.expm1(grown) / (rho - 1.0) if grown < 700.0 else math.inf)


def value_lipschitz_square_root(
    reward: float, dynamics: float, policy: float, gamma: float
) -> float:
    """The tighter form ``reward / sqrt(1 - gamma^2 A^2 max(1, B^2))``; infinite where undefined.

    It holds only where the gradients of successive steps are not aligned, so it is a diagnostic:
    the exact slope can be above it.

    Args:
        reward: the norm of the reward's gradient.
        dynamics: A.
        policy: B.
        gamma: discount.

    Paper: Blondé, Strasser, Kalousis (2022), the monitored form of their theorem.
    """
    rest = 1.0 - gamma**2 * dynamics**2 * max(1.0, policy**2)
    return reward / math.sqrt(rest) if rest > 0.0 else math.inf
