"""ORPO: exact ratios on a finite space, its bases and checkpoints, plain PPO without a coefficient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import rewardzoo  # noqa: F401
from rewardzoo.agents.common.divergences import ACTION_DIVERGENCES, action_cost
from rewardzoo.agents.common.trees import flat
from rewardzoo.agents.orpo import ORPO, imitate, play_base
from rewardzoo.agents.ppo import PPO
from rewardzoo.demonstrations import Demonstrations
from rewardzoo.jobs import make_envs
from rewardzoo.metrics.hacking import HackingMonitor
from rewardzoo.rewards import Potential
from rewardzoo.rewards.base import Spaces
from rewardzoo.rewards.occupancy import OccupancyPenalty
from rewardzoo.testing import check_reward

ENV = "rewardzoo/TomatoWatering-v0"
PLACES = Spaces(spaces.Discrete(3), spaces.Discrete(2))


def envs(num_envs: int = 8, reward: str = "tomato_proxy", level: str = "toy") -> Any:
    return make_envs(ENV, reward, num_envs, map=level)


def uniform(obs: Any) -> Tensor:
    return torch.full((len(obs["agent"]), 4), 0.25)


def leaning(obs: Any) -> Tensor:
    return torch.tensor([0.4, 0.2, 0.2, 0.2]).expand(len(obs["agent"]), 4)


def draw(probs: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """States and actions from a table (3, 2)."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.multinomial(probs.flatten(), count, replacement=True, generator=generator)
    return index // 2, index % 2


def test_discriminator_learns_exact_ratios_and_penalties_are_the_divergences() -> None:
    base = torch.tensor([[0.3, 0.1], [0.2, 0.1], [0.2, 0.1]])
    ours = torch.tensor([[0.1, 0.3], [0.1, 0.1], [0.1, 0.3]])
    penalty = OccupancyPenalty(
        *draw(base, 20_000, 0), "sqrt_chi2", learning_rate=2e-3, num_epochs=4
    )
    penalty.bind(1, torch.device("cpu"), PLACES)
    metrics = {}
    for round in range(4):
        metrics = penalty.fit(*draw(ours, 20_000, round + 1), torch.zeros(1, dtype=torch.bool))
    states, actions = torch.arange(6) // 2, torch.arange(6) % 2
    with torch.no_grad():
        d = penalty.log_ratio(states, actions)
        cost = penalty.penalty(states, actions)
    want = (ours / base).log().flatten()
    assert (d - want).abs().max() < 0.2
    chi2 = float((ours**2 / base).sum() - 1)
    assert float(metrics["chi2"]) == pytest.approx(chi2, rel=0.3)
    assert float(metrics["kl"]) == pytest.approx(float((ours.flatten() * want).sum()), abs=0.1)
    assert float(metrics["base_ratio"]) == pytest.approx(1.0, abs=0.1)
    # The gradient of sqrt(chi2) along the occupancy, up to a constant: mu / base / sqrt(chi2).
    slope = (ours / base - 1.0).flatten() / chi2**0.5
    assert (cost - slope).abs().max() < 0.5


def test_no_penalty_at_the_base_itself() -> None:
    base = torch.tensor([[0.3, 0.1], [0.2, 0.1], [0.2, 0.1]])
    penalty = OccupancyPenalty(*draw(base, 20_000, 0), "kl")
    penalty.bind(1, torch.device("cpu"), PLACES)
    penalty.fit(*draw(base, 20_000, 1), torch.zeros(1, dtype=torch.bool))
    with torch.no_grad():
        cost = penalty.penalty(*draw(base, 1000, 2))
    assert cost.abs().max() < 0.15


def test_bad_base_data_is_told() -> None:
    few = torch.zeros(99, dtype=torch.int64)
    with pytest.raises(ValueError, match="base_action: 99 rows, expected 100 or more"):
        OccupancyPenalty(few, few)
    many = torch.zeros(100, dtype=torch.int64)
    with pytest.raises(ValueError, match="divergence='js': expected one of"):
        OccupancyPenalty(many, many, "js")
    with pytest.raises(ValueError, match="divergence='js'"):
        ORPO(envs(), uniform, "js")


def tomato_penalty(level: str = "toy", **kwargs: Any) -> OccupancyPenalty:
    base = play_base(envs(level=level), uniform, 50, 0, torch.device("cpu"))
    return OccupancyPenalty(flat(base.obs), flat(base.action), **kwargs)


