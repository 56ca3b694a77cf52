"""The debate for two agents, as PettingZoo's turn-based and parallel environments.

A batch of one of ``DebateGame``, so seed ``s`` deals the case of row 0 of a batch seeded with
``s``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from rewardzoo.extras import require
from rewardzoo.functional import box
from rewardzoo.random import Rng
from rewardzoo.rewards.evidence import Judging
from rewardzoo.transition import to_numpy

from .game import DebateGame, DebateState
from .patients import Patients, Source

_pettingzoo = require("pettingzoo", "pettingzoo")
AECEnv, ParallelEnv = _pettingzoo.AECEnv, _pettingzoo.ParallelEnv
wrappers = require("pettingzoo.utils", "pettingzoo").wrappers
AGENTS = ("proponent_0", "proponent_1")


class _Table:
    """One debate, and what both kinds of environment say of it."""

    def __init__(
        self, source: Source | None, judge: Judging | None, num_evidence: int, utility: str
    ) -> None:
        source = Patients() if source is None else source
        self.game = DebateGame(source, judge, num_evidence, utility)
        size = len(source.feature_names)
        # A feature may have any value; Box's ends must hold them all.
        width = 2 * size + source.num_actions
        self.observation_spaces = {
            agent: spaces.Dict(
                observation=box(-np.inf, np.inf, (width,)),
                action_mask=spaces.Box(0, 1, (size,), np.int8),
            )
            for agent in AGENTS
        }
        self.action_spaces = {agent: spaces.Discrete(size) for agent in AGENTS}
        self._episode = 0
        self._seed: int | None = None
        self._np_random: np.random.Generator | None = None
        self.state: DebateState | None = None

    def deal(self, seed: int | None) -> None:
        """Start the next debate; a seed starts the sequence of debates anew."""
        if seed is not None or self._seed is None:
            if seed is None:
                self._np_random, _ = gymnasium.utils.seeding.np_random(None)
                seed = int(self._np_random.integers(2**31))
            self._seed, self._episode = seed, 0
        else:
            self._episode += 1
        counters = (torch.tensor([x]) for x in (self._seed, self._episode))
        self.state = self.game.deal(Rng(*counters, 0))

    @property
    def live(self) -> DebateState:
        """The running debate."""
        if self.state is None:
            raise gymnasium.error.ResetNeeded("call reset() before anything else")
        return self.state

    @property
    def mover(self) -> str:
        """The agent whose turn it is."""
        return AGENTS[int(self.game.to_move(self.live)[0])]

    @property
    def over(self) -> bool:
        """Whether all features were shown."""
        return self.live.turn >= self.game.num_evidence

    def observe(self, agent: str) -> dict[str, np.ndarray]:
        """What an agent sees."""
        player = torch.tensor([AGENTS.index(agent)])
        found = self.game.observe(self.live, player)
        return {k: to_numpy(v)[0] for k, v in found.items()}

    def play(self, agent: str, item: Any) -> None:
        """Show a feature.

        Raises:
            ValueError: if it was shown before.
        """
        index = int(item)
        if bool(self.live.shown[0, index]):
            name = self.game.source.feature_names[index]
            raise ValueError(
                f"action={index}: {agent} shows {name!r}, which was shown before; choose where "
                "observation['action_mask'] is 1"
            )
        with torch.no_grad():
            self.state = self.game.play(self.live, torch.tensor([index]))

    def utilities(self) -> dict[str, float]:
        """What both get."""
        with torch.no_grad():
            paid = self.game.utilities(self.live)[0].tolist()
        return dict(zip(AGENTS, paid, strict=True))

    def describe(self) -> str:
        """The evidence so far, in one line."""
        state = self.live
        names = self.game.source.feature_names
        shown = state.shown[0].nonzero().squeeze(1).tolist()
        evidence = ", ".join(f"{names[i]} {float(state.features[0, i]):+.2f}" for i in shown)
        return f"actions {state.actions[0].tolist()}: {evidence or 'nothing shown'}"


class raw_env(AECEnv):  # noqa: N801  (PettingZoo's name)
    """Two agents show features in turn; the last move is paid.

    ``proponent_0`` argues for the treatment that clinicians chose, ``proponent_1`` for another.
    Observations are ``{"observation": (113,) float32, "action_mask": (44,) int8}``; actions
    ``Discrete(44)``; the sum of both rewards is 0 (but for ``utility="win01"``).

    Args:
        source: deals the cases; default: ``Patients()``.
        judge: scores (evidence, shown, action); default: the source's.
        num_evidence: features shown in a debate, even.
        utility: ``sign``, ``win01`` or ``margin``.
        render_mode: None or ``ansi``.
    """

    metadata = {
        "render_modes": ["ansi"],
        "name": "sepsis_debate_v0",
        "is_parallelizable": False,
    }

    def __init__(
        self,
        source: Source | None = None,
        judge: Judging | None = None,
        num_evidence: int = 6,
        utility: str = "sign",
        render_mode: str | None = None,
    ) -> None:
        super().__init__()
        self._table = _Table(source, judge, num_evidence, utility)
        self.render_mode = render_mode
        self.possible_agents = list(AGENTS)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """What ``agent`` sees."""
        return self._table.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The features."""
        return self._table.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Deal a case; a fair coin decides who begins."""
        self._table.deal(seed)
        self.agents = list(AGENTS)
        self.rewards = dict.fromkeys(AGENTS, 0.0)
        self._cumulative_rewards = dict.fromkeys(AGENTS, 0.0)
        self.terminations = dict.fromkeys(AGENTS, False)
        self.truncations = dict.fromkeys(AGENTS, False)
        self.infos = {agent: {} for agent in AGENTS}
        self.agent_selection = self._table.mover

    def observe(self, agent: str) -> dict[str, np.ndarray]:
        """Features, marks and the agent's own treatment."""
        return self._table.observe(agent)

    def step(self, action: Any) -> None:
        """Show a feature."""
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._table.play(agent, action)
        self._cumulative_rewards[agent] = 0.0
        self.rewards = self._table.utilities()
        if self._table.over:
            self.terminations = dict.fromkeys(AGENTS, True)
        self.agent_selection = self._table.mover
        self._accumulate_rewards()

    def render(self) -> str | None:
        """The evidence so far."""
        return None if self.render_mode is None else self._table.describe()

    def close(self) -> None:
        """Nothing is open."""


