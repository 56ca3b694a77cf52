"""Hugging Face families: transformers' own log-probabilities, or refused; LoRA; dropout off."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch

transformers = pytest.importorskip("transformers")

from rewardzoo.rlhf.huggingface import HuggingFaceModel  # noqa: E402
from rewardzoo.rlhf.offline import OfflineTrainer, reference_logps  # noqa: E402
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer  # noqa: E402
from rewardzoo.rlhf.pairs import PairBatch  # noqa: E402
from rewardzoo.rlhf.sampling import sample  # noqa: E402
from rewardzoo.rlhf.sequences import pack, sequence_logps  # noqa: E402

PROMPTS = [[2, 3, 4], [5], [6, 7], [2, 2, 2, 2]]
COMPLETIONS = [[3, 1], [4, 5, 6, 7, 8, 9, 1], [7], [2, 3, 1]]

SIZE = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "eos_token_id": 1}
USUAL = {
    **SIZE,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
}
GPT2 = {
    "vocab_size": 16,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "eos_token_id": 1,
}
MIXED = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}
MAMBA = {**SIZE, "state_size": 4, "pad_token_id": 0}
ATTENTION = {"vocab_size": 16, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2}

# Weights are large, so that a cap and a factor show.
FAMILIES = {
    "Llama": USUAL,
    "Qwen2": USUAL,
    "Mistral, a window": {**USUAL, "sliding_window": 4},
    "Gemma2, a cap and windows": {
        **USUAL, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 1.0
    },
    "Cohere, times": {**USUAL, "logit_scale": 0.0625},
    "Granite, over": {**USUAL, "logits_scaling": 8.0},
    "HyperCLOVAX, times": {**USUAL, "logits_scaling": 8.0},
    "GPT2": {**GPT2, "bos_token_id": 1},
    "GPTNeoX": USUAL,
    "Phi": USUAL,
    "OPT, narrow states": {
        **USUAL, "ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": False
    },
    "Bloom": {**SIZE, "n_layer": 2, "n_head": 2},
    "Lfm2, recurrent": {**USUAL, "layer_types": ["conv", "full_attention"]},
}  # fmt: skip
SLOW = {
    "FalconH1, times and recurrent": {
        **USUAL, **MIXED, "mamba_d_ssm": 32, "head_dim": 8, "lm_head_multiplier": 0.25
    },
    "Mamba2, recurrent": {**MAMBA, "num_heads": 4, "head_dim": 8, "n_groups": 1},
}  # fmt: skip
REFUSED = {
    "Mamba": (MAMBA, "log-probabilities read from its cache behind padding"),
    "Bart": (
        {**ATTENTION, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "is_decoder": True},
        "log-probabilities behind padding",
    ),
    "ModernBertDecoder": (
        {**USUAL, "sparse_prediction": False},
        "read from its last hidden states",
    ),
    "OpenAIGPT": (GPT2, "cannot be read as a causal language model with a key-value cache"),
}


def transformer(family, settings, **more):
    """The transformers model of random weights."""
    kind = family.split(",")[0]
    suffix = "LMHeadModel" if "GPT" in kind and kind != "GPTNeoX" else "ForCausalLM"
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings, **more)
    model = getattr(transformers, kind + suffix)(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(8)
    return model


def gpt2(**more):
    """With the dropout that its configuration has by default."""
    return HuggingFaceModel(transformer("GPT2", FAMILIES["GPT2"], **more))


def llama():
    return HuggingFaceModel(transformer("Llama", USUAL))


def pairs():
    other = COMPLETIONS[1:] + COMPLETIONS[:1]
    ones = torch.ones(4)
    return PairBatch(pack(PROMPTS, COMPLETIONS), pack(PROMPTS, other), ones, ones)


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


families = pytest.mark.parametrize(
    ("family", "settings"),
    [
        *FAMILIES.items(),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW.items()),
    ],
)


@families
def test_a_family_is_read_as_transformers_reads_it_or_refused(family, settings):
    """Log-probabilities with padding on either side; and what is sampled with and without cache."""
    theirs = transformer(family, settings)
    model = HuggingFaceModel(theirs)
    with torch.no_grad():
        ours = sequence_logps(model, pack(PROMPTS, COMPLETIONS))
        for i, (x, y) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            logp = theirs(torch.tensor([x + y])).logits.log_softmax(-1)[0]
            expected = sum(logp[len(x) - 1 + t, token] for t, token in enumerate(y))
            torch.testing.assert_close(ours[i], expected, atol=1e-4, rtol=0)
    assert model.width == model.hidden(torch.tensor([[3]])).shape[-1]
    prompts = torch.randint(2, 16, (16, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(16, 5, dtype=torch.bool)
    mask[::2, :3] = False
    for padding in (None, mask):
        found = [
            sample(model, prompts, 8, torch.Generator().manual_seed(2), padding, cached=cached)
            for cached in (True, False)
        ]
        assert torch.equal(found[0].ids, found[1].ids)
        assert len(found[0].completions.unique()) > 8  # not one token again and again
        twice = None if padding is None else padding.repeat_interleave(2, 0)
        repeated = prompts.repeat_interleave(2, 0)
        expected = sample(model, repeated, 8, torch.Generator().manual_seed(2), twice)
        copied = sample(model, prompts, 8, torch.Generator().manual_seed(2), padding, copies=2)
        assert torch.equal(copied.ids, expected.ids)


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_would_be_read_otherwise_is_refused(family):
    settings, how = REFUSED[family]
    with pytest.raises(ValueError, match=f"model: {family}.*{how}"):
        HuggingFaceModel(transformer(family, settings))


def test_a_scaling_that_has_no_known_name_is_refused():
    theirs = transformer("Llama", USUAL)
    plain = theirs.forward
    theirs.forward = lambda *args, **kwargs: doubled(plain(*args, **kwargs))
    with pytest.raises(ValueError, match="LlamaForCausalLM's log-probabilities read from its last"):
        HuggingFaceModel(theirs)


def doubled(out):
    out.logits = 2 * out.logits
    return out


def test_a_cache_that_is_lost_without_padding_is_noticed():
    theirs = transformer("Llama", USUAL)
    read = theirs.model.forward

    @functools.wraps(read)
    def forgetful(*args, **kwargs):
        if "attention_mask" not in kwargs:
            kwargs = {name: x for name, x in kwargs.items() if name in ("input_ids", "use_cache")}
        return read(*args, **kwargs)

    theirs.model.forward = forgetful
    with pytest.raises(ValueError, match="log-probabilities read from its cache differ"):
        HuggingFaceModel(theirs)


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_is_tried_and_sampled_from_without_dropout_and_keeps_its_modes(mode):
    theirs = transformer("GPT2", FAMILIES["GPT2"]).train(mode)
    theirs.transformer.h[0].eval()  # frozen, say
    before = [module.training for module in theirs.modules()]
    model = HuggingFaceModel(theirs)
    prompts = torch.arange(2, 14).view(6, 2)
    found = sample(model, prompts, 8)
    assert [module.training for module in theirs.modules()] == before
    assert model.training == mode
    assert torch.equal(found.ids, sample(gpt2(), prompts, 8).ids)


def test_a_model_without_an_end_is_refused():
    with pytest.raises(ValueError, match="eos=None"):
        HuggingFaceModel(transformer("Llama", {**USUAL, "eos_token_id": None}))


# ---- LoRA ------------------------------------------------------------------------------------


def adapted(**options):
    """A policy whose adapters have moved, and what it said before it had any."""
    pytest.importorskip("peft")
    model = llama()
    with torch.no_grad():
        before = sequence_logps(model, pack(PROMPTS, COMPLETIONS))
        model.add_lora(2, **options)
        for p in trained(model):
            p.normal_(std=0.2)  # were they all equal, those of the head would shift all logits
    return model, before


def test_a_policy_that_was_saved_goes_on_with_its_adapters(tmp_path):
    model, before = adapted()
    batch = pack(PROMPTS, COMPLETIONS)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        policy, reference = sequence_logps(model, batch), sequence_logps(model.reference(), batch)
        model.save_pretrained(tmp_path)
        saved = sequence_logps(HuggingFaceModel.from_pretrained(tmp_path), batch)
        torch.testing.assert_close(saved, policy, atol=1e-4, rtol=0)
        assert torch.equal(sequence_logps(model.reference(), batch), reference)
    torch.testing.assert_close(reference, before)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())
    assert len(trained(model)) == 16
    trainer = OfflineTrainer(model, model.reference(), pairs(), batch_size=4)
    trainer.train(2)
    with torch.no_grad():
        assert not torch.allclose(sequence_logps(model, batch), policy)


def test_the_reference_has_no_adapter_anywhere_and_can_be_sampled_from():
    model, before = adapted(targets=("q_proj", "lm_head"))
    reference, batch = model.reference(), pack(PROMPTS, COMPLETIONS)
    assert reference.device == model.device
    with torch.no_grad():
        torch.testing.assert_close(sequence_logps(reference, batch), before)
    generator = torch.Generator()
    found, expected = (
        sample(each, batch.prompts, 8, generator.manual_seed(0), batch.prompt_mask).ids
        for each in (reference, llama())
    )
    assert torch.equal(found, expected)


def test_layers_that_a_model_lacks_are_named_with_its_own():
    pytest.importorskip("peft")
    model = gpt2()
    with pytest.raises(ValueError, match="q_proj, k_proj.*GPT2LMHeadModel.*c_attn, c_proj, c_fc"):
        model.add_lora(2)
    model.add_lora(2, targets=("c_attn",))
    assert len(trained(model)) == 4


# ---- dropout ---------------------------------------------------------------------------------


def test_the_first_loss_of_dpo_is_ln_2_for_a_model_with_dropout():
    model = gpt2()
    trainer = OfflineTrainer(model, copy.deepcopy(model), pairs(), batch_size=4)
    assert trainer.train(1)["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    model = gpt2()
    trainer = OfflineTrainer(model, copy.deepcopy(model), pairs(), batch_size=4, dropout=True)
    assert trainer.train(1)["train/loss"] != pytest.approx(math.log(2), abs=1e-6)


def test_a_reference_says_the_same_while_its_policy_has_dropout_on():
    pytest.importorskip("peft")
    model = gpt2().add_lora(2, targets=("c_attn",))
    quiet = reference_logps(model.reference(), pairs())
    model.train()
    for reference in (model, model.reference()):
        for found, expected in zip(reference_logps(reference, pairs()), quiet, strict=True):
            assert torch.equal(found, expected)
    batch = pairs().both
    assert torch.equal(
        sequence_logps(model.reference(), batch), sequence_logps(model.reference(), batch)
    )
    assert model.training


def test_a_rollout_is_read_without_dropout():
    """Else the policy that has not moved would be far from its copy."""
    model = gpt2().train()
    trainer = OnlineTrainer(
        model,
        copy.deepcopy(model),
        lambda batch: batch.lengths.float(),
        lambda n, generator: torch.full((n, 3), 4),
        OnlineConfig(prompts=4, new_tokens=6),
    )
    assert trainer.train(1)["rollout/kl_k1"] == pytest.approx(0, abs=1e-6)


# ---- in parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 4])
def test_no_more_pairs_are_read_at_once_than_the_batch_has(size, monkeypatch):
    model = llama()
    whole = reference_logps(model, pairs())
    rows = []
    hidden = HuggingFaceModel.hidden
    monkeypatch.setattr(
        HuggingFaceModel,
        "hidden",
        lambda self, ids, mask=None: rows.append(len(ids)) or hidden(self, ids, mask),
    )
    for found, expected in zip(reference_logps(model, pairs(), size), whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert max(rows) == 2 * size and sum(rows) == 8
    rows.clear()
    OfflineTrainer(model, model, pairs(), batch_size=size)
    assert max(rows) == 2 * size
