"""Potential shaping: its telescopes, what it leaves unchanged, and the errors that would not."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rewardzoo import RewardFunction, RewardWrapper, Transition, VectorRewardWrapper
from rewardzoo.agents.tabular import mdp_of, policy_iteration
from rewardzoo.functional_single import FunctionalEnv
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards import Potential, RewardError, env_reward, make_reward
from rewardzoo.testing.scripted import ScriptedEnv, ScriptedFunc, scripted_envs

MODES = list(AutoresetMode)


def batch(s, s2, terminated=False, truncated=False):
    """Transitions between states."""
    s, s2 = torch.as_tensor(s).reshape(-1), torch.as_tensor(s2).reshape(-1)
    n = len(s)

    def flags(value):
        return torch.as_tensor(value).expand(n)

    return Transition(
        obs=s,
        action=torch.zeros(n, dtype=torch.int64),
        next_obs=s2,
        reward=torch.zeros(n),
        terminated=flags(terminated),
        truncated=flags(truncated),
        valid=flags(True),
        episode_step=torch.zeros(n, dtype=torch.int64),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env", ["rewardzoo/CartPole-v0", "CartPole-v1"])
def test_discounted_shaping_telescopes_to_the_ends_of_the_episode(env, mode):
    gamma, n = 0.9, 4

    def phi(obs):
        return 3.0 * obs[:, 2] - obs[:, 0] + 1.0

    rows = episodes(env, mode, n, Potential(phi, gamma))
    plain = episodes(env, mode, n, env_reward)
    ends = set()
    for row, plain_row in zip(rows, plain, strict=True):
        for (obs, rewards, end), (_, _, plain_end) in zip(row, plain_row, strict=True):
            assert end == plain_end
            phi_numbers = [float(phi(torch.as_tensor(o)[None])[0]) for o in obs]
            total = sum(gamma**k * r for k, r in enumerate(rewards))
            want = -phi_numbers[0]
            if end == "truncated":
                want += gamma ** len(rewards) * phi_numbers[-1]
            # float32 rewards of size about 1, at most 12 of them
            assert total == pytest.approx(want, abs=12 * 5e-7)
            ends.add(end)
    assert ends == {"terminated", "truncated"}


def episodes(env, mode, n, fn):
    """Each row's whole episodes: observations from first to true last, rewards, how it ended."""
    if env.startswith("rewardzoo"):
        inner = gymnasium.make_vec(env, n, autoreset_mode=mode, max_episode_steps=12)
    else:
        make = [lambda: gymnasium.make(env, max_episode_steps=12)] * n
        inner = gymnasium.vector.SyncVectorEnv(make, autoreset_mode=mode)
    envs = VectorRewardWrapper(inner, fn)
    obs, _ = envs.reset(seed=0)
    tensors = isinstance(obs, torch.Tensor)
    rows = [[] for _ in range(n)]
    running = [([np.asarray(obs[i])], []) for i in range(n)]
    for _ in range(70):
        t0 = envs.transition
        count = torch.zeros(n, dtype=torch.int64)
        if t0 is not None:
            count = torch.as_tensor(envs._tracker._episode_step)
        actions = (count // 6) % 2  # the same in all modes: depends on the step of the episode
        obs, reward, terminated, truncated, _ = envs.step(actions if tensors else actions.numpy())
        t = envs.transition
        for i in range(n):
            if not t.valid[i]:
                continue
            running[i][0].append(np.asarray(t.next_obs[i]))
            running[i][1].append(float(reward[i]))
            if terminated[i] or truncated[i]:
                rows[i].append((*running[i], "terminated" if terminated[i] else "truncated"))
        done = np.asarray(terminated) | np.asarray(truncated)
        if mode is AutoresetMode.DISABLED and done.any():
            obs, _ = envs.reset(options={"reset_mask": torch.tensor(done) if tensors else done})
        for i in np.flatnonzero(done):
            running[i] = ([None], [])
        for i in range(n):
            if running[i][0] == [None] and (mode is not AutoresetMode.NEXT_STEP or not done[i]):
                running[i] = ([np.asarray(obs[i])], [])
    return [row[:3] for row in rows]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_rows_are_the_same_in_every_mode_and_from_the_single_wrapper(mode, end):
    def phi(obs):
        return 100 * obs[:, 0] + obs[:, 1] ** 2

    envs = VectorRewardWrapper(scripted_envs(4, mode, (end,)), Potential(phi, 0.5))
    singles = [
        RewardWrapper(ScriptedEnv((2 + i % 3, 4), (end,)), Potential(phi, 0.5)) for i in range(4)
    ]
    envs.reset(seed=0)
    for env in singles:
        env.reset(seed=0)
    for _ in range(20):
        _, reward, terminated, truncated, _ = envs.step([0] * 4)
        for i in range(4):
            if not envs.transition.valid[i]:
                assert reward[i] == 0
                continue
            _, want, over, cut, _ = singles[i].step(0)
            assert reward[i] == want and (terminated[i], truncated[i]) == (over, cut)
            if over or cut:
                singles[i].reset()
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            envs.reset(options={"reset_mask": terminated | truncated})


def test_a_terminated_successor_is_worth_0_and_a_truncated_one_its_potential():
    fn = Potential([1.0, 2.0], 0.5)
    assert fn(batch(0, 1)).item() == 0
    assert fn(batch(0, 1, truncated=True)).item() == 0
    assert fn(batch(0, 1, terminated=True)).item() == -1
    assert fn(batch(0, 1, terminated=True, truncated=True)).item() == -1


def test_an_infinite_potential_of_a_terminated_state_is_not_paid():
    assert (
        Potential(lambda s: torch.where(s == 1, torch.inf, 0.0), 0.9)(
            batch(0, 1, terminated=True)
        ).item()
        == 0
    )


# ---- the optimum ---------------------------------------------------------------------------------


def test_shaping_leaves_the_optimal_actions_of_1000_random_mdps_and_shifts_q_by_phi():
    rng = np.random.default_rng(0)
    k, n, m, gamma = 1000, 5, 3, 0.9
    ends = np.arange(n) == n - 1
    T = rng.dirichlet(np.full(n, 0.5), (k, n, m))
    R = rng.normal(size=(k, n, m, n))
    table = rng.normal(scale=3, size=(k, n)).astype(np.float32)

    def solve(R):
        q = np.zeros((k, n, m))
        for _ in range(300):
            v = np.where(ends, 0.0, q.max(2))
            q = (T * (R + gamma * v[:, None, None, :])).sum(3)
        return q

    # One table for all the MDPs: state s of MDP i is number i * n + s.
    i, s, s2 = np.meshgrid(np.arange(k), np.arange(n), np.arange(n), indexing="ij")
    steps = batch((i * n + s).reshape(-1), (i * n + s2).reshape(-1), ends[s2].reshape(-1))
    paid = Potential(table.reshape(-1), gamma)(steps).double().numpy().reshape(k, n, 1, n)
    q, shaped = solve(R), solve(R + paid)
    # float32 rewards of size about 10, summed over 1 / (1 - gamma) steps: 1e-5
    np.testing.assert_allclose(shaped, q - table[:, :, None], atol=1e-4)

    def best(q, slack):
        return q >= q.max(2, keepdims=True) - slack

    live = ~ends
    assert (best(q, 1e-3)[:, live] | ~best(shaped, 1e-4)[:, live]).all()
    assert (best(shaped, 1e-3)[:, live] | ~best(q, 1e-4)[:, live]).all()


class Terminals(RewardFunction):
    """The error: the potential of a terminated state is not zeroed."""

    def __init__(self, table, gamma):
        self.table, self.gamma = torch.tensor(table), gamma

    def __call__(self, t):
        return self.gamma * self.table[t.next_obs] - self.table[t.obs]


def test_a_terminal_potential_that_is_not_zeroed_flips_the_optimum_and_ours_does_not():
    # s0: left ends in s1 with reward 1, right ends in s2 with reward 0; phi(s2) = 2
    table, gamma = [0.0, 0.0, 2.0], 0.9
    left, right = batch(0, 1, terminated=True), batch(0, 2, terminated=True)
    for make, best in ((Potential, "left"), (Terminals, "right")):
        fn = make(table, gamma)
        values = {"left": 1 + fn(left).item(), "right": 0 + fn(right).item()}
        assert max(values, key=values.get) == best
    assert values == {"left": 1, "right": pytest.approx(1.8)}


def test_shaping_with_another_discount_makes_a_loop_worth_money_and_is_refused():
    # s0 -> s1 -> s0 ... pays nothing; leaving s0 pays 0.5; the agent's discount is 0.9
    def loop(gamma):
        fn = Potential([0.0, 10.0], gamma)
        there, back = fn(batch(0, 1)).item(), fn(batch(1, 0)).item()
        return (there + 0.9 * back) / (1 - 0.9**2)

    assert loop(0.9) == pytest.approx(0, abs=1e-5)
    assert loop(1.0) == pytest.approx(5.263, abs=1e-3)
    with pytest.raises(ValueError, match=r"gamma=1.0 of reward function potential: the agent's is"):
        Potential([0.0, 10.0], 1.0).match_gamma(0.9)


def test_potential_of_the_reset_observation_as_successor_flips_the_optimum_and_ours_does_not():
    # s0: live on for 0.5 a step, or die (terminated, s1) for 0; phi(s0) = 10. After dying, an
    # autoreset env shows s0 again: whoever takes that as the successor pays 0.9 * 10 for it.
    fn, gamma = Potential([10.0, 0.0], 0.9), 0.9
    live = (0.5 + fn(batch(0, 0)).item()) / (1 - gamma)
    right = fn(batch(0, 1, terminated=True)).item()
    wrong = fn(batch(0, 0)).item()
    assert live == pytest.approx(-5) and right == -10 and wrong == pytest.approx(-1)
    assert right < live < wrong


def test_q_learning_with_shaping_equals_q_learning_that_starts_from_phi():
    """Wiewiora (2003): the same actions, step by step, over 5,000 steps."""
    rng = np.random.default_rng(3)
    n, m, gamma, alpha = 8, 3, 0.5, 0.25
    T, R = rng.dirichlet(np.full(n, 0.3), (n, m)), rng.normal(size=(n, m))
    table = rng.integers(-40, 40, n) / 8  # sums of eighths are exact in float32
    table[n - 1] = 0.0  # terminal
    fn = Potential(table, gamma)
    shaped, started = np.zeros((n, m)), np.tile(table[:, None], (1, m))
    s = 0
    for _ in range(5000):
        explore, choice, u = rng.random() < 0.1, rng.integers(m), rng.random()
        actions = [choice if explore else int(q[s].argmax()) for q in (shaped, started)]
        assert actions[0] == actions[1]
        a = actions[0]
        s2 = int(np.searchsorted(T[s, a].cumsum(), u).clip(max=n - 1))
        over = s2 == n - 1
        bonus = fn(batch(s, s2, terminated=over)).item()
        for q, reward in ((shaped, R[s, a] + bonus), (started, R[s, a])):
            q[s, a] += alpha * (reward + gamma * (not over) * q[s2].max() - q[s, a])
        s = 0 if over else s2
    np.testing.assert_allclose(shaped, started - table[:, None], atol=1e-12)


# ---- where phi comes from ------------------------------------------------------------------------


class Offering(ScriptedFunc):
    """An environment that offers potentials by name."""

    def potential(self, name, gamma):
        if name != "steps":
            raise ValueError(f"potential {name!r} is unknown: known: steps")
        return lambda obs: gamma * obs[:, 0]


@pytest.mark.parametrize("gamma", [0.5, "agent"])
@pytest.mark.parametrize("stock", [False, True])
def test_named_potential_comes_from_the_environment_with_the_discount(stock, gamma):
    envs = FunctionalVectorEnv(2, Offering)
    if stock:
        make = [lambda: FunctionalEnv(Offering)] * 2
        envs = gymnasium.vector.SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
    fn = make_reward(f"potential('steps', gamma={gamma!r})")
    envs = VectorRewardWrapper(envs, fn)
    if gamma == "agent":
        fn.match_gamma(0.5)
    envs.reset(seed=0)
    assert list(fn.state_dict()) == ["version"]
    assert envs.step(torch.zeros(2, dtype=torch.int64).numpy())[1][0] == 0.5 * 0.5 * 1
    single = RewardWrapper(FunctionalEnv(Offering), make_reward("potential('steps', gamma=0.5)"))
    single.reset(seed=0)
    assert single.step(0)[1] == 0.25


def test_the_optimal_value_is_offered_by_what_has_a_model():
    envs = gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=4)
    fn = make_reward("potential('optimal_value', gamma=0.9)")
    VectorRewardWrapper(envs, fn)
    mdp = mdp_of(envs.unwrapped.func)
    value, _ = policy_iteration(mdp, 0.9)
    every = torch.arange(len(value))
    torch.testing.assert_close(fn._value(every), value.float(), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="phi='value': the model of this environment offers 'opti"):
        VectorRewardWrapper(envs, Potential("value", 0.9))
    with pytest.raises(ValueError, match="offers nothing: its objective is no table"):
        two = gymnasium.make_vec("rewardzoo/TwoChoices-v0", num_envs=2)
        VectorRewardWrapper(two, Potential("optimal_value", 0.9))


