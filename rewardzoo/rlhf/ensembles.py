"""Ensembles of reward models: stacked weights, standardised members, conservative objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .decoder import Decoder, LanguageModel
from .pairs import PairBatch, RatingBatch
from .reward_models import RewardModel, train_reward_model
from .scoring import decoder_scores
from .sequences import Sequences


def worst(scores: Tensor, coef: float) -> Tensor:
    """The least of the members' scores (worst-case optimisation)."""
    return scores.amin(0)


def uncertainty_weighted(scores: Tensor, coef: float) -> Tensor:
    """Mean minus ``coef`` times the variance, which is unbiased: k - 1 divides, not k.

    The paper's own code divides by k in best-of-n, where its ``coef`` is k / (k - 1) times this.
    """
    return scores.mean(0) - coef * scores.var(0)


def mean_minus_std(scores: Tensor, coef: float) -> Tensor:
    """Mean minus ``coef`` times the standard deviation."""
    return scores.mean(0) - coef * scores.std(0)


OBJECTIVES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": lambda scores, coef: scores.mean(0),
    "median": lambda scores, coef: scores.quantile(0.5, 0),
    "wco": worst,
    "uwo": uncertainty_weighted,
    "mean_std": mean_minus_std,
}


class Ensemble(nn.Module):
    """Several reward models of one architecture, combined.

    Args:
        members: at least 2, each with its normaliser fitted: raw scores have arbitrary offsets and
            scales, so a minimum over them means nothing.
        objective: one of ``OBJECTIVES``.
        coef: of ``uwo`` and ``mean_std``; 0 is the mean.
        standardise: without it raw scores are combined, as the paper's own code does.

    Raises:
        ValueError: for a member whose normaliser is not fitted, if it would be used.

    Paper: Coste et al. (2024), "Reward model ensembles help mitigate overoptimization".
    """

    def __init__(
        self,
        members: Sequence[RewardModel],
        objective: str = "wco",
        coef: float = 0.5,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"objective={objective!r}: expected one of {', '.join(OBJECTIVES)}")
        if len(members) < 2:
            raise ValueError(f"members: {len(members)} of them, expected at least 2")
        self.objective, self.coef = objective, float(coef)
        # One copy gives the code; it is given the weights of the members.
        template = copy.deepcopy(members[0])
        parameters, buffers = torch.func.stack_module_state(list(members))
        if not standardise:
            buffers["mean"] = torch.zeros_like(buffers["mean"])
            buffers["std"] = torch.ones_like(buffers["std"])
        elif raw := [i for i, member in enumerate(members) if not member.standardised]:
            raise ValueError(
                f"members: the normaliser of member {raw[0]} is not fitted; call fit_normaliser on "
                "a base policy's samples, or give standardise=False"
            )
        self._names = list(parameters) + list(buffers)
        for i, name in enumerate(self._names):
            tensor = {**parameters, **buffers}[name].detach()
            self.register_buffer(f"stacked_{i}", tensor)
        self._template = [template]  # in a list, so that its weights are not saved

    def scores(self, batch: Sequences) -> Tensor:
        """Scores of every member, (k, B)."""
        if batch.ids.device.type != "cpu":
            return self.mapped(batch)
        model, backbone = self._template[0], self._template[0].backbone
        # A subclass of either may compute something else.
        if type(model) is RewardModel and type(backbone) is Decoder:
            return decoder_scores(backbone, self._stacked, batch)
        return self.in_turn(batch)

    def mapped(self, batch: Sequences) -> Tensor:
        """The scores from one pass over all members at once, which suits a GPU."""
        return torch.vmap(lambda state: self._score(state, batch))(self._stacked)

    def in_turn(self, batch: Sequences) -> Tensor:
        """The same scores, one member after the other, which suits a CPU.

        One member's states fit into a core's cache and those of five do not.
        """
        stacked = self._stacked
        members = range(len(stacked[self._names[0]]))
        states = ({name: tensor[i] for name, tensor in stacked.items()} for i in members)
        return torch.stack([self._score(state, batch) for state in states])

    @property
    def _stacked(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"stacked_{i}") for i, name in enumerate(self._names)}

    def _score(self, state: dict[str, Tensor], batch: Sequences) -> Tensor:
        out: Tensor = torch.func.functional_call(self._template[0], state, (batch,))
        return out

    def forward(self, batch: Sequences) -> Tensor:
        """The objective, (B,)."""
        return OBJECTIVES[self.objective](self.scores(batch), self.coef)


def train_ensemble(
    data: PairBatch | RatingBatch,
    backbones: Sequence[LanguageModel],
    base: Sequences,
    size: int = 5,
    objective: str = "wco",
    coef: float = 0.5,
    **kwargs: Any,
) -> Ensemble:
    """Fit reward models that differ in their seed, and combine them.

    Args:
        data: pairs, or ratings, the same for all members.
        backbones: where the members start, taken in turn: one makes an ensemble of fine-tuning
            seeds; several that were pretrained apart, one of pretraining seeds.
        base: samples of a base policy, for the normalisers.
        size: number of members, at least 2.
        objective: of ``Ensemble``.
        coef: of ``Ensemble``.
        **kwargs: of ``train_reward_model``.

    Papers: Coste et al. (2024), "Reward model ensembles help mitigate overoptimization";
    Eisenstein et al. (2024), "Helping or herding?", for pretraining seeds.
    """
    members = []
    for seed in range(size):
        backbone = backbones[seed % len(backbones)]
        members.append(train_reward_model(data, backbone, seed=seed, **kwargs))
        members[-1].fit_normaliser(base)
    return Ensemble(members, objective, coef)
