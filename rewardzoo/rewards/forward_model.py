"""ForwardModel: where a step leads, learned, and how much it amplifies."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lipschitz import jacobian

_EXACT = 8  # outputs up to which the Jacobian's norm is exact
_PROBES = 8


class ForwardModel(nn.Module):
    """A perceptron with two hidden layers from inputs (state and action) to the next state.

    It learns the change of the state; both sides are standardised by whoever gives them.

    Args:
        num_states: S, of the inputs' first columns and of the outputs.
        num_inputs: S + A.
        seed: of the parameters and the probes.
        learning_rate: step size of Adam.
    """

    probes: Tensor

    def __init__(
        self, num_states: int, num_inputs: int, seed: int = 0, learning_rate: float = 1e-3
    ) -> None:
        super().__init__()
        self.num_states = num_states
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Linear(num_inputs, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()]
            self.layers = nn.Sequential(*layers, nn.Linear(100, num_states))
            signs = torch.randint(2, (_PROBES, num_states)).to(torch.float32) * 2.0 - 1.0
        self.register_buffer("probes", signs)
        self.requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.parameters(), learning_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S + A) to the next state (B, S)."""
        change: Tensor = self.layers(x)
        return x[:, : self.num_states] + change

    def fit(self, inputs: Tensor, following: Tensor) -> Tensor:
        """Adam steps on minibatches (steps, B, S + A) and what followed, (steps, B, S).

        Returns:
            The last mean squared error.
        """
        self.requires_grad_(True)
        with torch.enable_grad():
            for x, y in zip(inputs, following, strict=True):
                loss = functional.mse_loss(self(x), y)
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
        self.requires_grad_(False)
        return loss.detach()

    def jacobian_norm(self, x: Tensor) -> Tensor:
        """The Frobenius norm of the Jacobian of each row (B,).

        Exact for few outputs; otherwise Hutchinson's estimate, ``E ||v^T J||^2`` over fixed random
        signs v (Hutchinson 1990).
        """
        if self.num_states <= _EXACT:
            norm: Tensor = torch.linalg.matrix_norm(jacobian(self, x))
            return norm
        probes = self.probes
        along = jacobian(lambda x: self(x) @ probes.T, x)
        norm = torch.linalg.matrix_norm(along) / len(probes) ** 0.5
        return norm
