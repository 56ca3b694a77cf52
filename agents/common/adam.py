"""Adam as a pure function, for programs that hold a whole update."""

from __future__ import annotations

from torch import Tensor


def adam(
    parameters: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    count: Tensor,
    lr: Tensor,
    eps: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> list[Tensor]:
    """A step of ``torch.optim.Adam``.

    Args:
        parameters: (P,).
        grad: (P,).
        mean: (P,), running mean of gradients.
        square: (P,), running mean of their squares.
        count: scalar, steps made.
        lr: scalar float64, step size.
        eps: added to the denominator.
        beta1: decay of ``mean``.
        beta2: decay of ``square``.

    Returns:
        The new parameters, ``mean``, ``square`` and ``count``.

    Paper: Kingma, Ba (2015), "Adam: a method for stochastic optimization", algorithm 1.
    """
    count = count + 1.0
    mean = mean + (1.0 - beta1) * (grad - mean)
    square = beta2 * square + (1.0 - beta2) * grad * grad
    steps = count.to(lr.dtype)
    size = (lr / (1.0 - beta1**steps)).to(grad.dtype)
    scale = (1.0 - beta2**steps).sqrt().to(grad.dtype)
    return [parameters - size * mean / (square.sqrt() / scale + eps), mean, square, count]
