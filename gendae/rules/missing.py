"""Inference of missing values in training: labels that are unknown, latents at the top.

Inference stands in for observation, as in variational EM: an inferred value counts as observed in
the update that follows.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from gendae.corruption import uniform_like
from gendae.models.joint import JointStack


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
