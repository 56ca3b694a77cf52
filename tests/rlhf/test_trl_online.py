"""GRPO's and RLOO's losses and advantages equal those of TRL's trainers."""

from __future__ import annotations

import copy

import pytest
import torch

from rewardzoo.rlhf.huggingface import HuggingFaceModel
from rewardzoo.rlhf.policy_gradient import (
    clipped,
    grpo,
    grpo_loss,
    kl_estimates,
    rloo,
    rloo_loss,
    token_mean,
)
from rewardzoo.rlhf.sequences import pack, token_logps

from .tiny_llama import EOS, llama, tokenizer

trl = pytest.importorskip("trl")

LONGEST, CLIP, BETA, K = 4, 0.2, 0.3, 4
PROMPTS = [[2, 3], [2, 3], [4], [4], [5, 6, 7], [5, 6, 7]]
COMPLETIONS = [[3, 4, 5, EOS], [6, EOS], [8, 9, EOS], [2, 2, 2, 2], [7, EOS], [9, 8, EOS]]
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0])


def language_model(folder):
    """One that was saved, for TRL reads the reference from where the policy came from."""
    import transformers

    torch.manual_seed(0)
    llama(initializer_range=0.3).save_pretrained(folder)
    return transformers.LlamaForCausalLM.from_pretrained(folder)


def trainer(kind, tmp_path, reward, **config):
    import datasets

    if kind == "grpo":
        make, arguments = trl.GRPOTrainer, trl.GRPOConfig
    else:
        make, arguments = trl.RLOOTrainer, trl.RLOOConfig
    found = make(
        model=language_model(tmp_path / "model"),
        reward_funcs=[reward],
        args=arguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2 * K,
            num_generations=K,
            max_completion_length=LONGEST,
            epsilon=CLIP,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **config,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": "w1 w2"}, {"prompt": "w3"}]),
        processing_class=tokenizer(),
    )
    found.current_gradient_accumulation_steps = 1
    return found


def no_reward(completions, **columns):
    return [0.0] * len(completions)


def batch_and_inputs():
    """The same rows for us and for TRL: prompts padded on the left, completions on the right."""
    batch = pack(PROMPTS, COMPLETIONS)
    inputs = {
        "prompt_ids": batch.prompts,
        "prompt_mask": batch.prompt_mask.long(),
        "completion_ids": batch.completions,
        "completion_mask": batch.completion_mask.long(),
        "advantages": ADVANTAGES,
        "num_items_in_batch": batch.completion_mask.sum(),
    }
    return batch, inputs


def around(logps, mask, seed, scale):
    """Log-probabilities of another policy: some ratios are inside the clip, some outside."""
    noise = torch.randn(logps.shape, generator=torch.Generator().manual_seed(seed))
    return (logps + scale * noise) * mask


def same_loss_and_gradient(ours, theirs, model):
    parameters = list(model.parameters())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    grads = [torch.autograd.grad(x, parameters) for x in (ours, theirs)]
    assert max(g.abs().max() for g in grads[1]) > 1e-2
    for p, q in zip(*grads, strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)


# What TRL calls each, and ours from the clipped loss of sequences (B,), of tokens that are summed.
GRPO = {
    "grpo": lambda logp, old, a, mask: grpo_loss(logp, old, a, mask, CLIP),
    "bnpo": lambda logp, old, a, mask: token_mean(clipped(logp, old, a, mask, CLIP), mask),
    "dapo": lambda logp, old, a, mask: token_mean(clipped(logp, old, a, mask, CLIP), mask),
    "dr_grpo": lambda logp, old, a, mask: clipped(logp, old, a, mask, CLIP).mean() / LONGEST,
}


