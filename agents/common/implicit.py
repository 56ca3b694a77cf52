"""Hypergradients: how what a learner converges to changes with what it was told to optimise.

A learner stops where its update direction vanishes, ``Delta(theta, phi) = 0``. There, with
``H = dDelta/dtheta`` and ``B = dDelta/dphi``, the implicit function theorem gives
``dtheta/dphi = -H^-1 B``, hence

    dJ/dphi = -(dJ/dtheta)^T H^-1 B = v^T B    with    H^T v = -dJ/dtheta.

H is never formed: only its products with vectors are. It is symmetric where Delta is the gradient
of something, and not where it is a semi-gradient (as of episodes that older policies played), so
the solvers take any H.

Every tensor may have leading axes of independent problems, which are solved together.

Paper: Lorraine, Vicol, Duvenaud (2020), "Optimizing millions of hyperparameters by implicit
differentiation".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Parameters = tuple[Tensor, ...]
Delta = Callable[[Tensor, Parameters], Tensor]
"""From theta (..., n) and the outer parameters to the learner's update direction (..., n)."""

SOLVERS = ("neumann", "cg")


class Hypergradient(NamedTuple):
    """What ``hypergradient`` found; leading axes (...,) are independent problems."""

    gradient: Parameters  # dJ/dphi, each of its parameter's shape
    distance: Tensor  # (...,) |Delta|: 0 at a fixed point, where alone the gradient is exact
    error: Tensor  # (...,) |H^T v + dJ/dtheta| / |dJ/dtheta|: 0 where the system is solved
    step: Tensor  # (...,) of the Neumann series, after any reduction
    solved: Tensor  # (...,) |H^T v| / |dJ/dtheta|: 1 where the system is solved, less if v is short


