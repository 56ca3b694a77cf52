"""Debate reward: a step is paid for where its action is justified against a baseline's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardError, RewardFunction, Spaces, integer, number
from .evidence import (
    Debate,
    Debater,
    GreedyDebater,
    Judging,
    check_num_evidence,
    check_utility,
    evidence_of,
    hold_debate,
)
from .evidence import utility as outcome_of
from .judge import LinearJudge, as_judging

FEEDBACK = ("debate", "full_state")
_CHUNK = 4096  # debates at once


@register_reward("debate")
class DebateReward(RewardFunction):
    """Pays ``(1 - lam) * scale * objective + lam * alpha * outcome of a debate``.

    In every step the agent's action is debated against the baseline's in the state acted on: the
    debater argues for both, a judge who sees only the features that were shown decides. An action
    equal to the baseline's, and a tie, pay 0. Both orders of speaking are played and averaged
    (which is what the paper's fair coin pays in expectation).

    Paid once a step, ``win01`` makes long stays pay: at the same chance to win, more steps earn
    more. ``sign`` also charges for lost debates and lengthens stays less.

    Observations are the features themselves, or numbers of states of an environment that offers
    ``evidence_table`` (then all debates are held once, at ``bind``).

    Args:
        judge: scores (evidence, shown, action), see ``Judge``; ``linear`` is the least-squares fit
            to the choices of the environment's ``expert_policy``.
        debater: chooses the feature to show from (features, shown, own action); ``greedy`` looks
            one move ahead.
        baseline: the actions to justify against: (S,) of them, a function of features, or
            ``expert`` for the most frequent one of ``expert_policy``.
        lam: weight of the debate against the objective, 0 to 1.
        alpha: what a won debate pays.
        scale: what the objective is multiplied by.
        utility: ``win01`` pays 1 for a win; ``sign`` also -1 for a loss; ``margin`` the difference
            of the scores.
        num_evidence: features shown in a debate, even.
        feedback: ``full_state`` shows the judge everything and holds no debate.

    Example:
        >>> import gymnasium, rewardzoo
        >>> from rewardzoo.rewards import VectorRewardWrapper
        >>> envs = gymnasium.make_vec("rewardzoo/SepsisICU-v0", num_envs=2)
        >>> fn = DebateReward(lam=1.0)
        >>> _ = VectorRewardWrapper(envs, fn).reset(seed=0)
        >>> print(fn.explain(350, 11).splitlines()[0])
        Patient in state 350, SOFA 6.5

    Paper: Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making".
    """

    def __init__(
        self,
        judge: nn.Module | Judging | str = "linear",
        debater: nn.Module | Debater | str = "greedy",
        baseline: Tensor | Callable[[Tensor], Tensor] | str = "expert",
        lam: float = 0.25,
        alpha: float = 5.0,
        scale: float = 15.0,
        utility: str = "win01",
        num_evidence: int = 6,
        feedback: str = "debate",
    ) -> None:
        self.lam = number("lam", lam, 0.0, 1.0, "0 is the objective alone, 1 the debate alone")
        self.alpha = number("alpha", alpha, 0.0)
        self.scale = number("scale", scale, 0.0)
        self.utility = check_utility(utility)
        self.num_evidence = integer("num_evidence", num_evidence, 2)
        if feedback not in FEEDBACK:
            raise ValueError(f"feedback={feedback!r}: expected one of {', '.join(FEEDBACK)}")
        self.feedback = feedback
        for name, value, word in (
            ("judge", judge, "linear"),
            ("debater", debater, "greedy"),
            ("baseline", baseline, "expert"),
        ):
            if isinstance(value, str) and value != word:
                raise ValueError(f"{name}={value!r}: expected {word!r} or an object")
        self.judge: Any = judge if isinstance(judge, str) else as_judging(judge)
        self.debater: Any = debater
        self.baseline: Any = baseline
        self.table: Tensor | None = None
        self._paid: dict[str, Tensor] = {}
        self._func: Any = None

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Take the environment's tables; hold all debates where states are numbered."""
        self._func = spaces.dynamics
        observed = spaces.observation
        if isinstance(observed, gym_spaces.Dict):
            observed = observed["observation"]
        self._numbered = isinstance(observed, gym_spaces.Discrete)
        if self._numbered:
            self._states = self._offer("evidence_table", "states are numbers")
        if isinstance(self.judge, str):
            self.judge = LinearJudge.of_policy(
                self._offer("evidence_table", "judge='linear'"),
                self._offer("expert_policy", "judge='linear'"),
                self._offer("expert_visits", "judge='linear'"),
            )
        if isinstance(self.debater, str):
            self.debater = GreedyDebater(self.judge)
        if isinstance(self.baseline, str):
            if not self._numbered:
                raise ValueError(
                    "baseline='expert': it is a table of states, and these observations are "
                    "features; give a function of the features"
                )
            self.baseline = self._offer("expert_policy", "baseline='expert'").argmax(1)
        if isinstance(self.baseline, Tensor) and not self._numbered:
            raise ValueError(
                "baseline: a table of states, and these observations are features; give a function "
                "of the features"
            )
        super().bind(num_envs, device, spaces)
        self._actions = int(spaces.action.n)  # type: ignore[attr-defined]
        if self._numbered:
            check_num_evidence(self.num_evidence, self._states.shape[1])
            self.table = self.tabulate()

    def __call__(self, t: Transition) -> Tensor:
        """The mixture; ``terms()`` has its two parts."""
        outcome = self._look_up(t.obs, t.action)
        self._paid = {
            "objective": (1.0 - self.lam) * self.scale * t.reward,
            "debate": self.lam * self.alpha * outcome,
        }
        return self._paid["objective"] + self._paid["debate"]

    def terms(self) -> dict[str, Tensor]:
        """What the objective and the debate paid in the last call."""
        return self._paid

    @torch.no_grad()
    def tabulate(self, utility: str | None = None) -> Tensor:
        """The expected outcome of the debate for every state and action, (S, A) float32.

        Args:
            utility: default: the reward's own; ``win01`` gives the chances to win.

        Raises:
            RewardError: if states are not numbered.
        """
        if not self._numbered:
            raise RewardError("tabulate: states are features, so there is no table of them")
        count = len(self._states)
        state = torch.arange(count, device=self._states.device).repeat_interleave(self._actions)
        action = torch.arange(self._actions, device=state.device).repeat(count)
        features, rival = self._states[state], self._rival(state)
        kind = check_utility(utility or self.utility)
        ranges = (slice(i, i + _CHUNK) for i in range(0, len(state), _CHUNK))
        parts = [self._outcome(features[i], action[i], rival[i], kind) for i in ranges]
        return torch.cat(parts).reshape(count, self._actions)

    @torch.no_grad()
    def debate(self, obs: Obs, action: Tensor, first: int = 0) -> tuple[Debate, Tensor]:
        """The debates of ``action`` (N,) against the baseline's, and who wins.

        Args:
            obs: observations.
            action: side 0 argues for it.
            first: the side that begins.

        Returns:
            The debates, and the judge's scores of both actions (N, 2).
        """
        seen = obs["observation"] if isinstance(obs, dict) else obs
        features = self._states[seen] if self._numbered else seen
        pair = torch.stack([action, self._rival(seen)], 1)
        end = self._hold(features, pair, first)
        evidence = evidence_of(features, end.shown)
        scores = [self.judge(evidence, end.shown, side) for side in pair.unbind(1)]
        return end, torch.stack(scores, 1)

    def explain(self, state: int | Tensor, action: int, first: int = 0) -> str:
        """One debate in words: what each side showed, and what the judge made of it.

        Args:
            state: its number, or the observed features (F,).
            action: the one to justify against the baseline's.
            first: the side that begins: 0 the action's, 1 the baseline's.
        """
        device = next((v.device for v in vars(self).values() if isinstance(v, Tensor)), None)
        seen = torch.as_tensor(state, device=device).unsqueeze(0)
        end, scores = self.debate(seen, torch.tensor([action], device=seen.device), first)
        features = (self._states[seen] if self._numbered else seen)[0]
        rival = int(self._rival(seen)[0])
        func = self._func
        say_action = getattr(func, "describe_action", lambda a: f"action {a}")
        names = getattr(func, "evidence_names", [f"feature {i}" for i in range(len(features))])
        say_feature = getattr(func, "describe_feature", lambda name, x: f"{name} {x:+.2f}")
        where = ""
        if self._numbered:
            say_state = getattr(func, "describe_state", lambda s: f"State {s}")
            where = say_state(int(seen[0]))
        lines = [
            where or "A patient",
            f"  proposed: {say_action(action)}",
            f"  baseline: {say_action(rival)}",
        ]
        if action == rival:
            return "\n".join([*lines, "  The same action: nothing to debate, paid 0."])
        sides = ("proposed", "baseline")
        for item, side in zip(end.order[0].tolist(), end.speaker[0].tolist(), strict=True):
            lines.append(f"  for the {sides[side]}: {say_feature(names[item], features[item])}")
        ours, theirs = scores[0].tolist()
        verdict = "the proposed action is justified" if ours > theirs else "it is not justified"
        lines.append(f"  judge: proposed {ours:+.2f}, baseline {theirs:+.2f}: {verdict}")
        return "\n".join(lines)

    def _look_up(self, obs: Obs, action: Tensor) -> Tensor:
        seen = obs["observation"] if isinstance(obs, dict) else obs
        if self.table is not None:
            return self.table[seen, action]
        return self._outcome(seen, action, self._rival(seen), self.utility)

    def _rival(self, seen: Tensor) -> Tensor:
        """The baseline's action, (N,)."""
        if isinstance(self.baseline, Tensor):
            return self.baseline[seen]
        rival: Tensor = self.baseline(self._states[seen] if self._numbered else seen)
        return rival

    def _outcome(self, features: Tensor, action: Tensor, rival: Tensor, kind: str) -> Tensor:
        pair = torch.stack([action, rival], 1)
        ends = [self._hold(features, pair, first).shown for first in self._orders()]
        paid = sum(outcome_of(self.judge, features, shown, pair, kind) for shown in ends)
        assert isinstance(paid, Tensor)
        return paid / len(ends)

    def _orders(self) -> tuple[int, ...]:
        return (0, 1) if self.feedback == "debate" else (0,)

    def _hold(self, features: Tensor, pair: Tensor, first: int) -> Debate:
        if self.feedback == "full_state":
            count, size = features.shape
            order = torch.arange(size, device=features.device).expand(count, -1)
            return Debate(torch.ones_like(features, dtype=torch.bool), order, order % 2)
        begins = torch.full_like(pair[:, 0], first)
        sides = (self.debater, self.debater)
        return hold_debate(sides, features, pair, begins, self.num_evidence)

    def _offer(self, name: str, why: str) -> Tensor:
        found = getattr(self._func, name, None)
        if found is None:
            raise ValueError(f"{why}: this environment offers no {name}; give the object itself")
        table = found.clone() if isinstance(found, Tensor) else torch.tensor(found)
        return table.to(torch.float32) if table.is_floating_point() else table
