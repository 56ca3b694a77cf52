"""KneeOA's dynamics: skip or visit, on trajectories that no action changes (Nguyen et al. 2024)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box
from rewardzoo.random import Rng
from rewardzoo.rewards.active_sensing import Prices, visit_reward
from rewardzoo.rewards.base import integer, number

from . import cohort as cohorts
from .cohort import NEVER, Cohort
from .simulator import VISITS, KneeSimulator

SKIP, VISIT, ASK = 0, 1, 2


@dataclass(frozen=True)
class KneeOAParams:
    """Whose trajectories, what a visit reveals, and what it is worth."""

    source: str = "sim"
    """``sim``, or the path of a recorded cohort: a tidy table (CSV) or a folder of OAI tables."""
    patients: int = 20_000
    """How many patients are simulated, over all five sites."""
    cohort_seed: int = 0
    """Which simulated patients."""
    split: str = "train"
    """``train``, the patients of all sites but ``test_site``; ``test``, those of that site; the
    features are scaled by the range of the former in both."""
    test_site: str = "E"
    """One of A to E."""
    horizon: int = 4
    """Visits to decide about, 1 to 6."""
    progression: str = "jsw"
    """What counts: ``jsw``, a loss of 0.7 mm; ``kl``, a rise by a grade; ``sf12``, a fall by 7
    points (of the patient)."""
    reward_mode: str = "jsw"
    """``jsw`` pays the loss that is found; ``qaly`` pays every progression alike."""
    th: float = 0.7
    """Millimetres; a smaller loss that is found is worth nothing."""
    ad: float = 0.3
    """What a skipped visit without progression earns, in units of ``conversion``."""
    conversion: float = 2.0
    """Money for a millimetre."""
    visit_cost: float = 0.5
    """Money for a visit."""
    late_coef: float = 0.5
    """What a visit after the progression loses, in units of ``conversion``."""
    distance: str = "one"
    """Loss missed by a skipped visit: ``one``, the worse knee's; ``both``, the root of the sum of
    squares."""
    use_exp: bool = True
    """Whether rewards grow and decay with the distance to the next progression."""
    early_stop: bool = False
    """Whether an episode ends with a missed or late progression."""
    drain_backlog: bool = False
    """Whether a visit settles all progressions up to it; the paper settles one a visit."""
    marker: str = "both"
    """Whose joint space width is observed: ``both`` knees', only the ``right`` one's, or ``none``
    (the paper: the reward's variable is left out of the input)."""
    knees: str = "both"
    """Which knees are observed at all: ``both``, or only the ``right`` one; both are paid for."""
    questionnaire_cost: float | None = None
    """With a number there is a third action: for that price, ask for everything but the
    radiograph."""
    allow_single_knee: bool = False
    """Take recorded patients with one knee; the other one's features are -1."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, allowed in {
            "split": ("train", "test"),
            "progression": ("jsw", "kl", "sf12"),
            "reward_mode": ("jsw", "qaly"),
            "distance": ("one", "both"),
            "marker": ("both", "right", "none"),
            "knees": ("both", "right"),
            "test_site": cohorts.SITES,
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {allowed}")
        integer("horizon", self.horizon, 1)
        if self.horizon > VISITS - 1:
            raise ValueError(f"horizon={self.horizon}: expected an integer <= {VISITS - 1}")
        integer("patients", self.patients, 10)
        integer("cohort_seed", self.cohort_seed, 0)
        for name in ("th", "ad", "conversion", "visit_cost", "late_coef"):
            number(name, getattr(self, name), 0.0)
        if self.questionnaire_cost is not None:
            number("questionnaire_cost", self.questionnaire_cost, 0.0)


class KneeOAState(NamedTuple):
    """A batch of patients, and what the last decision was; all but two fields are (N,) int64."""

    patient: Tensor
    visit: Tensor  # decisions made so far
    last: Tensor  # the last visit that took place
    asked: Tensor  # the last visit or questionnaire
    pointer: Tensor  # progressions settled
    upcoming: Tensor  # visit of the next unsettled progression, NEVER if there is none
    taken: Tensor  # bit t is set if visit t took place
    action: Tensor
    event: Tensor  # code of rewards.active_sensing.EVENTS
    lag: Tensor  # visits between the decision and the next progression
    due: Tensor  # visit of the progression that the decision was about, or NEVER
    found: Tensor  # (N,) float64, mm
    missed: Tensor  # (N,) float64, mm


class KneeOA(FuncEnv):
    """Decide before each yearly visit of a patient with two knees whether it shall take place.

    Dynamics: a patient's trajectory is fixed and no action changes it; actions change what is seen
    and paid. A progression is a loss of 0.7 mm of medial joint space in either knee since
    baseline or since the last progression. A skipped visit reveals nothing; one that takes place
    reveals both knees and the questionnaire as of that day.

    Observation: Box (24,) float32, the record of the last visit that took place: age, body mass
    index, SF-12; for each knee the Kellgren-Lawrence grade (one-hot), joint space width, WOMAC,
    injury, surgery; sex; each scaled to [0, 1] by the training patients' range; then the number
    of that visit and the number of decisions made. ``func.feature_names`` lists them.

    Action: Discrete(2): 0 skip, 1 visit. With ``questionnaire_cost``, Discrete(3): 2 asks by post
    for everything but the radiograph, and counts as a skip.

    Objective: with ``s`` the distance in visits to the next progression divided by the horizon
    (``horizon + 1`` stands for never), ``dA`` the loss found since the last visit and ``dB`` the
    loss at the missed progression (each the worse knee's), ``C`` the conversion and ``h`` the
    visit's cost: a skip before it earns ``ad C``, a skip at or after it loses ``C exp(s) dB``,
    every time until a visit; a visit before it earns ``C exp(-s) dA [dA >= th] - h``, one at it
    ``C dA [dA >= th] - h``, one after it loses ``C late_coef exp(s) dB + h``.

    Start state: a patient drawn uniformly; the baseline visit has taken place.

    End of episode: terminated after ``horizon`` decisions.

    Arguments: see ``KneeOAParams``.

    Data: ``source="sim"`` draws patients from published figures (below); a path reads a recorded
    cohort, a tidy table or the tables of the Osteoarthritis Initiative, which are available on
    registration and not part of this package.

    Calibration: ``python -m rewardzoo.envs.knee_oa.calibration`` compares 50,000 simulated patients
    with published figures.

    | figure | simulated | published | source | |
    |---|---|---|---|---|
    | share of women | 0.584 | 0.57 to 0.59 | OAI, PMC6284324 | within 10 % |
    | median age, years | 61.3 | 61 | OAI, PMC6284324 | within 10 % |
    | median body mass index | 28.6 | 27.8 to 29.7 | OAI, PMC6284324 | within 10 % |
    | worse knee of grade 0 | 0.258 | 0.266 | OAI, PMC6284324 | within 10 % |
    | worse knee of grade 1 | 0.157 | 0.155 | OAI, PMC6284324 | within 10 % |
    | worse knee of grade 2 | 0.31 | 0.309 | OAI, PMC6284324 | within 10 % |
    | worse knee of grade 3 | 0.205 | 0.203 | OAI, PMC6284324 | within 10 % |
    | worse knee of grade 4 | 0.0687 | 0.0677 | OAI, PMC6284324 | within 10 % |
    | mm a year, stable knees, least grade | 0.0568 | 0.06 to 0.19 | Ratzlaff 2018 | within 10 % |
    | mm a year, stable knees, greatest | 0.15 | 0.06 to 0.19 | Ratzlaff 2018 | within 10 % |
    | mm in the year from grade 0 to 1 | 0.237 | 0.18 to 0.28 | Ratzlaff 2018 | within 10 % |
    | mm in the year from grade 0 to 2 | 0.287 | 0.18 to 0.28 | Ratzlaff 2018 | within 10 % |
    | mm in the year from grade 1 to 2 | 0.289 | 0.18 to 0.28 | Ratzlaff 2018 | within 10 % |
    | mm in the year from grade 2 to 4 | 1.29 | 1.23 | Ratzlaff 2018 | within 10 % |
    | grade 0-1 to 3 or more in 4 years | 0.0506 | 0.072 | Driban 2016 | missed |
    | two grades or more in 4 years | 0.092 | 0.124 | Driban 2016 | missed |
    | more than 1 mm in 4 years | 0.085 | 0.155 | Driban 2016 | missed |
    | to grade 2 or more, knees a year | 0.0411 | 0.036 | Shunyi study 2021 | missed |
    | to grade 2 or more, persons a year | 0.0684 | 0.057 | Shunyi study 2021 | missed |
    | interquartile range of age, years | 12.4 | 16 | OAI, PMC6284324 | missed |
    | standardised response over 3 years | 0.807 | 0.3 to 0.5 | Neumann 2009 | missed |
    | mm in the year from grade 0 to 3 | none | 1.62 | Ratzlaff 2018 | missed |

    Missed (grade 0-1 to 3 or more in 4 years, two grades or more in 4 years, more than 1 mm in
    4 years): the published knees were selected for risk.
    Missed (to grade 2 or more, knees a year, to grade 2 or more, persons a year): OAI's
    participants were recruited for risk, and are simulated as such.
    Missed (interquartile range of age, years): a cut-off normal distribution has lighter
    shoulders.
    Missed (standardised response over 3 years): losses of a knee are more alike from year to
    year than real ones.
    Missed (mm in the year from grade 0 to 3): grades rise by two at most.

    Reference returns: per simulated patient of the test site, at the default prices and at th .5,
    ad .5: always visit -1.53, -1.27; never -.61, .60; every second year -.21, .61; an oracle 2.80,
    4.19; Double DQN .47, 1.62 (experiment knee_oa, five seeds). Learn from the squared error: with
    Huber's, which is no estimate of a mean, rare dear misses count too little (.17).

    Paper: Nguyen, Nguyen, Panfilov, Tiulpin (2024), "Active sensing of knee osteoarthritis
    progression with reinforcement learning".
    """

    Params = KneeOAParams
    render_modes = ("rgb_array", "ansi")
    render_fps = 2
    per_knee = False

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: KneeOAParams = self.params
        # Files may be mended while the process lives: only simulated patients are kept.
        read = _simulated if p.source == "sim" else load_cohort
        chosen, scale, self.dropped = read(
            p.source, p.patients, p.cohort_seed, p.horizon, p.split, p.test_site,
            p.allow_single_knee, self.per_knee,
        )  # fmt: skip
        table, names, told = cohorts.features(chosen, scale, p.marker, p.knees)
        self.cohort: Cohort = chosen
        self.feature_names: tuple[str, ...] = (*names, "last_visit", "decisions")
        self.action_space = spaces.Discrete(2 if p.questionnaire_cost is None else 3)
        visits = p.horizon + 1
        if p.questionnaire_cost is not None:
            self.feature_names = (*self.feature_names, "last_answer")
        self.observation_space: spaces.Space[Any] = box(-np.inf, np.inf, (len(self.feature_names),))
        found = progressions(chosen, p.progression)
        here = self.device
        self.phi = chosen.jsw.masked_fill(~chosen.present.unsqueeze(1), 0.0).flatten(0, 1).to(here)
        self.events = cohorts.event_table(found).to(here)
        self._events = self.events.flatten()
        self._columns = self.events.shape[1]
        self._features = table.flatten(0, 1).to(here)
        self._told = told.to(here)
        self._visits = visits
        lags = [i / p.horizon if p.use_exp else 0.0 for i in range(visits + 1)]
        # Tables, so that a row of a batch gets the same bits as a batch of one.
        self._delay = torch.tensor(lags, dtype=torch.float64, device=here)
        self._growth = self._delay.new_tensor([math.exp(s) for s in lags])
        self._decay = self._delay.new_tensor([math.exp(-s) for s in lags])
        self.prices = Prices(
            p.conversion, p.visit_cost, p.th, p.ad, p.late_coef, p.reward_mode, self.per_knee
        )

    def initial(self, rng: Rng, params: Any = None) -> KneeOAState:
        """A patient after the baseline visit."""
        return self.admit(rng.integers(0, len(self.cohort)))

    def admit(self, patient: Tensor) -> KneeOAState:
        """The patients with these numbers (N,) int64 in the cohort, after the baseline visit."""
        zero = torch.zeros_like(patient)
        nothing = zero.to(torch.float64)
        taken = zero + 1
        due = self._next(patient, zero)
        return KneeOAState(
            patient, zero, zero, zero, zero, due, taken, zero, zero, zero, due, nothing, nothing
        )

    def transition(
        self, state: KneeOAState, action: Tensor, rng: Rng, params: Any = None
    ) -> KneeOAState:
        """The decision about the next visit."""
        p: KneeOAParams = self.params
        patient, last, pointer = state.patient, state.last, state.pointer
        t = (state.visit + 1).clamp(max=p.horizon)
        due = state.upcoming
        first = patient * self._visits
        before = self.phi[first + last]
        found = (before - self.phi[first + t]).clamp(min=0.0).amax(-1)
        loss = (before - self.phi[first + due.clamp(max=p.horizon)]).clamp(min=0.0)
        visited = action == VISIT
        missed = loss.amax(-1)
        if p.distance == "both":
            missed = torch.where(visited, missed, (loss * loss).sum(-1).sqrt())
        reached, late = (t >= due).long(), (t > due).long()
        event = torch.where(visited, 2 + reached + late, reached)
        if p.drain_backlog:
            settled = (self.events[patient] <= t.unsqueeze(1)).sum(1)
        else:
            settled = pointer + reached
        heard = visited if p.questionnaire_cost is None else action != SKIP
        settled = torch.where(visited, settled, pointer).clamp(max=p.horizon)
        return KneeOAState(
            patient,
            state.visit + 1,
            torch.where(visited, t, last),
            torch.where(heard, t, state.asked),
            settled,
            self._next(patient, settled),
            state.taken | (visited.long() << t),
            action.to(torch.int64),
            event,
            (t - due.clamp(max=p.horizon + 1)).abs(),
            due,
            found,
            missed,
        )

    def observation(self, state: KneeOAState, rng: Rng, params: Any = None) -> Tensor:
        """The last record, and how old it is."""
        first = state.patient * self._visits
        seen = self._features.index_select(0, first + state.last)
        numbers = [state.last, state.visit]
        if self.params.questionnaire_cost is not None:
            answers = self._features.index_select(0, first + state.asked)
            seen = torch.where(self._told, answers, seen)
            numbers.append(state.asked)
        return torch.cat([seen, torch.stack(numbers, 1).to(torch.float32)], 1)

    def reward(
        self,
        state: KneeOAState,
        action: Tensor,
        next_state: KneeOAState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """(N,) float64, see the class."""
        s = next_state
        reward = visit_reward(
            s.event,
            s.found,
            s.missed,
            self._growth[s.lag],
            self._decay[s.lag],
            s.due != NEVER,
            self.prices,
        )
        price = self.params.questionnaire_cost
        return reward if price is None else torch.where(action == ASK, reward - price, reward)

    def terminal(self, state: KneeOAState, rng: Rng, params: Any = None) -> Tensor:
        """After the last decision."""
        over = state.visit >= self.params.horizon
        if self.params.early_stop:
            over = over | (state.event == 1) | (state.event == 4)
        return over

    def transition_info(
        self, state: KneeOAState, action: Tensor, next_state: KneeOAState, params: Any = None
    ) -> dict[str, Tensor]:
        """What the decision was, and, under ``privileged/``, what no agent may see.

        ``event`` (N,) int64, a code of ``rewards.active_sensing.EVENTS``; ``cost`` (N,) money;
        ``medical_gain`` (N,) mm found by an early or true visit; ``privileged/next_event`` (N,)
        int64, 99 for never; ``privileged/found``, ``privileged/missed`` (N,) mm;
        ``privileged/delay`` (N,) the distance to the next progression as a share of the horizon.
        """
        s, p = next_state, self.params
        visited = action == VISIT
        cost = torch.where(visited, p.visit_cost, 0.0)
        if p.questionnaire_cost is not None:
            cost = torch.where(action == ASK, p.questionnaire_cost, cost)
        gained = (s.found >= p.th) & ((s.event == 2) | (s.event == 3))
        return {
            "event": s.event,
            "cost": cost.to(torch.float64),
            "medical_gain": torch.where(gained, s.found, 0.0),
            "privileged/next_event": s.due,
            "privileged/found": s.found,
            "privileged/missed": s.missed,
            "privileged/delay": self._delay[s.lag],
        }

    def _next(self, patient: Tensor, pointer: Tensor) -> Tensor:
        """(N,) int64, the visit of the next unsettled progression."""
        return self._events.index_select(0, patient * self._columns + pointer)

    def render_image(self, state: KneeOAState, i: int) -> np.ndarray:
        """The patient's timeline, (240, 420, 3) uint8."""
        from .render import frame

        return frame(self, state, i)

    def render_text(self, state: KneeOAState, i: int) -> str:
        """One line: the visits that took place."""
        from .render import line

        return line(self, state, i)


class KneeOASingle(KneeOA):
    """Decide before each yearly visit whether one knee shall be looked at.

    Dynamics: those of ``rewardzoo/KneeOA-v0`` with every knee as a patient of its own.

    Observation: Box (15,) float32, as there with one knee.

    Action: Discrete(2): 0 skip, 1 visit.

    Objective: as there, except that a skip earns ``ad h`` while a progression is still to come and
    ``ad C`` when none is, and that a visit at a progression earns ``C dA - h`` whatever ``dA``.

    Start state: a knee drawn uniformly; the baseline visit has taken place.

    End of episode: terminated after ``horizon`` decisions.

    Arguments: see ``KneeOAParams``.

    Data: as there.

    Reference returns: per simulated knee of the test site, at the default prices: always visit
    -1.62, never .49, every second year -.04, an oracle 2.43.

    Paper: Nguyen, Nguyen, Panfilov, Tiulpin (2024), "Active sensing of knee osteoarthritis
    progression with reinforcement learning", the single-knee variant.
    """

    per_knee = True


def progressions(cohort: Cohort, marker: str) -> Tensor:
    """(N, V) bool, the visits at which either knee, or the patient, has progressed."""
    if marker == "sf12":
        return cohorts.label_progression(cohort.sf12, marker)[0]
    values = getattr(cohort, marker).transpose(1, 2)
    return cohorts.label_progression(values, marker)[0].any(1)


def load_cohort(
    source: str,
    patients: int,
    seed: int,
    horizon: int,
    split: str,
    test_site: str,
    allow_single_knee: bool,
    per_knee: bool,
) -> tuple[Cohort, dict[str, tuple[float, float]], dict[str, int]]:
    """The patients to use, the training patients' ranges, and how many each filter dropped."""
    if source == "sim":
        everyone = KneeSimulator().sample(patients, seed, horizon + 1)
    else:
        from .data import load

        everyone = load(source, horizon, allow_single_knee)
    if per_knee:
        everyone = everyone.knees()
    kept, dropped = cohorts.included(everyone.until(horizon))
    if not len(kept):
        raise ValueError(f"source={source!r}: {cohorts.no_patients(dropped)}")
    train = cohorts.split(kept, "train", test_site)
    chosen = train if split == "train" else cohorts.split(kept, split, test_site)
    return chosen, cohorts.ranges(train), dropped


_simulated = functools.lru_cache(maxsize=4)(load_cohort)
