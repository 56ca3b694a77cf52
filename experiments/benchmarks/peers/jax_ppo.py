"""PPO as one compiled JAX program on gymnax, in the manner of PureJaxRL (Lu et al. 2022).

Written for this comparison: rollout, advantages, epochs and minibatches are nested ``lax.scan``
inside one ``jit``; truncation counts as termination.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import optax

NUM_STEPS, NUM_EPOCHS, NUM_MINIBATCHES = 128, 4, 4
LEARNING_RATE, GAMMA, GAE_LAMBDA = 2.5e-4, 0.99, 0.95
CLIP, ENT_COEF, VF_COEF, MAX_GRAD_NORM = 0.2, 0.0, 0.5, 0.5

ENV, ENV_PARAMS = gymnax.make("CartPole-v1")
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(MAX_GRAD_NORM), optax.adam(LEARNING_RATE, eps=1e-5)
)


class Carry(NamedTuple):
    """All that training remembers."""

    params: Any
    optimizer: Any
    obs: jax.Array  # (N, 4)
    env_state: Any
    running: jax.Array  # (N,) return so far
    key: jax.Array


class Step(NamedTuple):
    """One step of N environments."""

    obs: jax.Array
    action: jax.Array
    logp: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array
    ep_return: jax.Array  # of the episode that ended, else 0


def network(key: jax.Array, outputs: int, gain: float) -> list[tuple[jax.Array, jax.Array]]:
    """A 4-64-64-outputs network."""
    layers = []
    shapes = ((4, 64, 2**0.5), (64, 64, 2**0.5), (64, outputs, gain))
    for k, (inputs, width, scale) in zip(jax.random.split(key, 3), shapes, strict=True):
        weight = jax.nn.initializers.orthogonal(scale)(k, (inputs, width))
        layers.append((weight, jnp.zeros(width)))
    return layers


def forward(layers: Any, x: jax.Array) -> jax.Array:
    """Tanh between the layers."""
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def logits_value(params: Any, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities (..., 2) and value (...,)."""
    log_probs = jax.nn.log_softmax(forward(params["actor"], obs))
    return log_probs, forward(params["critic"], obs)[..., 0]


def take(log_probs: jax.Array, action: jax.Array) -> jax.Array:
    """The log-probability of the action."""
    return jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]


@partial(jax.jit, static_argnums=0)
def start(num_envs: int, key: jax.Array) -> Carry:
    """Fresh networks and environments."""
    actor, critic, reset, key = jax.random.split(key, 4)
    params = {"actor": network(actor, 2, 0.01), "critic": network(critic, 1, 1.0)}
    obs, state = jax.vmap(ENV.reset, (0, None))(jax.random.split(reset, num_envs), ENV_PARAMS)
    return Carry(params, OPTIMIZER.init(params), obs, state, jnp.zeros(num_envs), key)


def play(carry: Carry, _: None) -> tuple[Carry, Step]:
    """One step of every environment."""
    key, for_action, for_env = jax.random.split(carry.key, 3)
    log_probs, value = logits_value(carry.params, carry.obs)
    action = jax.random.categorical(for_action, log_probs)
    keys = jax.random.split(for_env, carry.obs.shape[0])
    step = jax.vmap(ENV.step, (0, 0, 0, None))
    obs, state, reward, terminated, truncated, _ = step(keys, carry.env_state, action, ENV_PARAMS)
    done = jnp.logical_or(terminated, truncated)
    running = carry.running + reward
    record = Step(carry.obs, action, take(log_probs, action), value, reward, done, running * done)
    carry = carry._replace(obs=obs, env_state=state, running=running * (1 - done), key=key)
    return carry, record


def advantages(steps: Step, last_value: jax.Array) -> jax.Array:
    """(T, N), generalised advantage estimation."""

    def back(later: tuple[jax.Array, jax.Array], step: Step) -> Any:
        advantage, next_value = later
        alive = 1.0 - step.done
        delta = step.reward + GAMMA * next_value * alive - step.value
        advantage = delta + GAMMA * GAE_LAMBDA * alive * advantage
        return (advantage, step.value), advantage

    zero = jnp.zeros_like(last_value)
    return jax.lax.scan(back, (zero, last_value), steps, reverse=True, unroll=16)[1]


def loss(params: Any, batch: tuple[Step, jax.Array, jax.Array]) -> jax.Array:
    """The loss of a minibatch."""
    step, advantage, returns = batch
    log_probs, value = logits_value(params, step.obs)
    ratio = jnp.exp(take(log_probs, step.action) - step.logp)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1.0 - CLIP, 1.0 + CLIP)
    policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
    value_loss = ((value - returns) ** 2).mean()
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
    return policy_loss + VF_COEF * value_loss - ENT_COEF * entropy


def iterate(carry: Carry, _: None) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
    """Rollout and update; the number and the sum of the returns of ended episodes."""
    carry, steps = jax.lax.scan(play, carry, None, NUM_STEPS)
    advantage = advantages(steps, logits_value(carry.params, carry.obs)[1])
    batch = (steps, advantage, advantage + steps.value)
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    count = batch[1].shape[0]

    def minibatch(state: tuple[Any, Any], part: Any) -> tuple[tuple[Any, Any], None]:
        params, optimizer = state
        change, optimizer = OPTIMIZER.update(jax.grad(loss)(params, part), optimizer, params)
        return (optax.apply_updates(params, change), optimizer), None

    def epoch(state: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
        order = jax.random.permutation(key, count)
        parts = jax.tree.map(lambda x: x[order].reshape(NUM_MINIBATCHES, -1, *x.shape[1:]), batch)
        return jax.lax.scan(minibatch, state, parts)

    key, *keys = jax.random.split(carry.key, NUM_EPOCHS + 1)
    state = (carry.params, carry.optimizer)
    (params, optimizer), _ = jax.lax.scan(epoch, state, jnp.stack(keys))
    carry = carry._replace(params=params, optimizer=optimizer, key=key)
    return carry, (steps.done.sum(), steps.ep_return.sum())


@partial(jax.jit, static_argnums=1)
def train(carry: Carry, iterations: int) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
    """So many iterations, as one program."""
    return jax.lax.scan(iterate, carry, None, iterations)
