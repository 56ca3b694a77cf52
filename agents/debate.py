"""Debaters trained by masked PPO: alone, against themselves, or against a confuser.

Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making". A debater
chooses the next feature to show; a *confuser* is trained against a debater that no longer learns,
arguing for the action that the judge's data rejected. One difference to the paper: in self-play the
learner argues for either action by a fair coin, so that its frozen copy has learned to argue for
the rejected one too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor, nn

from rewardzoo.checkpoint import load_checkpoint, save_checkpoint
from rewardzoo.rewards.evidence import Debater, Judging, hold_debate, margin, observation

from .common.hyperparameters import build, hyper
from .common.layers import MLP
from .ppo import PPO

MODES = ("isolated", "precommit", "selfplay", "maxmin")
Progress = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class DebaterHyperparameters:
    """How debaters are trained; the paper's settings of PPO, with a smaller network."""

    env: str = hyper("rewardzoo/SepsisDebate-v0", "id of the debate")
    updates: int = hyper(300, "PPO updates of the agent", low=1)
    num_debates: int = hyper(512, "debates an update", low=1)
    generation: int = hyper(10, "agent updates between two copies of the opponent", low=1)
    confuser_updates: int = hyper(20, "confuser updates a generation of maxmin", low=1)
    hidden: tuple[int, ...] = hyper((128, 128), "widths of the hidden layers")
    learning_rate: float = hyper(1e-3, "step size of Adam", low=0.0)
    gamma: float = hyper(0.9, "discount", low=0.0, high=1.0)
    gae_lambda: float = hyper(0.7, "bias against variance of the advantages", low=0.0, high=1.0)
    clip_range: float = hyper(0.1, "how far the probability ratio may move", low=0.0)
    ent_coef: float = hyper(0.01, "weight of the entropy bonus", low=0.0)
    num_epochs: int = hyper(2, "passes over a batch of debates", low=1)
    num_minibatches: int = hyper(4, "gradient steps a pass", low=1)
    max_grad_norm: float = hyper(1.0, "gradients are scaled down to this norm", low=0.0)

    @property
    def ppo(self) -> dict[str, Any]:
        """The settings that are PPO's own."""
        names = (
            *("learning_rate", "gamma", "gae_lambda", "clip_range", "ent_coef", "num_epochs"),
            *("num_minibatches", "max_grad_norm", "hidden"),
        )
        return {name: getattr(self, name) for name in names}


