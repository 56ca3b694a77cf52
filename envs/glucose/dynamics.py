"""Blood glucose of type-1 diabetes under an insulin pump (Fox et al. 2020; Laidlaw et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box, positive
from rewardzoo.random import Rng
from rewardzoo.rewards.base import integer, number

from . import body
from .body import PMOL_PER_UNIT, Meal, Patient

STEP = 5  # minutes
DAY = 24 * 60  # minutes
RATES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.32)
"""A finite set of rates, for agents and base policies that need one."""
GROUPS = ("adolescent", "adult", "child")
# Of each meal of the day: probability; usual time, its spread, earliest and latest, minutes after
# midnight; grams of carbohydrate, their spread. From simglucose's RandomScenario.
MEALS = (
    (0.95, 420, 60, 300, 540, 45, 10),
    (0.30, 570, 30, 540, 600, 10, 5),
    (0.95, 720, 60, 600, 840, 70, 10),
    (0.30, 900, 30, 840, 960, 10, 5),
    (0.95, 1080, 60, 960, 1200, 80, 10),
    (0.30, 1290, 30, 1200, 1380, 10, 5),
)
_SENSED = 3  # steps between two new errors of the sensor, 15 minutes
_PUMP_STEP = 0.05 / PMOL_PER_UNIT  # U/min
_PUMP_MOST = 30.0  # U/min


@dataclass(frozen=True)
class GlucoseParams:
    """Who is treated, what is seen, and what glucose is worth."""

    patient: str = "adult#001"
    """``adolescent#001`` to ``#010``, ``adult#001`` to ``#010``, ``child#001`` to ``#010``; or a
    group, ``adolescent``, ``adult`` or ``child``, or ``all``: each episode draws one of them."""
    levels: tuple[float, ...] | None = None
    """With numbers, in units of the basal rate, the action is which of them; ``RATES`` has nine."""
    history_hours: float = 4.0
    """Hours of readings and doses that are observed; a multiple of 5 minutes."""
    most: float = 4.32
    """Greatest rate of insulin, in units of the patient's basal rate. The authors have 43.2, of
    which their policies use a tenth."""
    substeps: int = 1
    """Runge-Kutta steps of a minute. With 1, glucose is within .3 % of simglucose's, mostly
    in the first minutes of a meal; with 2 within 2e-4, with 4 within 1e-5."""
    meal_factor: float = 1.0
    """Scales all meals; 0 is a day of fasting."""
    start_noise: float = 0.1
    """Variance of the glucose compartments at the start, relative to their size at rest."""
    sensor_noise: float = 1.0
    """Scales the sensor's errors; 0 is a perfect sensor."""
    sensor_pacf: float = 0.7
    """Correlation of errors 15 minutes apart; this and the next four are those of simglucose's
    sensors, a Johnson SU distribution."""
    sensor_xi: float = -5.47
    """mg/dl."""
    sensor_lambda: float = 15.9574
    """mg/dl."""
    sensor_gamma: float = -0.5444
    """Without unit."""
    sensor_delta: float = 1.6898
    """Without unit."""
    sensor_min: float = 39.0
    """mg/dl, the least reading."""
    sensor_max: float = 600.0
    """mg/dl, the greatest."""
    lowest: float = 10.0
    """mg/dl; below it the episode is over."""
    highest: float = 1000.0
    """mg/dl; above it too."""
    risk_unit: float = 1000.0
    """Points of risk that lose 1, as the authors train with."""
    death: float = 100.0
    """Loss at a terminated episode's end, so that dying is no way to avoid risk."""

    def __post_init__(self) -> None:
        """Check the values."""
        names = body.table()["names"]
        if self.patient not in (*names, *GROUPS, "all"):
            raise ValueError(
                f"patient={self.patient!r}: expected one of {', '.join(GROUPS)}, all, or a name "
                f"such as {names[10]}"
            )
        for name in ("history_hours", "most", "sensor_lambda", "sensor_delta", "risk_unit"):
            positive(name, getattr(self, name))
        if abs(self.history_hours * 60 / STEP - self.steps_seen) > 1e-9 or self.steps_seen < 1:
            raise ValueError(
                f"history_hours={self.history_hours}: expected a multiple of {STEP} minutes"
            )
        integer("substeps", self.substeps, 1)
        for name in ("meal_factor", "start_noise", "sensor_noise", "death"):
            number(name, getattr(self, name), 0.0)
        if self.levels is not None and (
            len(self.levels) < 2 or not all(0.0 <= x <= self.most for x in self.levels)
        ):
            raise ValueError(
                f"levels={self.levels}: expected two or more numbers in [0, most={self.most}]"
            )
        number("sensor_pacf", self.sensor_pacf, 0.0, 1.0)
        for name in ("sensor_xi", "sensor_gamma"):
            number(name, getattr(self, name))
        for low, high in (("sensor_min", "sensor_max"), ("lowest", "highest")):
            positive(low, getattr(self, low))
            if not getattr(self, low) < number(high, getattr(self, high)):
                raise ValueError(
                    f"{high}={getattr(self, high)}: expected more than {low}={getattr(self, low)}"
                )

    @property
    def steps_seen(self) -> int:
        """H, the steps that are observed."""
        return round(self.history_hours * 60 / STEP)

    @property
    def people(self) -> list[int]:
        """Numbers of the patients, of whom each episode draws one."""
        names = body.table()["names"]
        return [
            i
            for i, name in enumerate(names)
            if self.patient == "all" or self.patient in (name, name.split("#")[0])
        ]


