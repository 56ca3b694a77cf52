"""CALM: auxiliary rewards for subgoals that a detector finds in transitions (Pignatelli 2024).

An option ends where its subgoal is achieved; who decides that is a detector: rules with access to
the truth, a language model that reads the transition, or a table made from annotated ones.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, discount, number
from .calm_detectors import Detector, KeyRoomOracle, RandomDetector
from .calm_judged import JudgedDetector
from .calm_table import TableDetector

PAYMENTS = ("once", "additive", "potential")


@register_reward("calm")
class Calm(RewardFunction):
    """Pays for the subgoals that a detector finds achieved in a transition.

    Three ways to pay, with ``beta_k`` in [0, 1] what the detector says of subgoal ``k``:

    - ``once``: ``coef * sum_k beta_k`` over the subgoals not yet paid in this episode, so that the
      sum over an episode is at most ``coef * K``;
    - ``additive``: ``coef * sum_k beta_k`` at every detection, as in the paper. A subgoal that can
      be achieved again and again is then worth more than the task;
    - ``potential``: ``coef * (gamma * n' - n)`` with ``n`` the number of distinct subgoals achieved
      so far, 0 at terminal states: the optimal policies stay as they are (given the memory).

    The memory, which subgoals were achieved in this episode, is offered to the observation
    (``AppendRewardState``). To add to the environment's reward: ``objective + calm()``.

    Args:
        detector: a ``Detector``; or ``oracle`` for the rules of MiniHack's key rooms, ``random``
            for the negative control, ``smollm2`` or the address of a server for a language model
            that is asked in the background, or the path of a file of annotated transitions.
        coef: what an achieved subgoal is worth.
        pay: ``once``, ``additive`` or ``potential``.
        gamma: the agent's discount, or "agent"; matters for ``potential`` alone.

    Paper: Pignatelli et al. (2024), "Assessing the zero-shot capabilities of LLMs for action
    evaluation in RL". Paying once an episode is this project's default; the paper adds.
    """

    def __init__(
        self,
        detector: Detector | str = "oracle",
        coef: float = 0.5,
        pay: str = "once",
        gamma: float | str = "agent",
    ) -> None:
        if pay not in PAYMENTS:
            raise ValueError(f"pay={pay!r}: expected {', '.join(PAYMENTS)}")
        self.detector = make_detector(detector) if isinstance(detector, str) else detector
        self.coef = number("coef", coef)
        self.pay = pay
        if pay == "potential":
            self.gamma = discount(gamma)
        self.markov = pay == "additive" and self.detector.pure

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """No subgoal is achieved yet."""
        self.achieved = torch.zeros(num_envs, len(self.detector.subgoals), dtype=torch.bool)
        super().bind(num_envs, device, spaces)
        self.detector.bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """A new episode: no subgoal is achieved."""
        self.achieved = self.achieved & ~mask.unsqueeze(1)

    def __call__(self, t: Transition) -> Tensor:
        """The auxiliary reward, (N,) float32."""
        valid = t.valid.unsqueeze(1)
        found = torch.where(valid, self.detector.detect(t), 0.0)
        before, now = self.achieved, self.achieved | (found > 0)
        self.achieved = now
        if self.pay == "additive":
            return self.coef * found.sum(1)
        if self.pay == "once":
            return self.coef * torch.where(before, 0.0, found).sum(1)
        count = torch.where(t.terminated, 0.0, now.sum(1).to(torch.float32))
        shaping = self.check_gamma() * count - before.sum(1)
        return self.coef * torch.where(t.valid, shaping, 0.0)

    def relabel(self, t: Transition) -> Tensor:
        """For ``additive`` with a detector without memory: what the transition is worth alone."""
        if not self.markov:
            return super().relabel(t)
        return self.coef * self.detector.detect(t).sum(1)

    def observation_features(self) -> Tensor:
        """(N, K) float32, 1 where a subgoal was achieved in this episode."""
        return self.achieved.to(torch.float32)

    def observe(self, transition: Transition) -> None:
        """Let the detector see what it may have to ask about."""
        self.detector.observe(transition)

    def update(self) -> dict[str, float | Tensor]:
        """Let the detector ask and learn."""
        before = self.detector.version
        metrics: dict[str, float | Tensor] = dict(self.detector.update())
        self.version += self.detector.version - before
        return metrics

    def state_dict(self) -> dict[str, object]:
        """With the detector's; ``load_state_dict`` hands it back by the same name."""
        return {**super().state_dict(), "detector": self.detector.state_dict()}


def make_detector(text: str) -> Detector:
    """A detector by name: ``oracle``, ``random``, a language model, or a file of transitions.

    Args:
        text: ``oracle``, ``random``, ``smollm2``, the address of a server
            (``http://host:8000/v1``), or a file of annotated transitions.

    Raises:
        ValueError: for anything else.
    """
    if text == "oracle":
        return KeyRoomOracle()
    if text == "random":
        return RandomDetector()
    if text == "smollm2" or text.startswith(("http://", "https://")):
        return JudgedDetector(text)
    if Path(text).is_file():
        return TableDetector(text)
    raise ValueError(
        f"detector={text!r}: expected oracle, random, smollm2, "
        "http://HOST:PORT/v1 or a file of transitions"
    )
