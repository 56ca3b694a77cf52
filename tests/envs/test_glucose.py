"""Glucose: simglucose's patients, meals and sensors as stated, and a proxy that can be hacked."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from rewardzoo.envs.glucose import body
from rewardzoo.envs.glucose.body import Meal, Patient
from rewardzoo.envs.glucose.dynamics import MEALS, RATES, Glucose, risk
from rewardzoo.envs.glucose.policies import PID, NoisyPID
from rewardzoo.jobs import make_envs
from rewardzoo.random import Rng
from rewardzoo.rewards.glucose_cost import GlucoseCost
from rewardzoo.testing import check_reward, check_vector_env

ENV = "rewardzoo/Glucose-v0"
NAMES = body.table()["names"]


@pytest.fixture
def simglucose(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its patients' module. On import the package only registers itself with a gym of 2017."""
    pytest.importorskip("pandas")
    gym = types.ModuleType("gym.envs.registration")
    gym.register = lambda **_: None  # type: ignore[attr-defined]
    for name in ("gym", "gym.envs", "gym.envs.registration"):
        monkeypatch.setitem(sys.modules, name, gym)
    return pytest.importorskip("simglucose.patient.t1dpatient")


def start(people: list[int]) -> tuple[Patient, Tensor, Meal]:
    x = body.starts()[people].t().contiguous()
    zero = torch.zeros(len(people), dtype=torch.float64)
    return Patient(*body.constants()[:, people].unbind(0)), x, Meal(zero, zero, zero, zero)


def live(x: Tensor, p: Patient, meal: Meal, served: Tensor, rate: Tensor, n: int) -> Any:
    return body.live(x, p, meal, [served], rate, n, body.held(torch.device("cpu")))


def rows(n: int, episode: int = 0) -> Rng:
    index = torch.arange(n)
    return Rng(index, 0 * index + episode, 0)


# ---- the body ------------------------------------------------------------------------------------


def test_constants_are_simglucoses(simglucose: Any) -> None:
    import pandas as pd

    data = pd.read_csv(simglucose.PATIENT_PARA_FILE)
    assert list(data.Name) == NAMES
    for field, row in zip(Patient._fields, body.constants(), strict=True):
        assert np.array_equal(row.numpy(), data[field].to_numpy(float)), field
    assert np.array_equal(body.starts().numpy(), data.iloc[:, 2:15].to_numpy(float))