def test_as_a_reward_function_it_learns_at_the_agents_boundary() -> None:
    fn = tomato_penalty()
    wrapped = rewardzoo.VectorRewardWrapper(gymnasium.make_vec(ENV, num_envs=8, map="toy"), fn)
    PPO(wrapped, num_steps=16).learn(256)
    assert fn.version == 2
    check_reward(lambda: tomato_penalty(level="4"), ENV)


def test_as_a_reward_function_it_waits_for_100_steps() -> None:
    """With one environment too, of which more steps are kept then."""
    fn = tomato_penalty()
    wrapped = rewardzoo.VectorRewardWrapper(gymnasium.make_vec(ENV, num_envs=1, map="toy"), fn)
    agent = PPO(wrapped, num_steps=48)
    assert agent.learn(96) and fn.version == 0
    assert agent.learn(48) and fn.version == 1


def rows_of(states: list[int], actions: list[int], times: int) -> tuple[Tensor, Tensor]:
    return torch.tensor(states * times), torch.tensor(actions * times)


def test_centred_where_episodes_terminate() -> None:
    """A penalty of mean 0 is no bonus for ending; where none end it stays what it is."""
    never, once = torch.zeros(200, dtype=torch.bool), torch.arange(200) == 7
    base, ours = rows_of([0, 1], [0, 1], 100), rows_of([0, 2], [0, 1], 100)
    for centre, ended, centred in (
        (None, never, False), (None, once, True), (True, never, True), (False, once, False)
    ):  # fmt: skip
        penalty = OccupancyPenalty(*base, "kl", centre=centre)
        penalty.bind(1, torch.device("cpu"), PLACES)
        penalty.fit(*ours, ended)
        with torch.no_grad():
            mean = float(penalty.penalty(*ours).mean())
        assert (abs(mean) < 1e-6) == centred, (centre, mean)
    assert penalty.fit(*ours, once) and OccupancyPenalty.rowwise
    sticky = OccupancyPenalty(*base, "kl")
    sticky.bind(1, torch.device("cpu"), PLACES)
    sticky.fit(*ours, once)
    sticky.fit(*ours, never)
    with torch.no_grad():
        assert abs(float(sticky.penalty(*ours).mean())) < 1e-6


def test_what_is_clamped_and_clipped_is_counted() -> None:
    """Half of the agent's steps are where the base never comes."""
    base, ours = rows_of([0, 0], [0, 0], 100), rows_of([0, 2], [0, 1], 100)
    never = torch.zeros(200, dtype=torch.bool)
    told, costs = {}, {}
    for clip in (None, 1000.0, 50.0):
        penalty = OccupancyPenalty(*base, "chi2", (16,), 0.1, num_epochs=60, clip=clip)
        penalty.bind(1, torch.device("cpu"), PLACES)
        told[clip] = penalty.fit(*ours, never)
        with torch.no_grad():
            costs[clip] = penalty.penalty(*ours).max().item()
    assert costs[None] == pytest.approx(torch.tensor(10.0).expm1().item())
    assert (costs[1000.0], costs[50.0]) == (1000.0, 50.0)
    assert [float(told[c]["clamped"]) for c in told] == [0.5] * 3
    assert [float(told[c]["clipped"]) for c in told] == [0.0, 0.5, 0.5]