class GlucoseState(NamedTuple):
    """A batch of patients; all but what is marked is float64."""

    patient: Tensor  # (N,) int64, number in the table
    body: Tensor  # (N, 13), see ``body.py``
    meal: Meal
    times: Tensor  # (N, 6) int64, minutes after midnight of today's meals; -1: left out
    grams: Tensor  # (N, 6)
    step: Tensor  # (N,) int64, since midnight of the first day
    latent: Tensor  # (N,) of the sensor's next error
    errors: Tensor  # (N, 2) mg/dl, the sensor's errors before and after now
    readings: Tensor  # (N, H) mg/dl, oldest first
    doses: Tensor  # (N, H) in units of the basal rate, oldest first


class Glucose(FuncEnv):
    """Set an insulin pump so that a diabetic's blood glucose stays neither low nor high.

    Dynamics: the UVA/Padova model of type-1 diabetes (2008), 13 differential equations a patient,
    by a Runge-Kutta step of fourth order a minute, in float64: simglucose's patients, up to the
    error of that step. A step is five minutes. Up to six meals a day come at random times in random
    sizes (breakfast, lunch and dinner with probability .95, of 45, 70 and 80 g on average; three
    snacks with probability .3, of 10 g), unannounced, and are eaten at 5 g a minute. The sensor's
    error is drawn anew every 15 minutes from a Johnson SU distribution, correlated .7, and lies on
    straight lines between (simglucose: on cubic ones). The pump rounds to 0.05 pmol/min.

    Observation: Box (96,) float32: the sensor's readings of the last four hours, oldest first, in
    g/l (mg/dl / 100), then the insulin given in each of these steps, in units of the patient's
    basal rate. Before the start, readings are the first one, and doses basal.

    Action: Box (1,) float32 in [0, 1]: the rate of insulin as a share of 4.32 times the basal rate.
    With ``levels=RATES``, Discrete(9): none, .25, .5, .75, 1, 1.5, 2, 3 or 4.32 times it.

    Objective: minus Magni's risk of the blood glucose G in mg/dl after the step, ``10 (3.5506
    (ln(G)^.8353 - 3.7932))^2 / 1000``: 0 at 138.9 mg/dl, .025 at 70 and at 281, .056 at 50 and at
    400; 100 less where the episode terminates.

    Reward functions: ``glucose_cost`` pays minus what the step costs the patient in US dollars,
    insulin and, while glucose is below 70, the expected share of a hospital stay: it correlates
    with the objective under a sensible policy, and is greatest for giving hardly any insulin.

    Start state: midnight, at rest at the patient's fasting glucose, with noise on the compartments
    of glucose.

    End of episode: truncated after a day (288 steps); terminated below 10 or above 1,000 mg/dl.

    Arguments: see ``GlucoseParams``.

    Data: constants of 30 virtual patients from simglucose 0.2.11 (MIT), in ``patients.json``.

    Reference returns: adult#001, mean of 400 days (standard error), and the day's cost in dollars:
    no insulin -12.75 (.06), 0; basal rate -2.98 (.04), 9.73; uniformly random -1.92 (.08), 23.19;
    uniformly random of nine -.86 (.02), 14.49; the PID controller of ``policies.py`` -.83 (.01),
    14.31, with a tenth of nine rates at random -.84 (.01), 14.34, with tighter gains (.04 and 1.0)
    -.69 (.02), 15.62. Objective and cost correlate .65 a step under the PID controller, .52 with
    a tenth at random.

    Paper: Fox, Lee, Pop-Busui, Wiens (2020), "Deep reinforcement learning for closed-loop blood
    glucose control"; Laidlaw, Singhal, Dragan (2024), "Correlated proxies".
    """

    Params = GlucoseParams
    render_modes = ("rgb_array", "ansi")
    render_fps = 12

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: GlucoseParams = self.params
        here = self.device
        self.people = torch.tensor(p.people, device=here)
        self._constants = body.constants().to(here)
        self._starts = body.starts().to(here)
        self._held = body.held(here)
        day = torch.tensor(MEALS, dtype=torch.float64, device=here)
        self._chance, self._time, self._spread = day[:, 0], day[:, 1], day[:, 2]
        self._size, self._size_spread = day[:, 5], day[:, 6]
        self._early = torch.special.ndtr((day[:, 3] - day[:, 1]) / day[:, 2])
        self._late = torch.special.ndtr((day[:, 4] - day[:, 1]) / day[:, 2])
        self._glucose = torch.zeros(body.COMPARTMENTS, dtype=torch.float64)
        self._glucose[[body.PLASMA, body.TISSUE, body.SKIN]] = p.start_noise
        self._glucose = self._glucose.to(here)
        self.observation_space = box(0.0, np.inf, (2 * p.steps_seen,))
        self.action_space: spaces.Space[Any] = box(0.0, 1.0, (1,))
        if p.levels is not None:
            self.levels = torch.tensor(p.levels, dtype=torch.float64, device=here)
            self.action_space = spaces.Discrete(len(p.levels))

    def rate(self, action: Tensor) -> Tensor:
        """What actions (N, ...) ask for, (N,) float64, in units of the basal rate."""
        if self.params.levels is not None:
            return self.levels[action]
        return action[:, 0].to(torch.float64).clamp(0.0, 1.0) * self.params.most

    def initial(self, rng: Rng, params: Any = None) -> GlucoseState:
        """At rest at midnight."""
        p: GlucoseParams = self.params
        patient = self.people[rng.integers(0, len(self.people))]
        rest = self._starts[patient]
        noise = rng.normal(body.COMPARTMENTS).to(torch.float64)
        x = rest + noise * (rest * self._glucose).sqrt()
        zero = torch.zeros_like(x[:, 0])
        times, grams = self._plan(rng)
        latent = rng.normal().to(torch.float64)
        first = self._error(latent)
        latent, following = self._next_error(latent, rng)
        errors = torch.stack([first, following], 1)
        reading = self._read(x, patient, first).unsqueeze(1).expand(-1, p.steps_seen)
        meal = Meal(zero, zero, x[:, 0] + x[:, 1], zero)
        return GlucoseState(
            patient,
            x,
            meal,
            times,
            grams,
            torch.zeros_like(patient),
            latent,
            errors,
            reading.clone(),
            torch.ones_like(reading),
        )

    def transition(
        self, state: GlucoseState, action: Tensor, rng: Rng, params: Any = None
    ) -> GlucoseState:
        """Five minutes."""
        who = Patient(*self._constants[:, state.patient].unbind(0))
        rate = self.rate(action) * who.basal
        rate = ((rate / _PUMP_STEP).round() * _PUMP_STEP).clamp(0.0, _PUMP_MOST)
        now = state.step * STEP % DAY
        served = self._served(state, now)
        x, meal = body.live(
            state.body.t().contiguous(),
            who,
            state.meal,
            served.unbind(1),
            rate,
            self.params.substeps,
            self._held,
        )
        x = x.t().contiguous()

        step = state.step + 1
        midnight = step * STEP % DAY == 0
        times, grams = self._plan(rng)
        times = torch.where(midnight.unsqueeze(1), times, state.times)
        grams = torch.where(midnight.unsqueeze(1), grams, state.grams)

        phase = step % _SENSED
        latent, fresh = self._next_error(state.latent, rng)
        due = phase == 0
        before, after = state.errors.unbind(1)
        before = torch.where(due, after, before)
        after = torch.where(due, fresh, after)
        error = before + (after - before) * (phase.to(torch.float64) / _SENSED)
        reading = self._read(x, state.patient, error)
        return GlucoseState(
            state.patient,
            x,
            meal,
            times,
            grams,
            step,
            torch.where(due, latent, state.latent),
            torch.stack([before, after], 1),
            torch.cat([state.readings[:, 1:], reading.unsqueeze(1)], 1),
            torch.cat([state.doses[:, 1:], (rate / who.basal).unsqueeze(1)], 1),
        )

    def observation(self, state: GlucoseState, rng: Rng, params: Any = None) -> Tensor:
        """Readings and doses, (N, 2 H) float32."""
        return torch.cat([state.readings / 100.0, state.doses], 1).to(torch.float32)

    def reward(
        self,
        state: GlucoseState,
        action: Tensor,
        next_state: GlucoseState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """Minus the risk after the step, (N,) float64."""
        p: GlucoseParams = self.params
        worth = -risk(self.glucose(next_state)) / p.risk_unit
        return torch.where(self.terminal(next_state, rng), worth - p.death, worth)

    def terminal(self, state: GlucoseState, rng: Rng, params: Any = None) -> Tensor:
        """Far too low or far too high."""
        found = self.glucose(state)
        return (found < self.params.lowest) | (found > self.params.highest)

    def glucose(self, state: GlucoseState) -> Tensor:
        """Blood glucose (under the skin, as simglucose has it), (N,) float64, mg/dl."""
        return self._concentration(state.body, state.patient)

    def basal(self, state: GlucoseState) -> Tensor:
        """The patients' basal rates, (N,) float64, U/min."""
        return Patient(*self._constants[:, state.patient].unbind(0)).basal

    def transition_info(
        self,
        state: GlucoseState,
        action: Tensor,
        next_state: GlucoseState,
        params: Any = None,
    ) -> dict[str, Tensor]:
        """``glucose`` (N,) mg/dl after the step; ``insulin`` (N,) U given; ``carbs`` (N,) g eaten.

        Blood glucose itself is not observed: for measuring, and for rewards that may know it.
        """
        served = self._served(state, state.step * STEP % DAY).sum(1)
        return {
            "glucose": self.glucose(next_state),
            "insulin": next_state.doses[:, -1] * self.basal(state) * STEP,
            "carbs": state.meal.planned + served - next_state.meal.planned,
        }

    def render_image(self, state: GlucoseState, i: int) -> np.ndarray:
        """The last hours' readings and doses, (240, 420, 3) uint8."""
        from .render import frame

        readings, doses = state.readings[i].tolist(), state.doses[i].tolist()
        return frame(readings, doses, self.params.most, self.render_text(state, i))

    def render_text(self, state: GlucoseState, i: int) -> str:
        """For instance ``adult#001 07:35  blood 152  sensor 149 mg/dl  insulin 1.50 basal``."""
        minute = int(state.step[i]) * STEP % DAY
        name = body.table()["names"][int(state.patient[i])]
        return (
            f"{name} {minute // 60:02d}:{minute % 60:02d}  "
            f"blood {float(self.glucose(state)[i]):.0f}  "
            f"sensor {float(state.readings[i, -1]):.0f} mg/dl  "
            f"insulin {float(state.doses[i, -1]):.2f} basal"
        )

    # ---- meals and sensor --------------------------------------------------------------------

    def _plan(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Times and sizes (N, 6) of a day's meals."""
        meals = len(MEALS)
        takes = rng.uniform(meals) < self._chance
        u = self._early + (self._late - self._early) * rng.uniform(meals)
        time = (self._time + self._spread * torch.special.ndtri(u)).round()
        size = self._size + self._size_spread * rng.normal(meals)
        grams = size.round().clamp(min=0.0) * self.params.meal_factor
        return torch.where(takes, time, -1.0).to(torch.int64), grams

    def _served(self, state: GlucoseState, now: Tensor) -> Tensor:
        """Grams put on the table in each of the five minutes from ``now`` on, (N, 5)."""
        minutes = now.unsqueeze(1) + torch.arange(STEP, device=self.device)
        here = state.times.unsqueeze(1) == minutes.unsqueeze(2)
        return torch.where(here, state.grams.unsqueeze(1), 0.0).sum(2)

    def _next_error(self, latent: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """The sensor's latent number 15 minutes later and its error, each (N,)."""
        latent = self.params.sensor_pacf * (latent + rng.normal())
        return latent, self._error(latent)

    def _error(self, latent: Tensor) -> Tensor:
        p: GlucoseParams = self.params
        z = (latent - p.sensor_gamma) / p.sensor_delta
        sinh = (z.exp() - (-z).exp()) / 2.0  # torch.sinh differs between one row and many
        return p.sensor_noise * (p.sensor_xi + p.sensor_lambda * sinh)

    def _read(self, x: Tensor, patient: Tensor, error: Tensor) -> Tensor:
        p: GlucoseParams = self.params
        return (self._concentration(x, patient) + error).clamp(p.sensor_min, p.sensor_max)

    def _concentration(self, x: Tensor, patient: Tensor) -> Tensor:
        return x[:, body.SKIN] / self._constants[Patient._fields.index("Vg"), patient]


def risk(glucose: Tensor) -> Tensor:
    """Magni's risk index of blood glucose (N,) in mg/dl, >= 0 (Magni et al. 2007)."""
    # ln(G)^.8353 by exp and log: torch.pow differs between one row and many.
    power = (0.8353 * glucose.clamp(min=1.0).log().log()).exp()
    off = 3.5506 * (power - 3.7932)
    return 10.0 * off * off