def test_unknown_name_of_a_potential_is_refused_when_the_env_is_wrapped():
    with pytest.raises(ValueError, match="potential 'step' is unknown: known: steps"):
        VectorRewardWrapper(FunctionalVectorEnv(2, Offering), Potential("step", 0.9))
    with pytest.raises(ValueError, match="phi='steps': this environment offers no potential by"):
        VectorRewardWrapper(FunctionalVectorEnv(2, ScriptedFunc), Potential("steps", 0.9))


def test_table_must_fit_the_states():
    discrete = scripted_envs(1, AutoresetMode.SAME_STEP, observation="discrete")
    with pytest.raises(ValueError, match="phi: a table of 3 numbers, expected 100, one a state"):
        VectorRewardWrapper(discrete, Potential([0, 1, 2], 0.9))
    with pytest.raises(ValueError, match="phi: a table needs Discrete observations"):
        VectorRewardWrapper(scripted_envs(1, AutoresetMode.SAME_STEP), Potential([0, 1, 2], 0.9))


def test_phi_of_the_wrong_shape_is_named():
    with pytest.raises(
        RewardError, match=r"phi: returned Tensor \(2, 1\), expected \(2,\), one number"
    ):
        Potential(lambda obs: obs.unsqueeze(1), 0.9)(batch([0, 1], [1, 0]))


def test_module_as_phi_is_saved_once_and_gets_gradients():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, s):
            return self.weight[s]

    fn = Potential(Net(), 0.5)
    assert list(fn.state_dict()) == ["version", "phi"]
    fn(batch([0], [1])).sum().backward()
    assert fn.phi.weight.grad.tolist() == [-1, 0.5, 0]


def test_a_potential_of_whole_numbers_is_discounted() -> None:
    one, no = torch.tensor([3]), torch.tensor([False])
    step = dict(action=no, reward=torch.zeros(1), truncated=no, valid=~no, episode_step=no)
    tensors = Transition(obs=one, next_obs=one + 2, terminated=no, **step)
    arrays = Transition(
        **{k: v.numpy() for k, v in step.items()},
        obs=np.array([3]),
        next_obs=np.array([5]),
        terminated=np.array([False]),
    )
    shaping = Potential(lambda obs: obs * 2, gamma=0.9)
    assert float(shaping(tensors)) == pytest.approx(0.9 * 10 - 6)
    assert shaping(arrays)[0] == pytest.approx(0.9 * 10 - 6)