def hypergradient(
    delta: Delta,
    outer_gradient: Tensor,
    theta: Tensor,
    phi: Parameters,
    solver: str = "neumann",
    terms: int = 20,
    step: float | None = None,
    power_iterations: int = 10,
    damping: float = 0.0,
    tolerance: float | None = 1e-2,
) -> Hypergradient:
    """``dJ/dphi`` at a fixed point of a learner.

    Args:
        delta: the learner's update direction; differentiable twice.
        outer_gradient: (..., n), dJ/dtheta.
        theta: (..., n), where the learner stands.
        phi: the outer parameters; those that ``delta`` does not depend on get 0.
        solver: "neumann", ``v = step * sum_k (I + step H^T)^k dJ/dtheta`` for k up to ``terms``,
            which needs the eigenvalues of H left of 0; or "cg", ``terms`` steps of conjugate
            gradients on the normal equations, which needs H invertible only.
        terms: of the series, or steps.
        step: of the series; None takes 0.9 / |largest eigenvalue|. With a step far below that the
            direction is still useful and the length too short, by about
            ``step * (terms + 1) * |eigenvalues|``: penalties added to such a gradient weigh the
            more.
        power_iterations: to estimate the largest eigenvalue, by which a ``step`` of 2 / |largest
            eigenvalue| and more is reduced as well; 0 trusts a given ``step``.
        damping: subtracted from H's diagonal, as if the learner were also drawn to where it is.
        tolerance: warn where ``distance`` or ``error`` exceeds it; None leaves looking to the
            caller, and does not wait for the device.

    Raises:
        ValueError: for an unknown solver, or neither a step nor iterations to find one.

    Example:
        >>> theta = phi = torch.tensor([1.0])
        >>> learner = lambda theta, phi: phi[0] - theta  # ends at theta = phi
        >>> found = hypergradient(learner, 3.0 - theta, theta, (phi,))  # J = -(theta - 3)^2 / 2
        >>> found.gradient[0]
        tensor([2.])
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}: expected one of {', '.join(SOLVERS)}")
    if step is None and power_iterations < 1:
        raise ValueError("power_iterations=0: expected an integer >= 1, or a step")
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        phi = tuple(p.detach().requires_grad_() for p in phi)
        residual = delta(theta, phi)

    def transposed(x: Tensor) -> Tensor:
        """``(H - damping)^T x``."""
        return _pull(residual, theta, x) - damping * x

    target = outer_gradient.detach()
    rate = torch.full_like(target[..., :1], step or 0.0)
    if solver == "cg":
        v, remainder = _normal_equations(residual, theta, transposed, target, terms, damping)
    else:
        if power_iterations:
            largest = _largest(transposed, target, power_iterations)
            stable = 0.9 / largest.clamp(min=torch.finfo(target.dtype).tiny)
            given = rate if step is not None else torch.full_like(rate, torch.inf)
            rate = torch.where(given * largest < 2.0, given, stable)
            rate = torch.where(largest > 0, rate, 0.0)  # H is 0: nothing to invert
        v, remainder = _series(transposed, target, rate, terms)
    gradient = torch.autograd.grad(residual, phi, v, allow_unused=True)
    wanted = _norm(target).clamp(min=torch.finfo(target.dtype).tiny)
    found = Hypergradient(
        tuple(torch.zeros_like(p) if g is None else g for p, g in zip(phi, gradient, strict=True)),
        _norm(residual.detach()).squeeze(-1),
        (_norm(remainder) / wanted).squeeze(-1),
        rate.squeeze(-1),
        (_norm(remainder - target) / wanted).squeeze(-1),
    )
    if tolerance is not None:
        _warn(found, tolerance)
    return found


def unrolled(
    deltas: Iterable[Delta],
    outer_gradient: Callable[[Tensor], Tensor],
    theta: Tensor,
    phi: Parameters,
    rate: float | Tensor,
    max_norm: float | None = None,
) -> Parameters:
    """``dJ/dphi`` through the learner's last steps, ``theta <- theta + rate * Delta``.

    Args:
        deltas: the update direction of each step.
        outer_gradient: dJ/dtheta where the steps end.
        theta: (..., n), where they start.
        phi: the outer parameters.
        rate: of the steps, broadcast against theta.
        max_norm: of a step's direction, longer ones are shortened to it.
    """
    with torch.enable_grad():
        phi = tuple(p.detach().requires_grad_() for p in phi)
        theta = theta.detach().requires_grad_()
        for delta in deltas:
            direction = delta(theta, phi)
            if max_norm is not None:
                direction = direction * (max_norm / _norm(direction).clamp(min=max_norm))
            theta = theta + rate * direction
    gradient = torch.autograd.grad(theta, phi, outer_gradient(theta.detach()), allow_unused=True)
    return tuple(
        torch.zeros_like(p) if g is None else g for p, g in zip(phi, gradient, strict=True)
    )


def _pull(output: Tensor, x: Tensor, cotangent: Tensor, create_graph: bool = False) -> Tensor:
    """``(d output / d x)^T cotangent``."""
    (found,) = torch.autograd.grad(
        output, x, cotangent, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return found


def _series(
    transposed: Callable[[Tensor], Tensor], target: Tensor, rate: Tensor, terms: int
) -> tuple[Tensor, Tensor]:
    """The truncated Neumann series, and ``H^T v + target``, what it leaves: its next term."""
    term = target
    total = torch.zeros_like(target)
    for _ in range(terms + 1):
        total = total + term
        term = term + rate * transposed(term)
    return rate * total, term


def _normal_equations(
    residual: Tensor,
    theta: Tensor,
    transposed: Callable[[Tensor], Tensor],
    target: Tensor,
    steps: int,
    damping: float,
) -> tuple[Tensor, Tensor]:
    """Conjugate gradients on ``H H^T v = -H target``, and what they leave, ``H^T v + target``.

    Plain conjugate gradients would need a symmetric H.
    """
    with torch.enable_grad():
        dummy = torch.zeros_like(residual, requires_grad=True)
        pulled = _pull(residual, theta, dummy, create_graph=True)  # linear in dummy: H^T dummy

    def forward(x: Tensor) -> Tensor:
        """``(H - damping) x``: the transpose of a transpose."""
        if not pulled.requires_grad:
            return -damping * x
        return _pull(pulled, dummy, x) - damping * x

    tiny = torch.finfo(target.dtype).tiny
    v = torch.zeros_like(target)
    left = -target  # of H^T v = -target
    down = forward(left)
    direction, size = down, _dot(down, down)
    for _ in range(steps):
        image = transposed(direction)
        length = size / _dot(image, image).clamp(min=tiny)
        v = v + length * direction
        left = left - length * image
        down = forward(left)
        new = _dot(down, down)
        direction = down + new / size.clamp(min=tiny) * direction
        size = new
    return v, -left


def _largest(transposed: Callable[[Tensor], Tensor], like: Tensor, iterations: int) -> Tensor:
    """|largest eigenvalue|, (..., 1), by power iteration from one fixed start for every problem."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(like.shape[-1], generator=generator, dtype=like.dtype)
    x = start.to(like.device).expand_as(like)
    tiny = torch.finfo(like.dtype).tiny
    size = _norm(x)
    for _ in range(iterations):
        x = transposed(x / size.clamp(min=tiny))
        size = _norm(x)
    return size


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _norm(x: Tensor) -> Tensor:
    """Over the last axis; its derivative at 0 is 0, where the square root has none."""
    square = _dot(x, x)
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def _warn(found: Hypergradient, tolerance: float) -> None:
    distance, error = float(found.distance.max()), float(found.error.max())
    if distance > tolerance:
        warnings.warn(
            f"hypergradient: |Delta| = {distance:.3g}: not at a fixed point, so it is not exact; "
            "let the learner go on",
            stacklevel=3,
        )
    if not error <= tolerance:
        warnings.warn(
            f"hypergradient: the linear system is left with a relative error of {error:.3g}: H is "
            "nearly singular or the terms are too few; regularise the learner (entropy, L2), or "
            "raise terms or damping",
            stacklevel=3,
        )
