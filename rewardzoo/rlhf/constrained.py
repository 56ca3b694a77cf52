"""Several reward models held at thresholds by Lagrange multipliers instead of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .sequences import Sequences

SQUASH = {"inequality": torch.sigmoid, "equality": torch.tanh}


class ConstrainedReward:
    """Component rewards, each weighed by a multiplier that rises while it is below its threshold.

    With ``kind="equality"`` a multiplier can turn negative and push a component back down to its
    threshold: beyond it the component is believed no longer to say anything about gold.

    Args:
        components: scores (B,) of ``Sequences``.
        thresholds: of each component's mean.
        kind: "inequality" (multipliers in (0, 1)) or "equality" (in (-1, 1)).
        learning_rate: of the multipliers.

    The multipliers learn in ``update``, which the online trainer calls after each step. Unlike the
    paper's, the weight of the KL penalty stays fixed.

    Paper: Moskovitz et al. (2024), "Confronting reward model overoptimization with constrained
    RLHF".
    """

    def __init__(
        self,
        components: Sequence[Callable[[Sequences], Tensor]],
        thresholds: Sequence[float],
        kind: str = "equality",
        learning_rate: float = 0.1,
    ) -> None:
        if kind not in SQUASH:
            raise ValueError(f"kind={kind!r}: expected inequality or equality")
        if len(components) != len(thresholds):
            raise ValueError(
                f"thresholds: {len(thresholds)} of them for {len(components)} components"
            )
        self.components, self.kind, self.learning_rate = components, kind, learning_rate
        self.thresholds = torch.tensor(thresholds, dtype=torch.float32)
        self.xi = torch.zeros(len(thresholds))
        self._means: Tensor | None = None

    @property
    def multipliers(self) -> Tensor:
        """One a component, (M,)."""
        return SQUASH[self.kind](self.xi)

    def __call__(self, batch: Sequences) -> Tensor:
        """The components weighed by their multipliers, (B,)."""
        scores = torch.stack([component(batch) for component in self.components])
        self._means = scores.mean(1)
        return self.multipliers @ scores

    def update(self) -> dict[str, Any]:
        """Move the multipliers against the violations of what was scored last."""
        if self._means is None:
            return {}
        squash = SQUASH[self.kind]
        xi = self.xi.clone().requires_grad_()
        (slope,) = torch.autograd.grad((squash(xi) * (self._means - self.thresholds)).sum(), xi)
        self.xi = self.xi - self.learning_rate * slope
        named = zip(self.multipliers.tolist(), self._means.tolist(), strict=True)
        return {
            f"constraint/{name} {i}": value
            for i, values in enumerate(named)
            for name, value in zip(("multiplier", "mean"), values, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """The multipliers."""
        return {"xi": self.xi}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.xi = state["xi"].clone()