class PolicyDebater(nn.Module):
    """A trained policy that shows the most likely feature; it no longer learns.

    Args:
        policy: (N, 2 F + A) observations to (N, F) logits.
        num_actions: A.
    """

    def __init__(self, policy: MLP, num_actions: int) -> None:
        super().__init__()
        self.policy = copy.deepcopy(policy).requires_grad_(False)
        self.num_actions = num_actions

    @torch.no_grad()
    def forward(self, features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        """The feature to show next, (N,) int64, never one that was shown."""
        logits = self.policy(observation(features, shown, action, self.num_actions))
        return logits.masked_fill(shown, -torch.inf).argmax(1)

    def save(self, path: str | Path) -> None:
        """Write the policy."""
        layers = [{"weight": x.weight, "bias": x.bias} for x in self.policy.layers]
        content = {"layers": layers, "num_actions": self.num_actions}
        save_checkpoint(path, "debater", content)

    @classmethod
    def load(cls, path: str | Path) -> PolicyDebater:
        """Read what ``save`` wrote."""
        content = load_checkpoint(path, "debater")
        layers = content["layers"]
        sizes = [layers[0]["weight"].shape[1], *(len(layer["bias"]) for layer in layers)]
        policy = MLP(sizes, "tanh", 1.0)
        for own, saved in zip(policy.layers, layers, strict=True):
            own.weight.data.copy_(saved["weight"])
            own.bias.data.copy_(saved["bias"])
        return cls(policy, content["num_actions"])


class Side:
    """One debater in training: a PPO agent on debates against a given opponent."""

    def __init__(
        self,
        hp: DebaterHyperparameters,
        seed: int,
        opponent: Debater | None,
        role: str,
        **debate: Any,
    ) -> None:
        self.envs = gymnasium.make_vec(
            hp.env, num_envs=hp.num_debates, opponent=opponent, role=role, **debate
        )
        moves = self.envs.func.params.num_evidence // (1 if opponent is None else 2)
        # Every debate ends with the rollout, so an opponent changes only between debates.
        self.agent = PPO(self.envs, seed=seed, num_steps=moves, **hp.ppo)
        self.steps = moves * hp.num_debates

    def meet(self, opponent: Debater) -> None:
        """Debate another opponent from the next debate on."""
        self.envs.func.opponent = opponent

    def learn(self, updates: int, report: Callable[[dict[str, float]], None]) -> None:
        """Make PPO updates."""

        def after(agent: PPO, metrics: dict[str, float]) -> bool:
            report(metrics)
            return True

        self.agent.learn(updates * self.steps, callback=after, reset_num_timesteps=False)

    def debater(self) -> PolicyDebater:
        """A copy of the policy as it is now."""
        return PolicyDebater(self.agent.network.policy_head, self.envs.func.source.num_actions)


def train_debater(
    mode: str,
    seed: int = 0,
    judge: Judging | None = None,
    progress: Progress = lambda update, metrics: None,
    debate: dict[str, Any] | None = None,
    **hyperparameters: Any,
) -> PolicyDebater:
    """Train a debater.

    Args:
        mode: ``isolated`` shows all features itself, for the preferred action; ``selfplay`` meets
            a frozen copy of itself; ``precommit`` does so with each side showing its half at once;
            ``maxmin`` meets a confuser that is trained along with it, more often than itself.
        seed: of parameters and debates.
        judge: of the debates; default: the environment's.
        progress: called after every update of the agent with its number and metrics.
        debate: more parameters of the environment.
        **hyperparameters: see ``DebaterHyperparameters``.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    hp = build(DebaterHyperparameters, hyperparameters)
    given: dict[str, Any] = {**(debate or {}), "judge": judge}
    done = 0

    def report(metrics: dict[str, float]) -> None:
        nonlocal done
        done += 1
        progress(done, metrics)

    if mode == "isolated":
        side = Side(hp, seed, None, "proponent", **given)
        side.learn(hp.updates, report)
        return side.debater()
    role = "proponent" if mode == "maxmin" else "either"
    if mode == "precommit":
        given["turns"] = "precommit"
    side = Side(hp, seed, _first_shown, role, **given)
    rival = None
    if mode == "maxmin":
        rival = Side(hp, seed + 1, side.debater(), "confuser", **given)
    while done < hp.updates:
        if rival is None:
            side.meet(side.debater())
        else:
            rival.meet(side.debater())
            rival.learn(hp.confuser_updates, lambda metrics: None)
            side.meet(rival.debater())
        side.learn(min(hp.generation, hp.updates - done), report)
    return side.debater()


def train_confuser(
    agent: Debater,
    seed: int = 0,
    judge: Judging | None = None,
    progress: Progress = lambda update, metrics: None,
    debate: dict[str, Any] | None = None,
    **hyperparameters: Any,
) -> PolicyDebater:
    """Train a confuser against an agent that does not learn; arguments as ``train_debater``."""
    hp = build(DebaterHyperparameters, hyperparameters)
    side = Side(hp, seed, agent, "confuser", **{**(debate or {}), "judge": judge})
    done = 0

    def report(metrics: dict[str, float]) -> None:
        nonlocal done
        done += 1
        progress(done, metrics)

    side.learn(hp.updates, report)
    return side.debater()


def _first_shown(features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
    """Holds the opponent's place until the first is known: the first feature not shown yet."""
    return shown.to(torch.int8).argmin(1)


class Score(NamedTuple):
    """How an agent fares in N debates for the preferred action."""

    win: float  # the judge prefers it
    margin: float  # mean difference of scores
    error: float  # standard error of ``win``


@torch.no_grad()
def score(
    features: Tensor,
    pair: Tensor,
    judge: Judging,
    agent: Debater,
    confuser: Debater | None = None,
    num_evidence: int = 6,
    turns: str = "alternate",
) -> Score:
    """How often the judge prefers the action that ``agent`` argues for.

    Args:
        features: (N, F).
        pair: (N, 2), the agent's action and the other.
        judge: decides.
        agent: argues for ``pair[:, 0]``.
        confuser: argues for ``pair[:, 1]``, begins every second debate; None: nobody does, and
            the agent shows all features itself.
        num_evidence: features shown.
        turns: ``alternate`` or ``precommit`` (the agent begins).
    """
    first = torch.arange(len(features), device=features.device) % 2
    if turns == "precommit":
        first = torch.zeros_like(first)
    if confuser is None:
        alone = pair[:, :1].expand(-1, 2)
        end = hold_debate((agent, agent), features, alone, first, num_evidence)
    else:
        end = hold_debate((agent, confuser), features, pair, first, num_evidence, turns)
    found = margin(judge, features, end.shown, pair)
    win = (found > 0).to(torch.float64)
    return Score(float(win.mean()), float(found.mean()), float(win.std()) / len(win) ** 0.5)


__all__ = [
    "MODES",
    "DebaterHyperparameters",
    "PolicyDebater",
    "Score",
    "Side",
    "score",
    "train_confuser",
    "train_debater",
]