@pytest.mark.parametrize("kind", GRPO)
def test_clipped_losses_of_tokens_equal_trls(tmp_path, kind):
    theirs = trainer("grpo", tmp_path, no_reward, loss_type=kind, beta=0.0)
    theirs.args.steps_per_generation = 1
    model = theirs.model
    batch, inputs = batch_and_inputs()
    mask = batch.completion_mask
    logp = token_logps(HuggingFaceModel(model), batch)
    old = around(logp.detach(), mask, 0, 0.3)
    moved = ((logp - old).exp() - 1).abs()[mask] > CLIP
    assert moved.any() and not moved.all()
    expected = theirs._compute_loss(model, {**inputs, "old_per_token_logps": old})
    found = GRPO[kind](logp, old, ADVANTAGES.unsqueeze(1) * mask, mask)
    same_loss_and_gradient(found, expected, model)


def test_the_penalty_on_kl_in_the_loss_equals_trls(tmp_path):
    """The sums over tokens that TRL's dr_grpo divides by the longest completion.

    TRL would also weigh the penalty by the policies' ratio, by default; ours has no such weight.
    """
    theirs = trainer(
        "grpo",
        tmp_path,
        no_reward,
        loss_type="dr_grpo",
        beta=BETA,
        use_bias_correction_kl=False,
    )
    model = theirs.model
    batch, inputs = batch_and_inputs()
    mask = batch.completion_mask
    logp = token_logps(HuggingFaceModel(model), batch)
    old, ref = (around(logp.detach(), mask, seed, 0.3) for seed in (0, 1))
    expected = theirs._compute_loss(
        model, {**inputs, "old_per_token_logps": old, "ref_per_token_logps": ref}
    )
    kl = kl_estimates((logp - ref) * mask)["k3"].sum(1)
    loss = clipped(logp, old, ADVANTAGES.unsqueeze(1) * mask, mask, CLIP) + BETA * kl
    same_loss_and_gradient(loss.mean() / LONGEST, expected, model)


def test_the_clipped_loss_of_sequences_equals_trls(tmp_path):
    theirs = trainer("rloo", tmp_path, no_reward)
    model = theirs.model
    batch, inputs = batch_and_inputs()
    mask = batch.completion_mask
    logp = token_logps(HuggingFaceModel(model), batch)
    old = around(logp.detach(), mask, 0, 0.1)
    moved = ((logp - old).sum(1).exp() - 1).abs() > CLIP
    assert moved.any() and not moved.all()
    expected = theirs._compute_loss(model, {**inputs, "old_logps": old.sum(1)})
    same_loss_and_gradient(rloo_loss(logp, old, ADVANTAGES, mask, CLIP), expected, model)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_advantages_of_sampled_completions_equal_trls(tmp_path, kind):
    """TRL samples and scores; RLOO's rewards pay for the KL, GRPO's do not."""
    paid = []

    def reward(completions, **columns):
        generator = torch.Generator().manual_seed(len(paid))
        paid.extend(torch.randn(len(completions), generator=generator).tolist())
        return paid

    theirs = trainer(kind, tmp_path, reward, beta=BETA)
    ref = copy.deepcopy(theirs.ref_model)
    with torch.no_grad():  # else the KL would be 0
        for p in theirs.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    theirs.model.train()
    asked = [{"prompt": prompt} for prompt in ("w1 w2", "w3") for _ in range(K)]
    out = theirs._generate_and_score_completions(asked)
    mask = out["completion_mask"].bool()
    prompts = [
        ids[m.bool()].tolist() for ids, m in zip(out["prompt_ids"], out["prompt_mask"], strict=True)
    ]
    batch = pack(
        prompts, [ids[m].tolist() for ids, m in zip(out["completion_ids"], mask, strict=True)]
    )
    scores = torch.tensor(paid)
    if kind == "grpo":
        found = grpo(scores, K)
    else:
        with torch.no_grad():
            log_ratio = token_logps(HuggingFaceModel(theirs.model), batch) - token_logps(
                HuggingFaceModel(ref), batch
            )
        kl = log_ratio.sum(1)
        assert kl.abs().max() > 0.1
        found = rloo(scores - BETA * kl, K)
    torch.testing.assert_close(found, out["advantages"], atol=1e-5, rtol=0)
