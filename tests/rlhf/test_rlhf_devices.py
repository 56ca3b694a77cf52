"""Language models sample and train on their own device, without waiting for it, tested without one."""

from __future__ import annotations

import copy

import pytest
import torch

from rewardzoo.rlhf import sampling
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.offline import OfflineTrainer, reference_logps
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.pairs import PairBatch, RatingBatch
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.sequences import Sequences

FAKE = "lazy:0"  # the one device besides the CPU whose fakes index and copy in a CPU-only PyTorch
ALGORITHMS = ("rloo", "grpo", "ppo", "p3o")


def decoder():
    return Decoder(DecoderConfig(vocab_size=16, max_length=24, width=16, layers=2), seed=0)


def batch(padded=True):
    """On the CPU; a stand-in for a device holds no numbers, so these are any."""
    ones = torch.ones(4, 3, dtype=torch.bool)
    return Sequences(
        torch.zeros(4, 7, dtype=torch.int64), ones.repeat(1, 2)[:, 2:], ones if padded else None
    )


def pairs(padded=True):
    return PairBatch(batch(padded), batch(padded), torch.ones(4), torch.ones(4))


def prompts(n, generator):
    """On the CPU, as tasks make them."""
    return batch().prompts, batch().prompt_mask


def online(policy, ref, algorithm, reward):
    paired = algorithm == "p3o"
    config = OnlineConfig(
        algorithm, k=2 if paired else 4, prompts=4, new_tokens=6, kl=0.05, chi2=0.1,
        keep="all" if paired else "best_worst", missing_eos=0.5,
    )  # fmt: skip
    return OnlineTrainer(policy, ref, reward, prompts, config)


def many(rows):
    """A reward that stays where the completions are."""
    return (rows.completions == 3).float().sum(1)


@pytest.fixture
def plain_adam(monkeypatch):
    """Adam whose steps are not fused, for which the two stand-ins for a device have no kernel."""
    adam = torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda params, fused=None, **options: adam(params, **options)
    )


