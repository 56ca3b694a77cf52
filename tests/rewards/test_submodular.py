"""Set functions are monotone and submodular, and their gains add up to their definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rewardzoo  # noqa: F401
from rewardzoo.rewards import (
    ModularSurrogate,
    SetFunction,
    SubmodularReward,
    VectorAppendRewardState,
    VectorRewardWrapper,
    make_reward,
)
from rewardzoo.rewards.submodular import Bins
from rewardzoo.rewards.submodular_coverage import Coverage, CoverageReward, SetCover
from rewardzoo.rewards.submodular_facility import FacilityLocation
from rewardzoo.rewards.submodular_information import (
    Entropy,
    Information,
    check_kernel,
    conditioned,
    matern52,
)
from rewardzoo.rewards.submodular_items import Items
from rewardzoo.testing import check_reward

_RNG = np.random.default_rng(0)
_KERNEL = matern52(_RNG.random((12, 2)) * 4)
FUNCTIONS: dict[str, SetFunction] = {
    "coverage": Coverage((5, 7)),
    "weighted disc": Coverage((5, 7), "disc", _RNG.random((5, 7)), 2.0),
    "square": Coverage((9, 9), "square", "bimodal", 1.0),
    "set cover": SetCover([[0, 3], [1], [], [0, 1, 2, 69], [69]], _RNG.random(70)),
    "walls": Coverage((4, 4), "large", "uniform", walls=_RNG.random((4, 4)) < 0.3),
    "items": Items([0, 0, 1, -1, 1, 1, 2, -1, 0], [2, 2, 5]),
    "facility": FacilityLocation(_RNG.random((9, 4))),
    "information": Information(_KERNEL, 1e-3, 14),
    "information of a set": Information(_KERNEL, 1e-3, 14, "set"),
    "entropy": Entropy(_KERNEL, 0.1, 14),
}
each = pytest.mark.parametrize("name", FUNCTIONS)


def grown(f: SetFunction, elements: list[int]) -> tuple[object, list[float]]:
    memory, gains = f.empty(1), []
    for v in elements:
        asked = float(f.gain(memory, torch.tensor([v])))
        mapped = float(f.gains(memory)[0, v])
        memory, gain = f.add(memory, torch.tensor([v]))
        assert asked == pytest.approx(float(gain), abs=1e-12)
        assert mapped == pytest.approx(float(gain), abs=1e-9)
        gains.append(float(gain))
    return memory, gains


def sequences(f: SetFunction, longest: int = 12) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, f.size - 1), max_size=longest)


def check_gains(name: str, examples: int) -> None:
    f = FUNCTIONS[name]

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(sequences(f))
    def check(elements: list[int]) -> None:
        _, gains = grown(f, elements)
        # The bar of the design: 1e-9, absolute.
        for n in range(len(gains) + 1):
            assert abs(math.fsum(gains[:n]) - f.value(elements[:n])) < 1e-9

    check()


@each
def test_gains_add_up_to_the_value_computed_anew(name: str) -> None:
    check_gains(name, 25)


@pytest.mark.slow
@each
def test_gains_add_up_to_the_value_computed_anew_on_1000_sequences(name: str) -> None:
    check_gains(name, 1000)


@each
def test_monotone_submodular_and_zero_on_the_empty_set(name: str) -> None:
    f = FUNCTIONS[name]
    assert f.value([]) == 0

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(sequences(f, 5), sequences(f, 5), st.integers(0, f.size - 1))
    def check(small: list[int], more: list[int], v: int) -> None:
        _, first = grown(f, [*small, v])
        _, later = grown(f, [*small, *more, v])
        assert first[-1] >= -1e-12 and later[-1] >= -1e-12
        assert later[-1] <= first[-1] + 1e-9

    check()


@each
def test_order_does_not_matter(name: str) -> None:
    f = FUNCTIONS[name]

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(sequences(f, 8).flatmap(lambda x: st.tuples(st.just(x), st.permutations(x))))
    def check(pair: tuple[list[int], list[int]]) -> None:
        one, other = (math.fsum(grown(f, list(x))[1]) for x in pair)
        assert abs(one - other) < 1e-9

    check()


@each
def test_equal_signatures_have_equal_futures(name: str) -> None:
    f = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    seen: dict[object, torch.Tensor] = {}
    for _ in range(60):
        elements = rng.integers(min(f.size, 6), size=4).tolist()
        memory, gains = grown(f, elements)
        future = torch.cat([f.gains(memory)[0], torch.tensor([math.fsum(gains)]).double()])
        known = seen.setdefault(f.signature(elements), future)
        assert torch.allclose(known, future, rtol=0, atol=1e-9)


@each
def test_rows_grow_apart_and_on_their_own_device_copy(name: str) -> None:
    f = FUNCTIONS[name].to("cpu")
    rows = torch.tensor(np.random.default_rng(2).integers(f.size, size=(6, 4)))
    memory, total = f.empty(4), torch.zeros(4, dtype=torch.float64)
    for element in rows:
        memory, gain = f.add(memory, element)
        total = total + gain
    want = [f.value(rows[:, i].tolist()) for i in range(4)]
    assert torch.allclose(total, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-9)
    features = f.features(memory)
    assert features.dtype is torch.float32 and features.shape[0] == 4
    assert bool(((features >= 0) & (features <= 1 + 1e-6)).all())


@each
def test_a_row_of_a_batch_has_the_bits_of_one_alone(name: str) -> None:
    """Rewards are shorter, so that other bits of a gain would show in them only now and then."""
    f = FUNCTIONS[name]
    if isinstance(f, Information):  # large enough for a library's kernels to differ
        f = Information(matern52(_RNG.random((60, 2)) * 8), 1e-3, 40, f.repeats)
    steps = torch.tensor(np.random.default_rng(3).integers(f.size, size=(30, 64)))
    memory, alone = f.empty(64), {i: f.empty(1) for i in (0, 31, 63)}
    for element in steps:
        asked, mapped = f.gain(memory, element), f.gains(memory)
        memory, gain = f.add(memory, element)
        for i in alone:
            assert torch.equal(f.gain(alone[i], element[i : i + 1])[0], asked[i])
            assert torch.equal(f.gains(alone[i])[0], mapped[i])
            alone[i], own = f.add(alone[i], element[i : i + 1])
            assert torch.equal(own[0], gain[i])


def test_revisits_gain_nothing_but_for_noisy_measurements() -> None:
    for name, f in FUNCTIONS.items():
        _, gains = grown(f, [1, 1])
        if name in ("information", "entropy"):
            assert 0 < gains[1] < gains[0]
        else:
            assert gains[1] == 0


def test_information_has_its_closed_forms() -> None:
    noise, k = 0.25, 1.7
    f = Information([[k, 0.0], [0.0, k]], noise, 4)
    one = 0.5 * math.log(1 + k / noise)
    assert f.value([0]) == pytest.approx(one, rel=1e-12)
    assert sum(grown(f, [0, 0])[1]) == pytest.approx(0.5 * math.log(1 + 2 * k / noise), rel=1e-12)
    assert sum(grown(f, [0, 1])[1]) == pytest.approx(2 * one, rel=1e-12)  # independent
    own = 0.5 * math.log(2 * math.pi * math.e * noise)
    assert Entropy([[k]], noise, 2).value([0]) == pytest.approx(one + own, rel=1e-12)


def test_information_stops_at_its_capacity() -> None:
    f = Information(_KERNEL, 1e-3, 2)
    memory, gains = grown(f, [0, 1, 2])
    assert gains[2] == 0 and float(f.gains(memory).sum()) == 0


def test_information_stays_exact_on_a_long_path_of_near_repeats() -> None:
    points = np.linspace(0, 1, 60)[:, None]
    f = Information(matern52(points), 1e-3, 80)
    path = np.random.default_rng(0).integers(60, size=80).tolist()
    assert abs(sum(grown_fast(f, path)) - f.value(path)) < 1e-9


def grown_fast(f: SetFunction, elements: list[int]) -> list[float]:
    memory, gains = f.empty(1), []
    for v in elements:
        memory, gain = f.add(memory, torch.tensor([v]))
        gains.append(float(gain))
    return gains


def test_conditioning_is_what_measuring_does_to_the_variances() -> None:
    points = np.random.default_rng(3).random((10, 2)) * 3
    prior = matern52(points)
    f = Information(prior, 0.01, 4)
    memory = f.empty(1)
    for v in (8, 9):
        memory, _ = f.add(memory, torch.tensor([v]))
    after = conditioned(prior, 2, 0.01)
    assert np.allclose(f.variances(memory)[0, :8], after.diagonal(), atol=1e-12)


def test_curvature_is_0_for_disjoint_footprints_and_1_for_a_redundant_one() -> None:
    assert Coverage((3, 3), "cell").curvature() == 0
    assert SetCover([[0], [0, 1]], [1.0, 1.0]).curvature() == 1
    assert SetCover([[0, 1], [1, 2]], [1.0, 1.0, 1.0]).curvature() == 0.5
    assert SetCover([[], [0]], [1.0]).curvature() == 0  # what is worth nothing alone is left out


def test_footprints_end_at_borders_and_walls() -> None:
    f = Coverage((3, 3), "diag", walls=[[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert [f.value([v]) for v in (0, 8, 4)] == [3, 1, 0]
    assert Coverage((5, 5), "disc", radius=1.0).value([12]) == 5
    assert Coverage((5, 5), "square", radius=1).value([12]) == 9
    assert Coverage((5, 5), "large").value([0]) == 9


def test_bimodal_weights_are_a_sigmoid_of_the_product() -> None:
    f = Coverage((3, 3), "cell", "bimodal")
    assert f.value([0]) == pytest.approx(1 / (1 + math.exp(-1)))
    assert f.value([4]) == 0.5


def test_covered_cells_beyond_one_word_are_told_apart() -> None:
    f = Coverage((10, 20), "cell")
    for v in (0, 63, 64, 127, 128, 199):
        memory, gain = f.add(f.empty(1), torch.tensor([v]))
        assert float(gain) == 1 and f.covered(memory)[0].nonzero().tolist() == [[v]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Coverage((2, 2), weights=[[1, 1], [1, -1]]), r"weights\[1, 1\]=-1"),
        (lambda: Coverage((2, 2), weights=[[1, float("nan")], [1, 1]]), r"weights\[0, 1\]=nan"),
        (lambda: Coverage((2, 2), weights="unimodal"), "weights='unimodal'"),
        (lambda: Coverage((2, 2), weights=[1, 1]), "shape"),
        (lambda: Coverage((2, 0)), "shape=0"),
        (lambda: Coverage(4), r"shape=4: expected \(rows, columns\)"),
        (lambda: Coverage((2, 2), "ring"), "footprint='ring'"),
        (lambda: Coverage((2, 2), "disc", radius=-1.0), "radius=-1"),
        (lambda: SetCover([[0], [2]], [1, 1]), r"footprints\[1\]: cell 2, expected 0 to 1"),
        (lambda: SetCover([[0, 0]], [1]), r"footprints\[0\]: cell 0 stands in it twice"),
        (lambda: Items([0, 2], [1, 1]), r"kinds\[1\]=2"),
        (lambda: FacilityLocation([[1, -1]]), r"\[0, 1\]=-1"),
        (lambda: Information([[1, 0.5], [0.4, 1]], 0.1, 2), r"kernel\[0, 1\]"),
        (lambda: Information([[1, 2], [2, 1]], 0.1, 2), "eigenvalue -1"),
        (lambda: Information([[1, 0]], 0.1, 2), "shape"),
        (lambda: check_kernel([[float("inf")]]), r"kernel\[0, 0\]=inf"),
        (lambda: Information([[1]], 0.0, 2), "noise=0"),
        (lambda: Information([[1]], 0.1, 0), "capacity=0"),
        (lambda: Information([[1]], 0.1, 1, "twice"), "repeats='twice'"),
        (lambda: Entropy([[1]], 0.01, 1), "noise=0.01: expected >= 0.0585"),
        (lambda: Bins((2,), (0.0,), (0.0,)), "low < high"),
        (lambda: Bins((2, 2), (0.0,), (1.0,)), "expected 2 each"),
        (lambda: CoverageReward((2, 2), low=(0, 0)), "give both"),
        (lambda: SubmodularReward("coverage"), "function='coverage'"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- as rewards ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        Coverage((3, 4)),
        Items([0, 1, 0, -1] * 3, [2, 1]),
        FacilityLocation(_RNG.random((12, 3))),
        Information(_KERNEL, 1e-3, 13),
    ],
    ids=lambda f: type(f).__name__,
)
def test_rewards_keep_the_contract(function: SetFunction) -> None:
    report = check_reward(lambda: SubmodularReward(function), "rewardzoo/GridWorld-v0", steps=20)
    assert report.memory and not report.relabels
    report = check_reward(lambda: ModularSurrogate(function), "rewardzoo/GridWorld-v0", steps=20)
    assert not report.memory and report.relabels


def test_coverage_of_box_observations_by_text() -> None:
    text = "coverage(shape=(9, 9), footprint='disc', low=(-.05, -.05), high=(.05, .05), columns=(0, 2))"
    report = check_reward(lambda: make_reward(text), "rewardzoo/CartPole-v0", steps=20)
    assert report.memory


@pytest.mark.parametrize(
    "name", ["Coverage", "TwoRooms", "Items", "Facility", "Graph", "Bandit", "Nests"]
)
@pytest.mark.parametrize("obs", ["markov", "index", "history", "augmented"])
def test_the_reward_function_pays_the_objective_of_the_walks(name: str, obs: str) -> None:
    envs = gymnasium.make_vec(f"rewardzoo/Submodular{name}-v0", num_envs=8, obs=obs, slip=0.1)
    envs = VectorRewardWrapper(envs, make_reward("submodular"))
    envs.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        action = torch.randint(int(envs.single_action_space.n), (8,), generator=generator)
        _, reward, _, _, info = envs.step(action)
        assert torch.allclose(reward, info["objective"], rtol=0, atol=1e-6)


def test_the_surrogate_pays_repeats_and_the_gain_does_not() -> None:
    paid = {}
    for reward in ("submodular", "modular_surrogate"):
        envs = gymnasium.make_vec("rewardzoo/SubmodularCoverage-v0", num_envs=1)
        envs = VectorRewardWrapper(envs, make_reward(reward))
        envs.reset(seed=0)
        paid[reward] = [float(envs.step(torch.tensor([a]))[1]) for a in (0, 1, 3, 3)]
    assert paid == {"submodular": [0, 2, 0, 2], "modular_surrogate": [4, 4, 4, 4]}


def test_the_memory_can_be_put_into_the_observation() -> None:
    envs = gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=2, slip=0.0)
    fn = SubmodularReward(Coverage((3, 4), "cell"))
    envs = VectorAppendRewardState(VectorRewardWrapper(envs, fn))
    obs, _ = envs.reset(seed=0)
    assert obs["reward_state"].sum(1).tolist() == [1, 1]
    obs, *_ = envs.step(torch.tensor([0, 2]))
    assert obs["reward_state"].sum(1).tolist() == [2, 1]


def test_an_environment_without_a_set_function_is_refused() -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=1)
    with pytest.raises(ValueError, match="offers no set function"):
        VectorRewardWrapper(envs, SubmodularReward())
    with pytest.raises(ValueError, match=r"expected Discrete\(9\) observations"):
        VectorRewardWrapper(envs, SubmodularReward(Coverage((3, 3))))