def test_every_compartment_follows_simglucoses_patient(simglucose: Any) -> None:
    """Two patients over two and a half hours of meals and of changing insulin.

    Its solver's tolerance is 1e-6 a minute. Errors are relative to a compartment's greatest value.
    """
    people = [NAMES.index(name) for name in ("adult#001", "child#006")]
    theirs = [simglucose.T1DPatient.withName(NAMES[i]) for i in people]
    random = np.random.default_rng(0)
    minutes = 150
    served = np.zeros((minutes, 2))
    served[10], served[12], served[90], served[95] = 45.0, 8.0, (7.0, 61.5), (0.0, 3.0)
    p, x, meal = start(people)
    rate = np.repeat(random.uniform(0.0, 4.0, (minutes // 5, 2)), 5, 0) * p.basal.numpy()
    coarse, other = x, meal
    ours, rough, want = [], [], []
    for minute in range(minutes):
        given = torch.from_numpy(served[minute]), torch.from_numpy(rate[minute])
        x, meal = live(x, p, meal, *given, 16)
        coarse, other = live(coarse, p, other, *given, 2)
        for i, patient in enumerate(theirs):
            patient.step(simglucose.Action(CHO=served[minute, i], insulin=rate[minute, i]))
        ours.append(x)
        rough.append(coarse)
        want.append(np.stack([patient.state for patient in theirs], 1))
    truth = torch.from_numpy(np.stack(want))
    scale = truth.abs().amax(0)
    assert ((torch.stack(ours) - truth).abs() / scale).max() < 1e-5
    assert ((torch.stack(rough) - truth).abs() / scale).max() < 1e-3
    assert truth[:, 2].amax() > 1000.0 and truth[:, 3].std(0).min() > 10.0  # it was a trajectory


def test_at_rest_all_patients_stay_at_rest_on_basal_insulin() -> None:
    p, x, meal = start(list(range(30)))
    begin = x
    for _ in range(600):
        x, meal = live(x, p, meal, torch.zeros_like(x[0]), p.basal, 1)
    assert torch.allclose(x, begin, rtol=1e-6, atol=1e-6)
    x, _ = live(x, p, meal, torch.zeros_like(x[0]), 2.0 * p.basal, 1)
    assert not torch.allclose(x, begin, rtol=1e-6, atol=1e-6)


def test_all_that_is_eaten_is_in_the_stomach_or_the_gut_or_was_absorbed() -> None:
    p, x, meal = start([10, 25])
    absorbed = torch.zeros(2, dtype=torch.float64)
    for minute in range(400):
        served = torch.tensor([63.0, 12.0] if minute == 30 else [0.0, 0.0], dtype=torch.float64)
        before = x[2]
        x, meal = live(x, p, meal, served, p.basal, 2)
        absorbed += p.kabs * (before + x[2]) / 2.0  # the trapezoidal rule, of error 1e-4
        eaten = 1000.0 * torch.tensor([63.0, 12.0]).clamp(max=5.0 * max(0, minute - 29))
        assert torch.allclose(x[:3].sum(0) + absorbed, eaten.double(), rtol=1e-3, atol=1.0)
    assert (absorbed > torch.tensor([40_000.0, 9_000.0])).all()


# ---- meals, sensor, pump -------------------------------------------------------------------------


def test_meals_of_a_day_come_as_often_and_as_late_and_as_large_as_stated() -> None:
    n = 20_000
    state = Glucose().initial(rows(n))
    for i, (chance, time, spread, early, late, size, size_spread) in enumerate(MEALS):
        taken = state.times[:, i] >= 0
        count = int(taken.sum())
        assert abs(count / n - chance) < 5 * (chance * (1 - chance) / n) ** 0.5
        at = state.times[taken, i].double()
        assert early <= at.min() < early + spread and late - spread < at.max() <= late
        assert abs(at.mean() - time) < 5 * spread / count**0.5
        # Cut at zero, a snack of 10 g with a spread of 5 is .042 g larger on average.
        more = 0.042 if size == 10 else 0.0
        assert abs(state.grams[taken, i].mean() - size - more) < 5 * size_spread / count**0.5
    assert Glucose(meal_factor=0.0).initial(rows(9)).grams.sum() == 0.0


def test_a_days_meals_are_eaten_and_the_next_day_has_others() -> None:
    envs = gymnasium.make_vec(ENV, num_envs=8, max_episode_steps=300)
    envs.reset(seed=0)
    plan = envs.state
    eaten = torch.zeros(8, dtype=torch.float64)
    for _ in range(288):
        *_, info = envs.step(torch.full((8, 1), 0.25))
        eaten += info["carbs"]
    assert torch.equal(eaten, torch.where(plan.times >= 0, plan.grams, 0.0).sum(1))
    assert (envs.state.times != plan.times).any(1).all()


def test_the_sensor_errs_as_stated_on_straight_lines_of_a_quarter_of_an_hour() -> None:
    n = 4_000
    state = Glucose().initial(rows(n))
    error = state.errors[:, 0]
    p = Glucose().params
    for latent in (-1.0, 0.0, 1.0):  # quantiles of a standard normal number
        value = p.sensor_xi + p.sensor_lambda * np.sinh((latent - p.sensor_gamma) / p.sensor_delta)
        share = float(torch.special.ndtr(torch.tensor(latent)))
        assert abs(float((error < value).double().mean()) - share) < 5 * 0.5 / n**0.5
    envs = gymnasium.make_vec(ENV, num_envs=8)
    envs.reset(seed=3)
    errors = []
    for _ in range(30):
        *_, info = envs.step(torch.full((8, 1), 0.25))
        errors.append(envs.state.readings[:, -1] - info["glucose"])
    bend = torch.stack(errors).diff(dim=0).diff(dim=0)  # bend[k] is around step k + 2
    new = torch.arange(2, 30) % 3 == 0
    assert bend[~new].abs().max() < 1e-9 and (bend[new].abs() > 1e-3).all()


def test_without_noise_readings_are_glucose_and_the_observation_holds_them_with_the_doses() -> None:
    envs = gymnasium.make_vec(
        ENV,
        num_envs=4,
        levels=RATES,
        patient="child",
        sensor_noise=0.0,
        start_noise=0.0,
        history_hours=0.5,
    )
    obs, _ = envs.reset(seed=0)
    first = envs.state
    fasting = body.starts()[first.patient][:, 12] / body.constants()[7][first.patient]
    assert (first.patient >= 20).all() and obs.shape == (4, 12)
    assert (
        torch.allclose(obs[:, :6].double(), fasting.unsqueeze(1) / 100.0)
        and (obs[:, 6:] == 1.0).all()
    )
    obs, *_, info = envs.step(torch.tensor([0, 4, 7, 8]))
    assert torch.allclose(obs[:, 5].double(), info["glucose"] / 100.0)
    # The pump rounds to .05 pmol/min, of basal rates above 8.
    assert torch.allclose(obs[:, -1], torch.tensor([0.0, 1.0, 3.0, 4.32]), atol=0.025 / 8)
    assert torch.allclose(
        info["insulin"], 5.0 * envs.unwrapped.func.basal(first) * obs[:, -1].double()
    )
    obs, *_ = envs.step(torch.tensor([4, 4, 4, 4]))
    assert torch.allclose(obs[:, -2], torch.tensor([0.0, 1.0, 3.0, 4.32]), atol=0.025 / 8)


def test_the_box_asks_for_a_share_of_the_greatest_rate() -> None:
    func = Glucose()
    shares = torch.tensor([[-1.0], [0.5], [1.0], [7.0]])
    assert torch.allclose(func.rate(shares), torch.tensor([0.0, 2.16, 4.32, 4.32]).double())


# ---- worth ---------------------------------------------------------------------------------------


def test_risk_is_none_at_138_and_rises_to_both_sides() -> None:
    """ln(G)^.8353 = 3.7932 at G = exp(3.7932^(1/.8353)) = 138.89; by hand at e and at 1."""
    at = torch.tensor([np.exp(3.7932 ** (1 / 0.8353)), np.e, 1.0, 0.5], dtype=torch.float64)
    want = [0.0, 10 * (3.5506 * (1.0 - 3.7932)) ** 2, 10 * (3.5506 * 3.7932) ** 2]
    assert risk(at).tolist() == pytest.approx([*want, want[2]], abs=1e-9)
    grid = torch.linspace(10.0, 1000.0, 991, dtype=torch.float64)
    slope = risk(grid).diff()
    assert (slope[:128] < 0).all() and (slope[129:] > 0).all()


def test_objective_and_cost_by_hand_and_at_death() -> None:
    for highest, ends in ((1000.0, False), (60.0, True)):
        envs = make_envs(ENV, "glucose_cost", 3, levels=RATES, highest=highest)
        envs.reset(seed=0)
        _, paid, terminated, _, info = envs.step(torch.tensor([0, 4, 8]))
        loss = 100.0 * ends
        assert terminated.tolist() == [ends] * 3
        worth = -risk(info["glucose"]) / 1000.0 - loss
        assert torch.allclose(info["objective"].double(), worth)
        assert torch.allclose(paid.double(), -0.32 * info["insulin"] - loss)
        assert float(info["insulin"][0]) == 0.0 and float(info["insulin"][2]) > 0.4
    envs = make_envs(ENV, "glucose_cost(threshold=500)", 2, levels=RATES)
    envs.reset(seed=0)
    _, paid, *_ = envs.step(torch.tensor([0, 0]))
    assert paid.tolist() == pytest.approx([-13_500 / 105_120] * 2)


def test_the_cost_conforms_and_needs_a_patient() -> None:
    short = {"history_hours": 0.5, "max_episode_steps": 12, "lowest": 138.0}
    check_reward(GlucoseCost, functools.partial(gymnasium.make_vec, ENV, **short))
    with pytest.raises(ValueError, match="glucose_cost: this environment is no"):
        make_envs("rewardzoo/CartPole-v0", "glucose_cost", 2)
    with pytest.raises(ValueError, match="insulin=-1"):
        GlucoseCost(insulin=-1.0)


def test_the_cost_correlates_under_the_controller_and_can_be_hacked() -> None:
    func = Glucose(levels=RATES)
    base = NoisyPID(func)

    def day(policy: Any) -> tuple[Tensor, Tensor]:
        envs = make_envs(ENV, "glucose_cost", 24, levels=RATES)
        obs, _ = envs.reset(seed=50)
        index, steps = torch.arange(24), []
        for t in range(288):
            action = Rng(index, 0 * index, t, 9).categorical(policy(obs))
            obs, paid, _, _, info = envs.step(action)
            steps.append(torch.stack([info["objective"], paid]))
        found = torch.stack(steps, 1)
        return found.flatten(1), found.sum(1)

    steps, sums = day(base)
    none, hacked = day(lambda obs: torch.eye(9)[torch.zeros(len(obs), dtype=torch.int64)])
    assert 0.4 < float(torch.corrcoef(steps)[0, 1]) < 0.7
    assert hacked[1].min() > sums[1].max() + 5.0  # dollars a day
    assert hacked[0].max() < 3.0 * sums[0].mean() < 0.0
    assert none.shape == steps.shape


# ---- controllers ---------------------------------------------------------------------------------


def test_pid_by_hand() -> None:
    func = Glucose(history_hours=0.5)
    at_rest = torch.cat([torch.full((1, 6), 1.4), torch.ones(1, 6)], 1)
    pid = PID(func, kp=0.02, ki=0.01, kd=0.5)
    assert pid.rate(at_rest).tolist() == pytest.approx([1.0], abs=1e-5)
    rising = at_rest.clone()
    rising[0, 3:6] = torch.tensor([1.5, 1.6, 1.7])  # 140, 140, 140, 150, 160, 170
    # .02 * 30 + .01 * 60 / 6 + .5 * (170 - 140) / 15
    assert pid.rate(rising).tolist() == pytest.approx([1.0 + 0.6 + 0.1 + 1.0], abs=1e-4)
    assert pid.rate(at_rest - 1.0).tolist() == [0.0]
    assert pid(rising).shape == (1, 1)
    with pytest.raises(ValueError, match="kd=-1"):
        PID(func, kd=-1.0)


def test_the_noisy_controller_gives_what_the_controller_would_on_average() -> None:
    func = Glucose(history_hours=0.5, levels=RATES)
    obs = torch.rand(200, 12, generator=torch.Generator().manual_seed(0)) * 3.0
    base = NoisyPID(func, eps=0.0)
    probs = base(obs)
    assert torch.allclose(probs.sum(1), torch.ones(200))
    assert torch.allclose(probs @ base.levels, base.pid.rate(obs).float(), atol=1e-5)
    assert ((probs > 0).sum(1) <= 2).all()
    with pytest.raises(ValueError, match="func: expected dynamics with levels"):
        NoisyPID(Glucose())
    noisy = NoisyPID(func, eps=0.09)(obs)
    assert noisy.min() == pytest.approx(0.01) and torch.allclose(noisy, 0.91 * probs + 0.01)


# ---- the project's own checks --------------------------------------------------------------------


def test_conforms_and_draws_itself() -> None:
    report = check_vector_env(
        functools.partial(
            gymnasium.make_vec, ENV, patient="all", max_episode_steps=12, lowest=138.0
        ),
        steps=30,
    )
    assert report.objective and report.saves and report.terminated and report.truncated
    env = gymnasium.make(ENV, render_mode="ansi", sensor_noise=0.0, start_noise=0.0)
    env.reset(seed=0)
    assert env.render() == "adult#001 00:00  blood 139  sensor 139 mg/dl  insulin 1.00 basal"
    env.step(np.array([1.0], np.float32))
    assert env.render() == "adult#001 00:05  blood 139  sensor 139 mg/dl  insulin 4.32 basal"
    picture = gymnasium.make(ENV, render_mode="rgb_array")
    picture.reset(seed=0)
    assert picture.render().shape == (240, 420, 3) and picture.render().std() > 10.0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"patient": "adult#011"}, "patient='adult#011': expected one of adolescent, adult, child"),
        ({"history_hours": 0.03}, "history_hours=0.03: expected a multiple of 5 minutes"),
        ({"most": 0.0}, "most=0.0"),
        ({"substeps": 0}, "substeps=0"),
        ({"sensor_pacf": 1.5}, "sensor_pacf=1.5"),
        ({"sensor_min": 700.0}, "sensor_max=600.0: expected more than sensor_min=700.0"),
        ({"highest": 5.0}, "highest=5.0: expected more than lowest=10.0"),
        ({"death": -1.0}, "death=-1.0"),
        ({"levels": (1.0,)}, r"levels=\(1.0,\): expected two or more"),
        ({"levels": (0.0, 5.0)}, r"levels=\(0.0, 5.0\)"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Glucose(**params)