@pytest.fixture
def fake(monkeypatch):
    """Policy and reference as fake tensors of another device; matrix products across devices, which
    the meta device lets pass, raise here.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    for name in ("normal_", "zeros_", "kaiming_uniform_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    # Exponential numbers cannot be faked; these have their shape and stay on the generator's device.
    monkeypatch.setattr(
        sampling,
        "gumbel_noise",
        lambda shape, generator: torch.zeros(shape, device=generator.device),
    )
    with FakeTensorMode():
        with torch.device(FAKE):
            models = decoder(), decoder()
        yield models


# ---- moving ----------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [True, False])
def test_batches_move_whole(padded):
    sequences = batch(padded)
    ones = torch.ones(4)
    there = sequences.to("meta")
    assert there.ids.device == there.completion_mask.device == torch.device("meta")
    assert (there.prompt_mask is not None) == padded
    assert not padded or there.prompt_mask.device == torch.device("meta")
    pair = PairBatch(sequences, sequences, ones, ones).to("meta")
    rating = RatingBatch(sequences, ones.unsqueeze(1), ones).to("meta")
    moved = [
        *(pair.chosen.ids, pair.rejected.ids, pair.strength, pair.weight),
        *(rating.responses.ids, rating.ratings, rating.weight),
    ]
    assert {x.device.type for x in moved} == {"meta"}
    back = sequences.to("cpu")
    assert all(a is b for a, b in zip(back, sequences, strict=True))


# ---- no waiting: reading a value, or a tensor of another device, raises on the meta device -------


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("random", [True, False])
def test_sampling_runs_on_the_meta_device_from_prompts_and_a_generator_of_the_cpu(padded, random):
    generator = torch.Generator().manual_seed(0) if random else None
    given = batch(padded)
    found = sample(decoder().to("meta"), given.prompts, 5, generator, given.prompt_mask)
    assert found.ids.device == found.completion_mask.device == torch.device("meta")
    assert found.ids.shape == (4, 8)


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_an_offline_step_runs_on_the_meta_device_from_pairs_of_the_cpu(loss, plain_adam):
    trainer = OfflineTrainer(decoder().to("meta"), decoder().to("meta"), pairs(), loss)
    assert trainer.ref_chosen.device == torch.device("meta")
    numbers = trainer.step(torch.tensor([2, 0, 1]))
    assert {x.device.type for x in numbers.values()} == {"meta"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_online_step_runs_on_the_meta_device(algorithm, plain_adam):
    trainer = online(decoder().to("meta"), decoder().to("meta"), algorithm, many)
    if trainer.critic is not None:
        assert {p.device.type for p in trainer.critic.parameters()} == {"meta"}
    numbers = trainer.step()
    assert {x.device.type for x in numbers.values()} == {"meta"}


@pytest.mark.parametrize("tokens", [True, False])
def test_a_reward_that_is_computed_on_the_cpu_is_brought_to_the_policy(tokens, plain_adam):
    def ones(rows):
        return torch.ones(rows.completions.shape if tokens else len(rows.ids))

    online(decoder().to("meta"), decoder().to("meta"), "rloo", ones).step()


def test_a_reference_on_another_device_is_read_there(plain_adam):
    policy = decoder().to("meta")
    assert {x.device.type for x in reference_logps(decoder(), pairs().to("cpu"))} == {"cpu"}
    trainer = OfflineTrainer(policy, decoder(), pairs())
    assert trainer.ref_chosen.device == trainer.ref_rejected.device == torch.device("meta")


@pytest.mark.parametrize("leak", ["item", "mask", "constant"])
def test_the_meta_device_catches_leaks(leak, plain_adam):
    def leaky(rows):
        paid = many(rows)
        if leak == "item":
            return paid * paid.sum().item()
        if leak == "mask":
            return paid + paid[paid > 0].sum()
        return paid + torch.ones(16)

    with pytest.raises((RuntimeError, NotImplementedError)):
        online(decoder().to("meta"), decoder().to("meta"), "rloo", leaky).step()


# ---- the same on fake tensors ----------------------------------------------------------------


def test_sampling_runs_on_fake_tensors_of_another_device(fake):
    found = sample(fake[0], batch().prompts, 5, torch.Generator(), batch().prompt_mask)
    assert str(found.ids.device) == FAKE


def test_an_offline_step_runs_on_fake_tensors_of_another_device(fake, plain_adam):
    trainer = OfflineTrainer(*fake, pairs())
    assert {str(x.device) for x in trainer.step(torch.arange(3)).values()} == {FAKE}


# (The copy of fake tensors that ppo's critic is of belongs to another mode.)
@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "p3o"])
def test_an_online_step_runs_on_fake_tensors_of_another_device(algorithm, fake, plain_adam):
    trainer = online(*fake, algorithm, many)
    assert {str(x.device) for x in trainer.step().values()} == {FAKE}


def test_the_fake_device_catches_leaks(fake, plain_adam):
    weight = torch.ones(6)
    trainer = online(*fake, "rloo", lambda rows: rows.completions.float() @ weight)
    with pytest.raises(RuntimeError, match="device"):
        trainer.step()


# ---- the numbers themselves ------------------------------------------------------------------


def test_a_reward_that_is_no_number_is_found_when_the_metrics_of_an_accelerator_are_read(
    monkeypatch,
):
    """The CPU finds it before anything is learned; the check is left out to stand for the other."""
    monkeypatch.setattr("rewardzoo.rlhf.online.finite", lambda scores: scores)
    policy = decoder()
    trainer = online(policy, copy.deepcopy(policy), "rloo", lambda rows: many(rows) / 0)
    with pytest.raises(ValueError, match="reward: nan on average in step 1"):
        trainer.train(3)
    assert trainer.num_steps == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_on_cuda_never_synchronise():
    trainer = online(decoder().cuda(), decoder().cuda(), "ppo", many)
    offline = OfflineTrainer(decoder().cuda(), decoder().cuda(), pairs(), batch_size=4)
    index = torch.arange(4)
    trainer.step(), offline.step(index)  # allocations and lazy initialisation
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(), offline.step(index)
    finally:
        torch.cuda.set_sync_debug_mode("default")