def env(**kwargs: Any) -> AECEnv:
    """The turn-based environment with PettingZoo's checks; arguments as ``raw_env``."""
    return wrappers.OrderEnforcingWrapper(wrappers.AssertOutOfBoundsWrapper(raw_env(**kwargs)))


class parallel_env(ParallelEnv):  # noqa: N801  (PettingZoo's name)
    """The same debate with an action of every agent in every step.

    Only the action of the agent whose turn it is counts: ``info[agent]["to_move"]`` says which.

    Args:
        source: see ``raw_env``, as all others.
        judge: scores (evidence, shown, action).
        num_evidence: features shown in a debate, even.
        utility: ``sign``, ``win01`` or ``margin``.
        render_mode: None or ``ansi``.
    """

    metadata = {"render_modes": ["ansi"], "name": "sepsis_debate_v0"}

    def __init__(
        self,
        source: Source | None = None,
        judge: Judging | None = None,
        num_evidence: int = 6,
        utility: str = "sign",
        render_mode: str | None = None,
    ) -> None:
        self._table = _Table(source, judge, num_evidence, utility)
        self.render_mode = render_mode
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """What ``agent`` sees."""
        return self._table.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The features."""
        return self._table.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Deal a case; a fair coin decides who begins."""
        self._table.deal(seed)
        self.agents = list(AGENTS)
        return self._observations(), self._infos()

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Show the feature of the agent whose turn it is."""
        mover = self._table.mover
        if mover not in actions:
            raise ValueError(f"actions={actions}: expected one of {mover!r}, whose turn it is")
        self._table.play(mover, actions[mover])
        over = dict.fromkeys(AGENTS, self._table.over)
        out = (
            self._observations(),
            self._table.utilities(),
            over,
            dict.fromkeys(AGENTS, False),
            self._infos(),
        )
        if self._table.over:
            self.agents = []
        return out

    def render(self) -> str | None:
        """The evidence so far."""
        return None if self.render_mode is None else self._table.describe()

    def close(self) -> None:
        """Nothing is open."""

    def _observations(self) -> dict[str, Any]:
        return {agent: self._table.observe(agent) for agent in AGENTS}

    def _infos(self) -> dict[str, Any]:
        return {agent: {"to_move": agent == self._table.mover} for agent in AGENTS}
