"""AlignmentReward: a reward that is learned so that its learner does what was meant (BARFI)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..registration import register_reward
from ..transition import Transition
from .base import RewardError, RewardFunction, Spaces, env_reward, integer, number
from .features import Head, features

PARAMETRISATIONS = ("scalar", "linear", "network")
TERMS = ("alignment", "primary", "auxiliary")
_HIDDEN = 32


class _Weights(nn.Module):
    """The outer parameters of R runs: of the three weights, and of the discount."""

    def __init__(self, phi: Tensor, c: Tensor) -> None:
        super().__init__()
        self.phi = nn.Parameter(phi)
        self.c = nn.Parameter(c)


@register_reward("alignment")
class AlignmentReward(RewardFunction):
    """Pays ``phi_1(s) + phi_2(s) r_p + phi_3(s) r_aux``, with weights and a discount to be learned.

    ``r_p`` is what is meant, ``r_aux`` advice that helps or misleads. The agent ``barfi`` learns
    the weights and the discount ``gamma_phi = sigmoid(c)`` so that a learner that is trained on
    them is good for ``r_p``; with any other agent they stay what they are at first, the plain sum.
    The weights see the state, never the action.

    Potential-based shaping is a weak alternative. Summed over an episode that terminates,
    ``gamma phi(s') - phi(s)`` from step t on is ``-phi(s_t)``: to a learner from whole returns it
    is a baseline, which changes the variance and nothing else. It cannot carry advice about
    actions; what is paid for those in its manner, ``G_t - r_aux(s_t, a_t)``, is no baseline and
    biases the gradient.

    Args:
        auxiliary: the advice.
        primary: what is meant; default: the environment's own reward.
        parametrisation: of the weights over states: "scalar" (none), "linear" in the features, or
            "network", a layer of tanh units.
        learn_primary: whether phi_2 is learned too; else it is 1.
        learn_gamma: whether the discount is learned; else it is ``initial_gamma``.
        initial_gamma: of the discount.
        init: "naive", the sum ``r_p + r_aux``; "primary", r_p alone; or "random"; or one of these
            for each run.
        features: of observations, "fourier", "tiles" or "plain".
        order: of the Fourier features.
        tilings: of features by tiles.
        tiles: to an axis of a tiling.
        runs: learners that share the rows, each with weights of its own.
        seed: of random weights.

    Example:
        >>> import rewardzoo
        >>> reward = rewardzoo.rewards.make_reward("alignment(maze_lure())")
        >>> reward.auxiliary.name
        'maze_lure'

    Paper: Gupta, Chandak, Jordan, Thomas, Castro da Silva (2023), "Behavior Alignment via Reward
    Function Optimization", NeurIPS.
    """

    def __init__(
        self,
        auxiliary: RewardFunction,
        primary: RewardFunction = env_reward,
        parametrisation: str = "linear",
        learn_primary: bool = True,
        learn_gamma: bool = True,
        initial_gamma: float = 0.99,
        init: str | Sequence[str] = "naive",
        features: str = "fourier",
        order: int = 3,
        tilings: int = 5,
        tiles: int = 4,
        runs: int = 1,
        seed: int = 0,
    ) -> None:
        for name, fn in (("auxiliary", auxiliary), ("primary", primary)):
            if not isinstance(fn, RewardFunction):
                raise TypeError(f"{name}={fn!r}: expected a reward function")
        if parametrisation not in PARAMETRISATIONS:
            expected = ", ".join(PARAMETRISATIONS)
            raise ValueError(f"parametrisation={parametrisation!r}: expected one of {expected}")
        self.runs, self.seed = integer("runs", runs, 1), seed
        self.init = (init,) * runs if isinstance(init, str) else tuple(init)
        if len(self.init) != runs or not set(self.init) <= {"naive", "primary", "random"}:
            raise ValueError(
                f"init={init!r}: expected naive, primary or random, or {runs} of them, one a run"
            )
        number("initial_gamma", initial_gamma, 0.0, 1.0)
        if not 0.0 < initial_gamma < 1.0:
            raise ValueError(f"initial_gamma={initial_gamma}: expected a number inside (0, 1)")
        self.auxiliary, self.primary = auxiliary, primary
        self.parametrisation = parametrisation
        self.learn_primary, self.learn_gamma = learn_primary, learn_gamma
        self.initial_gamma, self.feature_kind = initial_gamma, features
        self.order, self.tilings, self.tiles = order, tilings, tiles
        self.collecting = False
        """Whether ``observe`` keeps the rewards of each step for ``collected``."""
        self._kept: list[Tensor] = []
        self._parts: tuple[Tensor, Tensor] | None = None
        self._paid: list[Tensor] = []

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether both rewards are."""
        return self.primary.markov and self.auxiliary.markov

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """Whether both rewards are, and rows are of one run."""
        return self.primary.rowwise and self.auxiliary.rowwise and self.runs == 1

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Create the weights, the first time."""
        self._check_rows(num_envs)
        if not hasattr(self, "weights"):
            kind = "plain" if self.parametrisation == "scalar" else self.feature_kind
            self.features = features(spaces.observation, kind, self.order, self.tilings, self.tiles)
            inputs = 1 if self.parametrisation == "scalar" else self.features.size
            hidden = _HIDDEN if self.parametrisation == "network" else 0
            self.head = Head(inputs, len(TERMS), hidden)
            self.weights = _Weights(self._initial_phi(), self._initial_c())
        super().bind(num_envs, device, spaces)

    def __call__(self, t: Transition) -> Tensor:
        """The weighted sum, (N,) float32; ``terms()`` has its parts."""
        self._parts = self.primary(t), self.auxiliary(t)
        return self._pay(t, *self._parts)

    def relabel(self, t: Transition) -> Tensor:
        """The weighted sum of the relabelled rewards."""
        paid, kept = self._paid, self._parts
        reward = self._pay(t, self.primary.relabel(t), self.auxiliary.relabel(t))
        self._paid, self._parts = paid, kept
        return reward

    def terms(self) -> dict[str, Tensor]:
        """phi_1, phi_2 r_p and phi_3 r_aux of the last call, (N,) each."""
        return dict(zip(TERMS, self._paid, strict=False))

    def observe(self, t: Transition) -> None:
        """Keep both rewards for ``collected``: memory cannot be scored again."""
        super().observe(t)
        if self.collecting:
            assert self._parts is not None
            self._kept.append(torch.stack(self._parts, -1))

    def collected(self) -> Tensor:
        """(T, N, 2): r_p and r_aux of the steps since the last call."""
        kept, self._kept = self._kept, []
        return torch.stack(kept)

    def update(self) -> dict[str, float | Tensor]:
        """What was learned: the discount (of R runs the mean), and the weights' means."""
        with torch.no_grad():
            return {**super().update(), "gamma_phi": self.discount(self.weights.c).mean()}

    # ---- for the agent that learns it ----------------------------------------------------------

    def coefficients(self, phi: Tensor, x: Tensor) -> Tensor:
        """phi_1, phi_2 and phi_3, (R, B, 3), by parameters (R, P) and features (R, B, F)."""
        found = self.head(phi, x[..., :1] if self.parametrisation == "scalar" else x)
        if self.learn_primary:
            return found
        first, primary, last = found.unbind(-1)
        return torch.stack([first, torch.ones_like(primary), last], -1)

    def combine(self, phi: Tensor, x: Tensor, parts: Tensor) -> Tensor:
        """The reward (R, B) of steps by features (R, B, F) and both rewards (R, B, 2)."""
        one, two, three = self.coefficients(phi, x).unbind(-1)
        return one + two * parts[..., 0] + three * parts[..., 1]

    def discount(self, c: Tensor) -> Tensor:
        """``gamma_phi`` of each run."""
        return torch.sigmoid(c)

    def _pay(self, t: Transition, primary: Tensor, auxiliary: Tensor) -> Tensor:
        for name, paid in (("primary", primary), ("auxiliary", auxiliary)):
            if paid.shape != t.valid.shape:
                raise RewardError(
                    f"{name}: paid shape {tuple(paid.shape)}, expected {tuple(t.valid.shape)}, one "
                    "number a row"
                )
        self._check_rows(len(primary))
        x = self.features(cast(Tensor, t.obs))
        x = x.reshape(self.runs, -1, x.shape[-1])
        one, two, three = self.coefficients(self.weights.phi, x).reshape(-1, 3).unbind(-1)
        self._paid = [one, two * primary, three * auxiliary]
        return self._paid[0] + self._paid[1] + self._paid[2]

    def _check_rows(self, rows: int) -> None:
        if rows % self.runs:
            raise ValueError(f"runs={self.runs}: {rows} rows cannot be shared equally")

    def _initial_phi(self) -> Tensor:
        """(R, P)."""
        generator = torch.Generator().manual_seed(self.seed)
        rows = []
        for init in self.init:
            if init == "random":
                scale = 1.0 / math.sqrt(self.head.inputs)
                rows.append(scale * torch.randn(self.head.size, generator=generator))
            else:
                start = torch.tensor([0.0, 1.0, 1.0 if init == "naive" else 0.0])
                rows.append(self.head.initial(start, generator))
        return torch.stack(rows)

    def _initial_c(self) -> Tensor:
        """(R,): that of the initial discount."""
        gamma = self.initial_gamma
        return torch.full((self.runs,), math.log(gamma / (1.0 - gamma)))
