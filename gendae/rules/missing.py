"""Inference of missing values in training: labels that are unknown, latents at the top.

Inference stands in for observation, as in variational EM: an inferred value counts as observed in
the update that follows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from gendae import checks
from gendae.corruption import uniform_like
from gendae.models.joint import JointStack
from gendae.registry import register
from gendae.rules.moment import Moment


@register
@dataclass(frozen=True)
class Hiding:
    """A random part of the observed modalities is hidden from the junction.

    Source: Bengio 2014, section 4 ("randomly hiding some subset of the observed modalities").

    Args:
        chances: probability that an observed modality is hidden; a number, or one for each
            modality by name. One modality always stays.
        walkback: further rounds of the junction. Each starts at the last one's end, with the
            hidden parts filled in; all have the clean codes as target. Chains and ascent then do
            not run into spurious modes (7.5). The price is spread: from a start that says nothing
            of the hidden part, the target teaches its mean.

    Raises:
        ValueError: for a negative walkback; when used, for chances outside [0, 1] and unknown
            names.
    """

    chances: float | dict[str, float] = 0.5
    walkback: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.chances, Mapping):
            checks.share("hiding.chances", self.chances)
        checks.whole("hiding.walkback", self.walkback, 0, checks.REPEATS)

    def of_each(self, stack: JointStack) -> list[float]:
        """The chance of each modality."""
        return by_name(stack, "hiding.chances", self.chances, default=0.0, most=1.0)

    def __call__(self, stack: JointStack, there: Tensor, generator: Generator | None) -> Tensor:
        """Which modalities the junction sees, (batch, N), of those that are there."""
        return hidden(there, self.of_each(stack), generator)


@register
@dataclass(frozen=True)
class Inferring:
    """Labels that are not observed are inferred from the rest (MAP, without noise).

    A label of which the model is sure counts as an observed one in the update that follows:
    semi-supervised learning by inferring what is missing.

    Args:
        weight: of inferred labels beside observed ones; 0 infers none.
        confidence: least probability of an inferred label.
        ramp: fraction of training over which the weight grows from 0.

    Raises:
        ValueError: for negative numbers, or a confidence outside [0, 1].
    """

    weight: float = 0.0
    confidence: float = 0.9
    ramp: float = 0.3

    def __post_init__(self) -> None:
        checks.at_least("inferring.weight", self.weight, 0.0)
        checks.share("inferring.confidence", self.confidence)
        checks.at_least("inferring.ramp", self.ramp, 0.0)

    def weight_at(self, moment: Moment) -> float:
        """Weight of inferred labels now; the full one outside a Trainer."""
        if self.ramp == 0 or moment.update is None:
            return self.weight

        return self.weight * min(1.0, moment.progress / self.ramp)


def by_name(
    stack: JointStack,
    argument: str,
    value: float | Mapping[str, float],
    default: float,
    most: float = math.inf,
) -> list[float]:
    """One number for each modality; the default for those that a mapping does not name."""
    if not isinstance(value, Mapping):
        value = dict.fromkeys(stack.names, value)

    for name, number in value.items():
        stack.index(name)
        checks.at_least(f"{argument}[{name!r}]", number, 0.0)
        if number > most:
            raise ValueError(f"{argument}[{name!r}]={number}: a number in [0, {most:g}] is needed")

    return [float(value.get(name, default)) for name in stack.names]


def hidden(there: Tensor, chances: Sequence[float], generator: Generator | None) -> Tensor:
    """A random part of the observed modalities, (batch, N).

    Each modality is hidden by its chance, but at least one of each row stays.
    Source: Bengio 2014, section 4 ("randomly hiding some subset of the observed modalities").
    """
    chance = torch.tensor(list(chances), device=there.device)
    draw = uniform_like(there.to(chance.dtype), generator)
    seen = there & (draw >= chance)

    # where none stayed: the observed modality with the largest draw above its chance
    rescue = (draw - chance).masked_fill(~there, -2.0).argmax(1, keepdim=True)
    kept = torch.zeros_like(there).scatter(1, rescue, True) & there

    return torch.where(seen.any(1, keepdim=True), seen, kept)


def labels(
    stack: JointStack, codes: Tensor, there: Tensor, wanted: Sequence[int], confidence: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The most probable label where one is missing and certain.

    Source: Bengio 2014, Algorithm 4, as the E-step for missing labels; section 3 leaves them out.

    Args:
        stack: the model.
        codes: h_J, (batch, width).
        there: which modalities are observed, (batch, N).
        wanted: positions of the labels among the modalities.
        confidence: least probability of a label that is taken.

    Returns:
        The labels' slices of h_J by name, and a mask of the inferred labels, (batch, N).
    """
    guesses = stack.separate(stack.loop(codes, there), stack.level)
    known = stack.separate(codes, stack.level)

    values = {}
    new = torch.zeros_like(there)
    for t in wanted:
        name = stack.names[t]
        p, best = guesses[name].max(1)
        new[:, t] = ~there[:, t] & (p >= confidence)

        label = one_hot(best, guesses[name].shape[1]).to(codes)
        values[name] = torch.where(new[:, t : t + 1], label, known[name])

    return values, new


def latents(
    stack: JointStack,
    codes: Tensor,
    there: Tensor,
    seen: Tensor,
    weights: Sequence[float],
    generator: Generator | None,
) -> dict[str, Tensor]:
    """Slices of h_J for the latent modalities, drawn from their posterior.

    P(phi | h) is proportional to P(h | phi, the part of h that the junction sees).

    phi stands for what the rest of the input leaves open. Each of its values is tried as an input
    of the junction, beside the modalities that are not hidden. The value's likelihood, under a
    uniform prior, is how well all observed modalities are then reconstructed. The posterior may
    have several modes, and a draw is in one of them.
    Source: Bengio 2014, question 8 ("auxiliary pseudo-input variables to the top-level
    auto-encoder"), and the slides, "Ambiguous Multi-Modal Posteriors on Latent Variables".

    Args:
        stack: the model.
        codes: h_J, (batch, width).
        there: which modalities are observed, (batch, N).
        seen: which of them the junction sees, (batch, N).
        weights: of the modalities' reconstructions.
        generator: source of the draws.
    """
    values = {}
    scale = codes.new_tensor(list(weights)) * there

    for name in stack.latents:
        t = stack.index(name)
        width = stack.modalities[name].width
        shown = seen.clone()
        shown[:, t] = True

        energies = []
        for k in range(width):
            phi = one_hot(torch.full((len(codes),), k, device=codes.device), width).to(codes)
            trial = stack.replace(codes, stack.level, values | {name: phi})
            each = stack.junction.observation.energies(codes, stack.loop(trial, shown))
            energies.append((each * scale).sum(1))

        posterior = torch.softmax(-torch.stack(energies, 1), 1)
        draw = torch.multinomial(posterior, 1, generator=generator)[:, 0]
        values[name] = one_hot(draw, width).to(codes)

    return values
