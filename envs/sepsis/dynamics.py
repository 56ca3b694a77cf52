"""SepsisICU's dynamics: the ICU-Sepsis Markov decision process, batched (Choudhary et al. 2024)."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box
from rewardzoo.random import Rng
from rewardzoo.rewards.base import number

from .data import (
    ABSORBING,
    ACTION_LEAKS,
    DEATH,
    FEATURES,
    NUM_ACTIONS,
    NUM_STATES,
    SURVIVAL,
    Tables,
    tables,
)

_BITS = 32
_PAPER_COLUMNS = [i for i, name in enumerate(FEATURES) if name not in ACTION_LEAKS]
PAPER_FEATURES = tuple(FEATURES[i] for i in _PAPER_COLUMNS)
"""The 44 features of Sukovic and Radanovic."""

_ROW = 1 << (_BITS + 1)  # a row of thresholds spans [0, 2**32]; rows do not overlap


@dataclass(frozen=True)
class SepsisParams:
    """What is observed and how forbidden actions are treated; the model itself has no constants."""

    obs: str = "index"
    """``index`` (the state's number) or ``features`` (the state's mean patient)."""
    features: str = "paper44"
    """``paper44``, or ``all47``, which leaks the window's action into the observation."""
    obs_noise: float = 0.0
    """Spread of a patient around the state's mean, in units of the within-state deviation; 1 is
    the cohort's own (its variance within states is 1 minus the variance between them)."""
    inadmissible: str = "mean"
    """An action that clinicians took too rarely in a state: ``mean`` behaves as the average
    admissible one, ``terminate`` kills, ``raise`` raises (it looks, so the device waits)."""
    action_mask: bool = False
    """Observe a Dict of ``observation`` and ``action_mask`` (25,) int8, 1 where admissible."""

    def __post_init__(self) -> None:
        """Check the values."""
        choices = {
            "obs": ("index", "features"),
            "features": ("paper44", "all47"),
            "inadmissible": ("mean", "terminate", "raise"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {allowed}")
        number("obs_noise", self.obs_noise, 0.0)
        if self.obs == "index" and (self.obs_noise, self.features) != (0.0, "paper44"):
            raise ValueError(
                f"obs_noise={self.obs_noise} and features={self.features!r} change nothing with "
                "obs='index': give obs='features' too"
            )


class SepsisState(NamedTuple):
    """A batch of patients."""

    index: Tensor  # type: ignore[assignment]  # (N,) int64; hides tuple.index


class SepsisICU(FuncEnv):
    """Choose fluids and vasopressors for a patient with sepsis, every four hours.

    Dynamics: 713 clusters of patients, death (713), survival (714) and an absorbing state (715);
    the transition probabilities are those of the ``icu-sepsis`` package, drawn by the same inverse
    cumulative distribution: equal uniform numbers give equal successors.

    Observation: Discrete(716), the state's number; or, with ``obs="features"``, Box (44,) float32,
    the state's mean patient in normalised units (z-scores, logarithms first where skewed), with
    ``obs_noise`` times the within-state deviation of normal noise, drawn anew each step. The 44
    are those of Sukovic and Radanovic; ``features="all47"`` adds three of which two are the action.

    Action: Discrete(25), ``5 * fluids + vasopressor``, five levels each (none, then quartiles).

    Objective: 1 on survival, else 0; its mean over episodes is the survival rate.

    Start state: the cohort's distribution of first windows.

    End of episode: terminated on death or survival; truncated after 500 steps.

    Arguments: ``obs``, ``features``, ``obs_noise``, ``inadmissible``, ``action_mask``: see
    ``SepsisParams``.

    Data: tables estimated from MIMIC-III, published with the ``icu-sepsis`` package (MIT licence);
    they hold no patient's record.

    Reference returns: uniform policy .780071, clinicians .781845, optimal .875142, worst .632990
    (exact, undiscounted); with discount .99: .719095, .722158, .801334. A random policy does as
    well as clinicians: measure the distance to the optimum.

    Paper: Choudhary, Gupta, Thomas (2024), "ICU-Sepsis: A benchmark MDP built from real medical
    data".
    """

    Params = SepsisParams
    render_modes = ("rgb_array", "ansi")
    render_fps = 4

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: SepsisParams = self.params
        data = tables()
        self.action_space = spaces.Discrete(NUM_ACTIONS)
        self._cdf = _InverseCdf(*(torch.tensor(x, device=self.device) for x in _inverse_cdf()))
        self._sofa = torch.tensor(data.sofa, dtype=torch.float32, device=self.device)
        self._admissible = torch.tensor(data.admissible, device=self.device)
        space = spaces.Discrete(NUM_STATES) if p.obs == "index" else self._feature_space(data)
        self.observation_space: spaces.Space[Any] = space
        if p.action_mask:
            mask = spaces.MultiBinary(NUM_ACTIONS)
            self.observation_space = spaces.Dict(observation=space, action_mask=mask)

    def _feature_space(self, data: Tables) -> spaces.Space[Any]:
        """The space of feature observations; keeps their table and spreads."""
        p: SepsisParams = self.params
        kept = list(_PAPER_COLUMNS)
        if p.features == "all47":
            warnings.warn(
                "features='all47': max_dose_vaso and input_4hourly are the action", stacklevel=3
            )
            kept = list(range(len(FEATURES)))
        self.feature_names = tuple(FEATURES[i] for i in kept)
        centres = data.centres[:, kept]
        self._centres = torch.tensor(centres, dtype=torch.float32, device=self.device)
        within = np.sqrt(np.maximum(0.0, 1.0 - centres[:SURVIVAL].var(0)))
        self._noise = torch.tensor(p.obs_noise * within, dtype=torch.float32, device=self.device)
        return box(-np.inf, np.inf, (len(kept),))

    def initial(self, rng: Rng, params: Any = None) -> SepsisState:
        """A first window of the cohort."""
        return SepsisState(self._draw(self._cdf.start, rng))

    def transition(
        self, state: SepsisState, action: Tensor, rng: Rng, params: Any = None
    ) -> SepsisState:
        """Four hours later."""
        successor = self._draw(self._cdf.row_of[state.index, action], rng)
        mode = self.params.inadmissible
        if mode != "mean":
            allowed = self._admissible[state.index, action]
            if mode == "terminate":
                successor = torch.where(allowed, successor, DEATH)
            elif not bool(allowed.all()):
                row = int(allowed.logical_not().nonzero()[0, 0])
                raise ValueError(
                    f"action={int(action[row])} in row {row}: not admissible in state "
                    f"{int(state.index[row])}; use inadmissible='mean' or 'terminate' to allow it"
                )
        return SepsisState(successor)

    def observation(self, state: SepsisState, rng: Rng, params: Any = None) -> Any:
        """The state's number, or its noisy mean patient; with the mask of admissible actions."""
        seen = self._seen(state, rng)
        if not self.params.action_mask:
            return seen
        mask = self._admissible[state.index].to(torch.int8)
        return {"observation": seen, "action_mask": mask}

    def _seen(self, state: SepsisState, rng: Rng) -> Tensor:
        if self.params.obs == "index":
            return state.index
        centre = self._centres[state.index]
        if self.params.obs_noise == 0.0:
            return centre
        return centre + self._noise * rng.normal(centre.shape[1])

    def reward(
        self,
        state: SepsisState,
        action: Tensor,
        next_state: SepsisState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """1 on survival."""
        return (next_state.index == SURVIVAL).to(torch.float32)

    def terminal(self, state: SepsisState, rng: Rng, params: Any = None) -> Tensor:
        """Death, survival, or the state after them."""
        return state.index >= DEATH

    def state_info(self, state: SepsisState, params: Any = None) -> dict[str, Tensor]:
        """``sofa`` (N,) float32: the mean SOFA score of the state, 0 to 24."""
        return {"sofa": self._sofa[state.index]}

    def transition_matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The model for exact solvers.

        Returns:
            P (S, A, S), the objective's expectation R (S, A), and the start distribution (S,).
        """
        data = tables()
        transition = data.transition
        if self.params.inadmissible != "mean":
            dead = np.eye(NUM_STATES)[DEATH]
            transition = np.where(data.admissible[..., None], transition, dead)
        reward = transition[..., SURVIVAL].copy()
        reward[DEATH:] = 0.0
        return transition, reward, data.initial

    @property
    def terminal_states(self) -> np.ndarray:
        """(S,) bool."""
        return np.arange(NUM_STATES) >= DEATH

    @property
    def sofa_scores(self) -> np.ndarray:
        """(S,) float64, the mean SOFA score of each state."""
        return tables().sofa

    @property
    def expert_policy(self) -> np.ndarray:
        """(S, A) float64, how often clinicians chose each action; 0 in the terminal states.

        Inadmissible actions included: they are rare one by one, together up to .88 of a state.
        """
        return tables().expert_policy

    @property
    def expert_visits(self) -> np.ndarray:
        """(S,) float64, how often a patient is expected in each state under the clinicians."""
        data = tables()
        policy = data.expert_policy[:DEATH]
        chain = np.einsum("sa,sat->st", policy, data.transition[:DEATH, :, :DEATH])
        visits = np.zeros(NUM_STATES)
        visits[:DEATH] = np.linalg.solve(np.eye(DEATH) - chain.T, data.initial[:DEATH])
        return visits

    @property
    def evidence_table(self) -> np.ndarray:
        """(S, 44) float32, the mean patient of each state in the features of ``paper44``."""
        return tables().centres[:, _PAPER_COLUMNS].astype(np.float32)

    @property
    def evidence_names(self) -> tuple[str, ...]:
        """The 44 features of ``evidence_table``, in order."""
        return PAPER_FEATURES

    def describe_action(self, action: int) -> str:
        """An action in words: ``fluids level 2 (about 85 mL in 4 h), no vasopressor``."""
        from .clinical import describe_action

        return describe_action(action)

    def describe_feature(self, name: str, value: float) -> str:
        """A normalised feature in words and clinical units (approximate, but for SOFA)."""
        from .clinical import describe_feature

        return describe_feature(name, value)

    def describe_state(self, state: int) -> str:
        """A state's number and SOFA score."""
        from .clinical import describe_state

        return describe_state(state)

    def render_image(self, state: SepsisState, i: int) -> np.ndarray:
        """A frame (240, 420, 3) uint8: SOFA score, outcome and the largest deviations."""
        from .render import frame

        return frame(int(state.index[i]))

    def render_text(self, state: SepsisState, i: int) -> str:
        """One line: state, SOFA score, outcome."""
        from .render import line

        return line(int(state.index[i]))

    def _draw(self, row: Tensor, rng: Rng) -> Tensor:
        """A successor from each row of probabilities, by inverse cumulative distribution."""
        u = rng.bits() + row * _ROW
        return self._cdf.successors[torch.searchsorted(self._cdf.keys, u, right=True)]


class _InverseCdf(NamedTuple):
    """Thresholds of every distinct row of probabilities, in one sorted line of K numbers."""

    keys: Tensor  # (K,) int64, row * _ROW + threshold
    successors: Tensor  # (K,) int64, the state that is drawn below the threshold
    row_of: Tensor  # (S, A) int64, the row of a state and an action
    start: Tensor  # () int64, the row of the start distribution


@functools.cache
def _inverse_cdf() -> tuple[np.ndarray, ...]:
    """The fields of ``_InverseCdf``, made once a process.

    A uniform number is ``k / 2**32`` with an integer ``k``, so "threshold <= k / 2**32" is
    "ceil(threshold * 2**32) <= k": comparing integers is exact, and one search for
    ``row * _ROW + k`` serves all rows. The last threshold of a row is exactly ``2**32``, above any
    ``k``, so a search never leaves its row. Inadmissible actions of a state share one row: of
    17,900 rows 2,918 differ, and the tables fit into a processor's cache.
    """
    data = tables()
    rows = np.concatenate([data.transition.reshape(-1, NUM_STATES), data.initial[None]])
    seen: dict[bytes, int] = {}
    row = np.array([seen.setdefault(probs.tobytes(), len(seen)) for probs in rows])
    distinct = np.frombuffer(b"".join(seen)).reshape(len(seen), NUM_STATES)
    cdf = distinct.cumsum(-1)
    cdf /= cdf[:, -1:]
    numbers, successors = np.nonzero(distinct)
    thresholds = np.ceil(cdf[numbers, successors] * 2.0**_BITS).astype(np.int64)
    keys = numbers * _ROW + thresholds
    return keys, successors, row[:-1].reshape(NUM_STATES, NUM_ACTIONS), row[-1]


__all__ = [
    "ABSORBING",
    "DEATH",
    "PAPER_FEATURES",
    "SURVIVAL",
    "SepsisICU",
    "SepsisParams",
    "SepsisState",
]