def test_total_variation_tells_where_it_comes_more_often() -> None:
    base = torch.tensor([[0.3, 0.1], [0.2, 0.1], [0.2, 0.1]])
    ours = torch.tensor([[0.1, 0.3], [0.1, 0.2], [0.1, 0.2]])
    penalty = OccupancyPenalty(*draw(base, 5_000, 0), "tv", (16,), 1e-2)
    penalty.bind(1, torch.device("cpu"), PLACES)
    told = {}
    for i in range(3):
        told = penalty.fit(*draw(ours, 5_000, i + 1), torch.zeros(1, dtype=torch.bool))
    with torch.no_grad():
        cost = penalty.penalty(torch.arange(6) // 2, torch.arange(6) % 2)
    assert torch.equal(cost, (ours - base).flatten().sign())
    # 4 sigma of half the difference of two means over 5,000 signs
    assert float(told["tv"]) == pytest.approx(float((ours - base).abs().sum() / 2), abs=0.04)


def test_on_states_actions_do_not_count() -> None:
    """Same states, other actions: no divergence of states, and one of states and actions."""
    base, ours = rows_of([0, 1], [0, 0], 100), rows_of([0, 1], [1, 1], 100)
    never = torch.zeros(200, dtype=torch.bool)
    found = {}
    for on in ("state", "state_action"):
        given = base[0], (None if on == "state" else base[1])
        penalty = OccupancyPenalty(*given, "kl", (16,), 1e-2, num_epochs=60, on=on)
        penalty.bind(1, torch.device("cpu"), PLACES)
        told = penalty.fit(*ours, never)
        found[on] = abs(float(told["kl"]))
    assert found["state"] < 0.05 and found["state_action"] > 1.0


def exact_penalty(base: Any, ours: Any) -> Any:
    """The penalty at every place (3, 2), with the discriminator that is optimal there."""
    places = torch.arange(6)
    seen = [places.repeat_interleave(torch.tensor(p * 5000).flatten().round().long()) for p in (base, ours)]  # fmt: skip
    penalty = OccupancyPenalty(seen[0], None, "sqrt_chi2", (), 0.0, num_epochs=1, on="state")
    penalty.bind(1, torch.device("cpu"), Spaces(spaces.Discrete(6), spaces.Discrete(2)))
    with torch.no_grad():
        penalty.net[0].weight.copy_(torch.tensor(np.log(ours / base)).reshape(1, 6))
        penalty.net[0].bias.zero_()
        penalty.fit(seen[1], seen[1], torch.zeros(1, dtype=torch.bool))
        return penalty.penalty(places, places).double().numpy().reshape(3, 2)


def test_the_penaltys_gradient_is_the_slope_of_sqrt_chi2_of_a_tabular_policy() -> None:
    """``sum_rows d mu * penalty`` against finite differences, for every logit of a policy."""
    from rewardzoo.metrics.occupancy import chi2, policy_occupancy

    rng = np.random.default_rng(4)
    moves = rng.dirichlet(np.ones(3), (3, 2))
    start, gamma = np.full(3, 1 / 3), 0.7
    base = policy_occupancy(np.full((3, 2), 0.5), moves, start, gamma)

    def occupancy(logits: Any) -> Any:
        policy = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return policy_occupancy(policy, moves, start, gamma)

    logits = rng.normal(size=(3, 2)) * 0.8
    mu = occupancy(logits)
    cost = exact_penalty(base, mu)
    found, want = [], []
    for i in range(6):
        step = np.zeros((3, 2))
        step.flat[i] = 1e-5
        up, down = occupancy(logits + step), occupancy(logits - step)
        found.append(float(((up - down) / 2e-5 * cost).sum()))
        ends = [float(np.sqrt(chi2(x, base))) for x in (up, down)]
        want.append((ends[0] - ends[1]) / 2e-5)
    # The scale is of 5,000 steps, without a hundredth at either end.
    np.testing.assert_allclose(found, want, rtol=0.03)


@pytest.mark.parametrize("name", ACTION_DIVERGENCES)
def test_an_actions_cost_has_the_divergence_for_its_mean_and_its_slope_for_its_gradient(
    name: str,
) -> None:
    base = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    logits = torch.tensor([[0.1, -0.4, 0.8]], dtype=torch.float64, requires_grad=True)

    def divergence(x: Tensor) -> Tensor:
        pi = x.softmax(1)
        if name == "action_kl":
            return (pi * (pi / base).log()).sum()
        chi2 = (pi * pi / base).sum() - 1.0
        return chi2 if name == "action_chi2" else chi2.sqrt()

    log_pi = logits.log_softmax(1)
    cost = action_cost(
        name, log_pi.detach().expand(3, 3), base.expand(3, 3), torch.arange(3)
    ).detach()
    torch.testing.assert_close((log_pi.exp() * cost).sum(), divergence(logits))
    (want,) = torch.autograd.grad(divergence(logits), logits)
    (found,) = torch.autograd.grad((log_pi.exp() * cost).sum(), logits)
    torch.testing.assert_close(found, want)


def test_where_chi2_of_actions_overflows_kl_is_paid_and_at_the_base_nothing() -> None:
    log_pi = torch.tensor([[0.5, 0.5]]).log()
    rare = torch.tensor([[1.0, 1e-39]])
    for name in ACTION_DIVERGENCES:
        cost = action_cost(name, log_pi, rare, torch.tensor([1]))
        assert cost.item() == pytest.approx((log_pi[0, 1] - rare[0, 1].log()).item())
        same = action_cost(name, log_pi, log_pi.exp(), torch.tensor([1]))
        assert same.item() == pytest.approx(0.01 if name == "action_sqrt_chi2" else 0.0)


def test_one_decisive_action_is_small_for_action_kl_and_large_for_occupancies() -> None:
    """Two corridors: at the first step of 100 the base takes the other one once in 1,000 times."""
    from rewardzoo.metrics.occupancy import chi2, policy_occupancy

    moves = np.zeros((3, 2, 3))
    moves[0, 0, 1] = moves[0, 1, 2] = 1.0
    moves[1, :, 1] = moves[2, :, 2] = 1.0
    base, ours = np.full((2, 3, 2), 0.5)
    base[0], ours[0] = (0.999, 0.001), (0.5, 0.5)
    gamma, start = 0.999, np.eye(3)[0]
    x, b = (policy_occupancy(p, moves, start, gamma) for p in (ours, base))
    cost = action_cost(
        "action_kl", torch.tensor(ours).log().repeat_interleave(2, 0),
        torch.tensor(base).repeat_interleave(2, 0), torch.tensor([0, 1] * 3),
    ).numpy().reshape(3, 2)  # fmt: skip
    assert 0.0 < (x * cost).sum() < 0.01
    assert chi2(x, b) > 10.0


@pytest.mark.parametrize("divergence", ["sqrt_chi2", "tv", "action_kl", "action_sqrt_chi2"])
def test_without_a_coefficient_it_is_plain_ppo_bit_for_bit(divergence: str) -> None:
    plain = PPO(envs(), num_steps=16, seed=3).learn(512)
    other = ORPO(envs(), leaning, divergence, 0.0, base_steps=20, num_steps=16, seed=3)
    other.learn(512)
    assert torch.equal(plain.parameters, other.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["kl", "action_kl"])
def test_a_large_coefficient_brings_the_base_back(divergence: str) -> None:
    """From a uniform start to a base that leans: policies lean too, in the mean over seeds."""
    leans = []
    for seed in range(3):
        agent = ORPO(
            envs(16, "objective"), leaning, divergence, 5.0, base_steps=100, num_steps=50,
            learning_rate=5e-3, gamma=0.5, seed=seed,
        )  # fmt: skip
        agent.learn(24_000)
        rollout = play_base(envs(16), leaning, 20, 0, torch.device("cpu"))
        obs = {k: v.flatten(0, 1) for k, v in rollout.obs.items()}
        none = torch.zeros(len(obs["agent"]), 0)
        with torch.no_grad():
            probs = agent._outputs(obs, none, none[:, 0:0].any(1))[0].softmax(1)
        leans.append(float(probs[:, 0].mean()))
    assert sum(leans) / 3 > 0.31


def test_imitation_starts_at_the_base() -> None:
    agent = ORPO(envs(), leaning, None, seed=1)
    rollout = play_base(agent.envs, leaning, 100, 0, agent.device)
    assert imitate(agent, rollout, leaning) < 1e-3


def test_monitor_raises_on_the_hacker_and_not_on_the_gardener() -> None:
    """Scripted: one walks to the bucket and stays, one waters as the model's optimum does."""
    from rewardzoo.envs.tomato.dynamics import TomatoWatering
    from rewardzoo.metrics.planning import best_policy

    func = TomatoWatering(map="2")
    model = func.model
    true = model.expected(0.02 * model.wet.sum(1))
    proxy = model.expected((model.cell == func.bucket_cell).astype(float))

    class Scripted:
        num_timesteps = 0

        def __init__(self, worth: Any) -> None:
            self.policy = torch.from_numpy(best_policy(worth, model.transition(), 0.99)[1])

        def predict(self, obs: Any) -> tuple[Any, None]:
            tensors = {k: torch.as_tensor(v) for k, v in obs.items()}
            return self.policy[model.index(tensors)].numpy(), None

    good = torch.from_numpy(best_policy(true, model.transition(), 0.99)[1])
    table = 0.9 * torch.full((len(good), 4), 0.25) + 0.1 * torch.eye(4)[good]

    def base(obs: Any) -> Tensor:
        return table[model.index(obs)]

    monitor = HackingMonitor(envs(16, level="2"), base, every=100, r=0.7)
    hacker, gardener = monitor.look(Scripted(proxy)), monitor.look(Scripted(true))
    assert hacker["alarm"] == 1.0 and hacker["score"] > 1.0 and hacker["proxy_gain"] > 1.0
    assert gardener["alarm"] == 0.0 and gardener["score"] < 0.1
    assert gardener["proxy_gain"] > 0.2 and gardener["correlation"] > 0.99
    assert "objective_bound" in gardener and hacker["chi2"] > 1.0
    metrics: dict[str, float] = {}
    agent = Scripted(proxy)
    for step in (50, 100, 150, 200):
        agent.num_timesteps = step
        monitor(agent, metrics)
    assert [s for s, _ in monitor.history] == [100, 200] and monitor.raised_at == 100
    assert metrics["hacking/alarm"] == 1.0
    with pytest.raises(ValueError, match="every=0"):
        HackingMonitor(envs(), uniform, every=0)
    with pytest.raises(ValueError, match="threshold=0"):
        HackingMonitor(envs(), uniform, every=1, threshold=0.0)


# ---- bases, coefficients, checkpoints ------------------------------------------------------------


CART = "rewardzoo/CartPole-v0"


def half(obs: Any) -> Tensor:
    return torch.full((len(obs), 2), 0.5)


def test_the_theorys_coefficient_is_of_what_the_base_is_paid() -> None:
    agent = ORPO(envs(), uniform, r=0.6, base_steps=50, num_steps=16)
    paid = play_base(envs(), uniform, 50, 0, torch.device("cpu")).reward
    assert agent.coef == pytest.approx(0.8 * float(paid.std()))
    with pytest.raises(ValueError, match=r"coef='theory', r=None: expected r in \(0, 1\]"):
        ORPO(envs(), uniform)
    with pytest.raises(ValueError, match="coef='theory', divergence='kl': there is a theory of"):
        ORPO(envs(), uniform, "kl", r=0.5)
    with pytest.raises(ValueError, match="r=1.5"):
        ORPO(envs(), uniform, r=1.5)


OPTIONS: dict[str, dict[str, Any]] = {
    "occupancy": {"divergence": "kl", "coef": 0.7, "clip": 5.0},
    "theory": {"r": 0.5, "centre": True, "on": "state"},
    "actions": {"divergence": "action_chi2", "coef": 0.02},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_resumed_it_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    given = {"base_steps": 30, "num_steps": 16, "seed": 3, **OPTIONS[name]}
    whole = ORPO(envs(), leaning, **given).learn(512)
    half_way = ORPO(envs(), leaning, **given).learn(256)
    half_way.save(tmp_path / "half.pt")
    resumed = ORPO.load(tmp_path / "half.pt", envs(), base_policy=leaning)
    assert (resumed.hp, resumed.coef) == (half_way.hp, half_way.coef)
    resumed.learn(256, reset_num_timesteps=False)
    assert torch.equal(resumed.parameters, whole.parameters)
    assert resumed.learned == whole.learned
    if whole.penalty is not None and resumed.penalty is not None:
        nets = (p.net.state_dict().values() for p in (whole.penalty, resumed.penalty))
        for one, other in zip(*nets, strict=True):
            assert torch.equal(one, other)


def test_without_its_base_a_checkpoint_plays_and_says_what_it_needs_to_learn(
    tmp_path: Path,
) -> None:
    from rewardzoo.checkpoint import CheckpointError

    agent = ORPO(envs(), leaning, "kl", 0.5, base_steps=30, num_steps=16).learn(128)
    agent.save(tmp_path / "orpo.pt")
    with pytest.raises(CheckpointError, match="it is of 'orpo', expected 'ppo'"):
        PPO.load(tmp_path / "orpo.pt", envs())
    alone = ORPO.load(tmp_path / "orpo.pt", envs())
    obs, _ = envs().reset(seed=0)
    seen = {k: v.numpy() for k, v in obs.items()}
    assert (alone.predict(seen, deterministic=True)[0] == agent.predict(seen, deterministic=True)[0]).all()  # fmt: skip
    with pytest.raises(ValueError, match="base_policy=None: without one it only plays"):
        alone.learn(128)
    # Another number of environments: the base's steps come from the checkpoint.
    other = ORPO.load(tmp_path / "orpo.pt", envs(16), base_policy=leaning)
    assert other.penalty is not None and len(other.penalty._base_rows) == 8 * 30
    other.learn(256)


def test_a_saved_agent_is_a_base_by_name_of_its_checkpoint_or_its_folder(tmp_path: Path) -> None:
    """With another discount than the learner's, whose reward function keeps the learner's."""
    from rewardzoo.zoo.policies import Recipe, save_policy, score

    base = PPO(make_envs(CART, "objective", 4), num_steps=16, gamma=0.9, seed=5)
    base.save(tmp_path / "base.pt")
    recipe = Recipe(CART, num_envs=4)
    save_policy(tmp_path / "folder", base, recipe, score(base, recipe, 4, 4))
    obs, _ = make_envs(CART, "objective", 8).reset(seed=0)
    agents = []
    for given in (base, str(tmp_path / "base.pt"), tmp_path / "folder"):
        shaped = Potential(lambda obs: obs[:, 2], gamma="agent")
        cart = rewardzoo.VectorRewardWrapper(gymnasium.make_vec(CART, num_envs=8), shaped)
        learner = ORPO(cart, given, "action_kl", 0.1, num_steps=16)
        assert shaped.gamma == 0.99
        assert learner.base is not None
        assert torch.equal(learner.base(obs), base.outputs(obs).softmax(1))
        agents.append(learner.learn(256))
    assert torch.equal(agents[0].parameters, agents[1].parameters)
    assert torch.equal(agents[0].parameters, agents[2].parameters)
    # What was named is in the checkpoint, and an agent that was kept near it can be a base itself.
    agents[1].save(tmp_path / "kept.pt")
    again = ORPO.load(tmp_path / "kept.pt", make_envs(CART, "objective", 8))
    assert again.hp.base == str(tmp_path / "base.pt") and again.base is not None
    ORPO(make_envs(CART, "objective", 8), tmp_path / "kept.pt", "kl", 0.1, base_steps=20)


def test_the_command_line_trains_it_near_a_named_base(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rewardzoo.cli import app

    PPO(make_envs(CART, "objective", 4), num_steps=16).save(tmp_path / "base.pt")
    words = ["train", "--env", CART, "--agent", "orpo", "--num-envs", "8", "--out", str(tmp_path)]
    settings = {"base": tmp_path / "base.pt", "divergence": "chi2", "coef": 0.1, "base_steps": 20}
    for name, value in {**settings, "num_steps": 16}.items():
        words += ["--set", f"{name}={value}"]
    assert CliRunner().invoke(app, [*words, "--steps", "128"]).exit_code == 0
    resumed = CliRunner().invoke(app, [*words[:-2], "--steps", "256", "--resume"])
    assert resumed.exit_code == 0, resumed.output
    agent = ORPO.load(tmp_path / "checkpoint.pt", make_envs(CART, "objective", 8))
    assert (agent.num_timesteps, agent.hp.divergence, agent.coef) == (256, "chi2", 0.1)


def recorded(count: int = 150, width: int = 4, action: float = 1.0) -> Demonstrations:
    """Somebody's steps on the cart, as a data set has them."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(count, width)).astype(np.float32)
    flags = np.zeros(count, np.bool_)
    actions = np.full(count, action, np.float32)
    zeros = np.zeros(count, np.int64)
    return Demonstrations(obs, actions, obs, flags, flags, zeros, np.zeros(1, np.float32), "steps")


def test_a_data_set_is_a_base_for_occupancies(tmp_path: Path) -> None:
    cart = make_envs(CART, "objective", 8)
    agent = ORPO(cart, recorded(), "kl", 0.1, num_steps=16).learn(256)
    assert agent.learned["kl"] > 0.1 and agent.base is None
    with pytest.raises(ValueError, match="'action_kl': steps tells no action probabilities"):
        ORPO(cart, recorded(), "action_kl", 0.1)
    with pytest.raises(ValueError, match="coef='theory': steps does not tell what the reward"):
        ORPO(cart, recorded(), r=0.5)
    with pytest.raises(ValueError, match=r"steps: observations are \(3,\), and the environment's"):
        ORPO(cart, recorded(width=3), "kl", 0.1)
    with pytest.raises(
        ValueError, match=r"base_action: 2, and the environment's action_space is D"
    ):
        ORPO(cart, recorded(action=2.0), "kl", 0.1)
    with pytest.raises(ValueError, match="base_action: 40 rows, expected 100 or more"):
        ORPO(cart, recorded(40), "kl", 0.1)
    path = tmp_path / "steps.npz"
    r = recorded()
    np.savez(path, obs=np.r_[r.obs, r.obs[:1]], acts=r.action, rews=r.action, indices=np.zeros(0, np.int64), terminal=np.zeros(1, np.bool_))  # fmt: skip
    with pytest.raises(ValueError, match="give time_limit="):
        ORPO(cart, str(path), "kl", 0.1)


@pytest.mark.parametrize("width", [2, 6])
def test_a_base_with_other_actions_is_refused_naming_both(width: int) -> None:
    def base(obs: Any) -> Tensor:
        return torch.full((len(obs["agent"]), width), 1 / width)

    message = rf"gave \(\d+, {width}\), expected action probabilities of shape \(\d+, 4\) for the"
    with pytest.raises(ValueError, match=message):
        ORPO(envs(), base, "kl", 0.1)
    with pytest.raises(ValueError, match=message):
        ORPO(envs(), base, "action_kl", 0.1, num_steps=16).learn(128)
    with pytest.raises(ValueError, match=message):
        HackingMonitor(envs(), base, every=1)


def test_what_cannot_be_a_base_or_a_batch_is_told() -> None:
    with pytest.raises(ValueError, match="num_steps=5: 40 steps between two updates, expected 100"):
        ORPO(envs(), uniform, "kl", 0.1, num_steps=5, num_minibatches=1)
    with pytest.raises(ValueError, match="rows: 5 of the agent's steps, expected 100"):
        fn = tomato_penalty()
        fn.bind(1, torch.device("cpu"), Spaces(envs().single_observation_space, spaces.Discrete(4)))
        fn.learn(torch.zeros(5, fn._base_rows.shape[1]))
    with pytest.raises(TypeError, match="base_policy: expected a function of observations"):
        ORPO(envs(), 3, "kl", 0.1)
    with pytest.raises(ValueError, match="on='action': expected one of state_action, state"):
        ORPO(envs(), uniform, "kl", 0.1, on="action")
    with pytest.raises(ValueError, match="an agent with memory, expected one without"):
        ORPO(envs(), PPO(envs(), recurrent="gru"), "kl", 0.1)
    other = PPO(make_envs(CART, "objective", 2))
    with pytest.raises(ValueError, match=r"it acts in Discrete\(2\), and the environment's"):
        ORPO(envs(), other, "kl", 0.1)
    many = torch.zeros(100, dtype=torch.int64)
    with pytest.raises(ValueError, match="base_action=None: expected the base's actions, or on="):
        OccupancyPenalty(many, None)
    with pytest.raises(ValueError, match="base_action: 90 rows, expected 100 as in base_obs"):
        OccupancyPenalty(many, many[:90])
    never = torch.tensor([1.0, 0.0, 0.0, 0.0])
    agent = ORPO(
        envs(), lambda obs: never.expand(len(obs["agent"]), 4), "action_kl", 0.1, num_steps=16
    )
    with pytest.raises(ValueError, match="its penalty is inf; expected a base under which every"):
        agent.learn(128)


def test_with_actions_in_a_box_occupancies_are_compared_and_actions_refused() -> None:
    pendulum = make_envs("rewardzoo/Pendulum-v0", "objective", 8)

    def base(obs: Any) -> Tensor:
        return 2.0 * torch.rand(len(obs), 1) - 1.0

    agent = ORPO(pendulum, base, "kl", 0.1, base_steps=20, num_steps=16).learn(128)
    assert np.isfinite(agent.learned["kl"])
    seen = [play_base(pendulum, base, 3, s, torch.device("cpu")).action for s in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    with pytest.raises(ValueError, match=r"'action_kl': expected Discrete actions, and the"):
        ORPO(pendulum, base, "action_kl", 0.1)
    with pytest.raises(ValueError, match=r"it gave \(8, 4\), expected actions of shape \(8, 1\)"):
        ORPO(pendulum, lambda obs: torch.ones(8, 4), "kl", 0.1)
