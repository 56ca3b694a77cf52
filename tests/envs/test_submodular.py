"""Submodular walks: their returns are set functions of where they were, and known ones where known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import rewardzoo  # noqa: F401
from rewardzoo.envs.submodular.car import SubmodularCar
from rewardzoo.envs.submodular.coverage import SubmodularCoverage, SubmodularNests
from rewardzoo.envs.submodular.data import load_nests, synthetic_nests
from rewardzoo.envs.submodular.design import SubmodularDesign, SubmodularFacility
from rewardzoo.envs.submodular.graph import SubmodularBandit, SubmodularGraph
from rewardzoo.envs.submodular.items import SubmodularItems
from rewardzoo.envs.submodular.rooms import SubmodularBuilding, SubmodularTwoRooms
from rewardzoo.rewards import SubmodularReward
from rewardzoo.testing import MODES, check_reward, check_vector_env

SMALL: dict[str, dict[str, Any]] = {
    "Coverage": {"horizon": 9},
    "Nests": {"shape": (8, 8), "horizon": 9},
    "TwoRooms": {"horizon": 9},
    "Building": {"horizon": 9},
    "Items": {"horizon": 9},
    "Design": {"shape": (6, 6), "horizon": 9, "start": (0, 0)},
    "Facility": {"horizon": 9},
    "Graph": {},
    "Bandit": {},
}


def id_of(name: str) -> str:
    return f"rewardzoo/Submodular{name}-v0"


def played(name: str, num_envs: int, seed: int = 0, **kwargs: Any) -> tuple[Any, ...]:
    """Random actions for one episode: dynamics, cells (N, H), first F, objectives, final F."""
    envs = gymnasium.make_vec(id_of(name), num_envs=num_envs, **{**SMALL[name], **kwargs})
    _, info = envs.reset(seed=seed)
    func, first = envs.func, info["F"]
    generator = torch.Generator().manual_seed(seed)
    path, paid, done = [envs.state.cell], [], None
    for _ in range(func.horizon - 1):
        action = torch.randint(func.actions, (num_envs,), generator=generator)
        _, reward, done, _, info = envs.step(action)
        path.append(func.element_of(info["final_obs"]))
        paid.append(reward)
    assert bool(done.all())
    return func, torch.stack(path, 1), first, torch.stack(paid), info["final_info"]["F"]


@pytest.mark.parametrize("name", SMALL)
def test_both_checkers_pass(name: str) -> None:
    for obs in ("markov", "index", "history", "augmented"):
        check_env(gymnasium.make(id_of(name), obs=obs, **SMALL[name]).unwrapped)
    sb3_check_env(gymnasium.make(id_of(name), **SMALL[name]).unwrapped)


@pytest.mark.parametrize("name", ["Coverage", "Items", "Design", "Graph"])
def test_vector_conformance(name: str) -> None:
    def make(num_envs: int, autoreset_mode: Any) -> Any:
        kwargs = {"slip": 0.3, "obs": "history", "autoreset_mode": autoreset_mode, **SMALL[name]}
        return gymnasium.make_vec(id_of(name), num_envs=num_envs, **kwargs)

    report = check_vector_env(make, steps=30)
    assert report.terminated > 0 and report.truncated == 0 and report.saves


@pytest.mark.parametrize("name", SMALL)
def test_rewards_add_up_to_the_set_function_of_the_visited_cells(name: str) -> None:
    func, path, first, paid, value = played(name, 6, slip=0.2)
    want = [func.set_function.value(row.tolist()) for row in path]
    start = [func.set_function.value(row[:1].tolist()) for row in path]
    assert value.tolist() == pytest.approx(want, abs=1e-9)
    assert first.tolist() == pytest.approx(start, abs=1e-9)
    # float32 rewards, summed
    assert (paid.double().sum(0) + first).tolist() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_rewards_add_up_in_every_later_episode_and_mode(mode: Any) -> None:
    envs = gymnasium.make_vec(
        id_of("Coverage"), num_envs=5, horizon=6, autoreset_mode=mode, slip=0.1
    )
    _, info = envs.reset(seed=3)
    total, ended = info["F"].clone(), 0
    for _ in range(25):
        action = torch.randint(5, (5,), generator=torch.Generator().manual_seed(ended))
        _, reward, done, _, info = envs.step(action)
        total = total + reward
        last = info.get("final_info", info)["F"]
        if bool(done.any()):
            assert torch.allclose(total, last)
            ended += 1
            if mode.name == "DISABLED":
                _, info = envs.reset(options={"reset_mask": done})
            elif mode.name == "NEXT_STEP":
                *_, info = envs.step(action)
            total = info["F"].clone()
    assert ended >= 4


@pytest.mark.parametrize(("horizon", "side"), [(40, 30), (80, 30), (8, 5)])
def test_a_walk_that_never_returns_sees_two_new_cells_a_step(horizon: int, side: int) -> None:
    start = (0, 0) if side == 5 else (1, 4)
    env = gymnasium.make(id_of("Coverage"), shape=(side, side), horizon=horizon, start=start)
    _, info = env.reset(seed=0)
    # Up to the row above the last, then right, or the other way round: never along a far border.
    down = side - 2 - start[0]
    actions = [2] * min(down, horizon - 1) + [1] * max(0, horizon - 1 - down)
    width = side - 2 - start[1]
    actions = actions[: down + width]
    for action in actions:
        _, _, _, _, info = env.step(action)
    for action in [4] * (horizon - 1 - len(actions)):  # back up in the last column that counts
        _, _, _, _, info = env.step(action)
    assert info["F"] == 4 + 2 * (horizon - 1)


def test_plans_have_the_cells_that_they_should() -> None:
    rooms = SubmodularTwoRooms()
    assert rooms.set_function.value(range(rooms.cells)) == 68
    assert rooms.starts == [2 * 14 + 6]
    assert int((~rooms.walls).sum()) == 68
    building = SubmodularBuilding()
    assert building.set_function.value(range(building.cells)) == 194
    free = np.flatnonzero(~building.walls)
    reached, border = set(building.starts), set(building.starts)
    while border:
        border = {int(t) for c in border for t in building.neighbours[c]} - reached
        reached |= border
    assert reached == set(free.tolist())  # every room has a door


def test_items_are_placed_by_the_stock_and_bounded_by_the_demand() -> None:
    for instance in range(3):
        func = SubmodularItems(instance=instance)
        counts = np.bincount(func.set_function.kinds.numpy(), minlength=7)
        assert counts.tolist() == [18, 14, 13, 16, 18, 14, 12]
        assert func.set_function.value(range(func.cells)) == 21
    assert not torch.equal(
        SubmodularItems(instance=0).set_function.kinds,
        SubmodularItems(instance=1).set_function.kinds,
    )


def test_a_field_measured_before_is_better_known_near_the_measurements() -> None:
    func = SubmodularDesign()
    variance = func.set_function.kernel.diagonal()
    places = np.random.default_rng(0).random((10, 2)) * 3.0
    cells = np.indices((30, 30)).reshape(2, -1).T * 0.1
    nearest = ((cells[:, None] - places) ** 2).sum(-1).min(1)
    assert float(variance[nearest.argmin()]) < 0.01 < float(variance[nearest.argmax()])
    assert float(variance.max()) <= 1


def test_a_slip_of_one_makes_actions_meaningless() -> None:
    values = []
    for action in (0, 3):
        envs = gymnasium.make_vec(id_of("Coverage"), num_envs=400, slip=1.0, horizon=12)
        envs.reset(seed=0)
        for _ in range(11):
            *_, info = envs.step(torch.full((400,), action))
        values.append(info["final_info"]["F"])
    assert torch.equal(*values)
    assert float(values[0].std()) > 1


def test_random_returns_are_as_documented() -> None:
    envs = gymnasium.make_vec(id_of("Coverage"), num_envs=4000)
    envs.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(39):
        *_, info = envs.step(torch.randint(5, (4000,), generator=generator))
    value = info["final_info"]["F"]
    # 5 standard errors, and the rounding of 29.5.
    assert abs(float(value.mean()) - 29.5) < 5 * float(value.std()) / 4000**0.5 + 0.05


def test_history_shows_all_places_in_order_and_zeros_for_the_future() -> None:
    env = gymnasium.make(id_of("Coverage"), shape=(5, 5), horizon=4, start=(2, 2), obs="history")
    env.reset(seed=0)
    obs, *_ = env.step(1)
    now, slots = obs[:3], obs[3:].reshape(4, 3)
    assert now.tolist() == pytest.approx([0.0, 0.5, -1 / 3])
    assert slots[0].tolist() == [0.0, 0.0, 1.0]
    assert slots[1].tolist() == [0.0, 0.5, 1.0]
    assert not slots[2:].any()


def test_graph_actions_follow_the_edges_and_start_again_at_the_first() -> None:
    func = SubmodularGraph(
        edges=((0, 1), (0, 2), (1, 0), (2, 0)), weights=(1.0, 1.0, 1.0), starts=(0,)
    )
    assert func.neighbours.tolist() == [[0, 1, 2], [1, 0, 1], [2, 0, 2]]
    func = SubmodularGraph(
        edges=((0, 1), (0, 2), (1, 0), (2, 0)), weights=(1.0, 1.0, 1.0), starts=(0,), stay=False
    )
    assert func.neighbours.tolist() == [[1, 2], [0, 0], [0, 0]]


def test_the_bandits_start_covers_nothing() -> None:
    func = SubmodularBandit(instance=3)
    assert func.set_function.value(func.starts) == 0
    assert (func.neighbours == np.arange(12)).all()


def test_the_car_that_follows_the_track_drives_the_lap() -> None:
    envs = gymnasium.make_vec(id_of("Car"), num_envs=1)
    _, info = envs.reset(seed=0)
    func, total, done, steps = envs.func, float(info["F"]), False, 0
    while not done:
        s = envs.state
        ahead = func._track[(func._nearest(s.x, s.y)[1] + 5) % len(func.track)]
        bearing = torch.atan2(ahead[:, 1] - s.y, ahead[:, 0] - s.x) - s.heading
        steer = torch.remainder(bearing + np.pi, 2 * np.pi) - np.pi
        action = torch.stack([(1.5 * steer).clamp(-1, 1), torch.ones(1)], 1)
        _, reward, terminated, _, info = envs.step(action)
        total, steps, done = total + float(reward), steps + 1, bool(terminated)
    assert steps == 81
    value = float(info["final_info"]["F"])
    assert value == pytest.approx(func.length)
    assert total == pytest.approx(value - 0.01 * steps + 1.0, rel=1e-5)


def test_the_car_pays_for_leaving_the_track_and_for_time_but_not_for_circling() -> None:
    envs = gymnasium.make_vec(id_of("Car"), num_envs=2)
    envs.reset(seed=0)
    still = torch.tensor([[0.0, -1.0], [0.0, 1.0]])
    _, reward, done, _, _ = envs.step(still)
    assert float(reward[0]) == pytest.approx(-0.01) and not bool(done[0])
    for _ in range(30):
        _, reward, done, _, _ = envs.step(still)
        if bool(done[1]):
            break
    assert bool(done[1]) and float(reward[1]) == pytest.approx(-1.01)


def test_the_car_keeps_the_contracts() -> None:
    check_env(gymnasium.make(id_of("Car")).unwrapped)
    check_vector_env(id_of("Car"), num_envs=2, steps=15)


def test_the_ant_is_paid_for_new_ground_only() -> None:
    pytest.importorskip("mujoco")
    env = gymnasium.make(id_of("Ant"), render_mode="rgb_array")
    env.action_space.seed(0)
    obs, info = env.reset(seed=0)
    func = env.unwrapped
    assert info["F"] == pytest.approx(2.5)  # 25 cells, a tenth each
    total, visited = info["F"], [int(func.element_of(torch.tensor(obs[None])))]
    for _ in range(40):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        visited.append(int(func.element_of(torch.tensor(obs[None]))))
        total += reward
    assert total == pytest.approx(info["F"], rel=1e-5)
    assert info["F"] == pytest.approx(func.set_function.value(visited))
    assert not terminated and not truncated
    assert env.render().shape == (400, 400, 3)
    state = func._ant.unwrapped.data
    qpos = state.qpos.copy()
    qpos[0] = 20.5
    func._ant.set_state(qpos, state.qvel.copy())
    assert env.step(np.zeros(8))[2]
    env.close()


@pytest.mark.slow
def test_the_ant_keeps_the_contracts() -> None:
    pytest.importorskip("mujoco")
    check_env(gymnasium.make(id_of("Ant")).unwrapped, skip_render_check=True)
    check_vector_env(id_of("Ant"), num_envs=2, steps=20)
    check_reward(SubmodularReward, id_of("Ant"), num_envs=2, steps=12)


def test_nests_are_counted_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "nests.csv"
    rng = np.random.default_rng(0)
    sites = rng.normal((100.0, 500.0), (5.0, 5.0), (400, 2)).clip((60, 460), (140, 540))
    file.write_text("x,y,group\n" + "".join(f"{a},{b},major\n" for a, b in sites))
    weights = load_nests(file, window=(60, 140, 460, 540), shape=(8, 16), bandwidth=2.0)
    assert weights.shape == (8, 16) and (weights >= 0).all()
    assert weights.sum() == pytest.approx(400)
    y, x = np.unravel_index(weights.argmax(), weights.shape)
    assert y in (3, 4) and x in (7, 8)
    file.write_text("x,y\n0,0\n10,10\n")  # the second is in the north-east: first row, last column
    found = load_nests(file, window=(0, 10, 0, 10), shape=(2, 2), bandwidth=0.1)
    assert found == pytest.approx(np.array([[0.0, 1.0], [1.0, 0.0]]), abs=1e-9)
    envs = SubmodularNests(weights=found, shape=(2, 2), start=(0, 0))
    assert envs.set_function.value(range(4)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,z\n1,2\n", "no column 'y'"),
        ("x,y\n1,2\n1,two\n", "line 3"),
        ("x,y\n1,2\n", "1 sites, expected at least 2"),
        ("x,y\n1,2\n3,99\n", "1 sites are outside the window"),
    ],
)
def test_bad_nest_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "nests.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_nests(file, window=(0, 10, 0, 10))
    with pytest.raises(ValueError, match="no such file"):
        load_nests(tmp_path / "none.csv")


def test_synthetic_nests_are_positive_and_as_many_as_expected() -> None:
    weights = synthetic_nests(4, (12, 9), expected=50.0)
    assert (weights > 0).all() and weights.sum() == pytest.approx(50.0)
    assert not np.allclose(weights, synthetic_nests(5, (12, 9), expected=50.0))


@pytest.mark.parametrize("name", [*SMALL, "Car"])
def test_draws_itself(name: str) -> None:
    kwargs = {"obs": "history"} if name != "Car" else {}
    env = gymnasium.make(id_of(name), render_mode="rgb_array", **SMALL.get(name, {}), **kwargs)
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8 and before.ndim == 3 and len(np.unique(before)) > 1
    env.action_space.seed(1)
    for _ in range(5):
        env.step(env.action_space.sample())
    assert (env.render() != before).any()
    text = gymnasium.make(id_of(name), render_mode="ansi", **SMALL.get(name, {}))
    text.reset(seed=0)
    assert isinstance(text.render(), str)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubmodularCoverage(horizon=0), "horizon=0: expected an integer >= 1"),
        (lambda: SubmodularCoverage(slip=1.5), "slip=1.5"),
        (lambda: SubmodularCoverage(obs="all"), "obs='all'"),
        (lambda: SubmodularCoverage(start=(30, 0)), "start=.*outside the grid"),
        (lambda: SubmodularCoverage(start=3), "expected .row, column."),
        (lambda: SubmodularCoverage(shape=(3, 3), start=(0, 0), weights=[[1] * 3] * 2), "shape"),
        (lambda: SubmodularCoverage(weights="nest"), "weights='nest'"),
        (lambda: SubmodularCoverage(horizons=3), "did you mean 'horizon'"),
        (lambda: SubmodularTwoRooms(map="..\n."), "rows of one length"),
        (lambda: SubmodularTwoRooms(map="S?"), r"unknown cell '\?'"),
        (lambda: SubmodularTwoRooms(map=".#"), "at least one start"),
        (lambda: SubmodularItems(demands=(1,)), "expected 6, one for each kind"),
        (lambda: SubmodularItems(shape=(2, 2)), "93 items, and 4 cells"),
        (lambda: SubmodularDesign(noise=0.0), "noise=0.0"),
        (lambda: SubmodularFacility(reach=-1.0), "reach=-1.0"),
        (lambda: SubmodularGraph(edges=((0, 9),)), r"edges\[0\]=\(0, 9\)"),
        (lambda: SubmodularGraph(starts=(9,)), "starts: node 9"),
        (lambda: SubmodularGraph(starts=()), "at least one node"),
        (lambda: SubmodularGraph(stay=False, edges=((0, 1),)), "none leads out of node 1"),
        (lambda: SubmodularGraph(places=[[0.0]] * 9), "two nodes are in one place"),
        (lambda: SubmodularBandit(density=0.0), "density=0.0"),
        (lambda: SubmodularCar(dt=0.0), "dt=0.0"),
        (lambda: SubmodularCar(obs="history"), "obs='history'"),
    ],
)
def test_bad_parameters_are_named(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()
