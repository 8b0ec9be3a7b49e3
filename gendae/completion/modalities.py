"""Completion: any modalities of a joint stack, or any of their elements, given any others.

Source: Bengio 2014, Algorithm 6 and sections 3.2, 4 and 7.5.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.chain import Completion
from gendae.completion.completer import Completer
from gendae.completion.inpainting import Inpainter
from gendae.completion.moves import whole
from gendae.inference import fill
from gendae.models.joint import JointStack, channels_of, present
from gendae.priors.base import Prior
from gendae.sampling.samplers import BATCH, seeded


class Values(NamedTuple):
    """Completed examples by modality, (batch, width) each, and how the completion went."""

    values: dict[str, Tensor]
    completion: Completion


@checks.takes_arrays
@torch.no_grad()
def complete(
    stack: JointStack,
    given: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    n: int = 1,
    completer: Completer | Inpainter | None = None,
    seed: int | None = None,
    batch_size: int = BATCH,
) -> Values:
    """All modalities, given any of them, or any elements of them.

    Args:
        stack: a trained joint stack.
        given: values by name, see `JointStack.join`.
        masks: for modalities of which only a part is given, True where an element is given,
            (width,) or (batch, width).
        n: answers for each row; they follow each other.
        completer: the stack's own if None, or else its inpainter.
        seed: of noise and draws.
        batch_size: rows computed at a time.

    Returns:
        values in CPU memory, observed ones exactly as given.

    Raises:
        ValueError: for unknown names, nothing given, wrong widths, and masks that are not boolean
            or do not fit.

    Example:
        >>> from gendae.models.architectures import joint_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> label = {"sizes": [3], "kind": "onehot"}
        >>> joint = joint_autoencoder({"image": {"sizes": [8, 6]}, "label": label}, top=[5])
        >>> given = {"image": torch.rand(2, 8)}
        >>> answer = complete(joint, given, completer=Completer.map(3, tolerance=0.0))
        >>> answer.values["label"].shape, answer.completion.rounds
        (torch.Size([2, 3]), 3)
    """
    n = checks.whole("n", n, 1)
    batch_size = checks.whole("batch_size", batch_size, 1)

    clamped = clamp(stack, given, masks)
    checks.fits("n", n, n * clamped[0].numel())
    x, observed, mask = (part.repeat_interleave(n, 0) for part in clamped)
    completer = _completer_for(stack, completer, observed, mask)
    generator = seeded(seed)

    values = []
    completions = []
    batches = [part.split(batch_size) for part in (x, observed, mask)]
    for rows, there, elements in zip(*batches, strict=True):
        completion, down = _complete_batch(stack, completer, rows, there, elements, generator)
        values.append(fill(rows, elements, down).cpu())
        completions.append(completion)

    return Values(stack.separate(torch.cat(values)), _together(completions))


def _completer_for(
    stack: JointStack, completer: Completer | Inpainter | None, observed: Tensor, mask: Tensor
) -> Completer | Inpainter:
    """The completer, the stack's own if None; at level 0 if a modality is observed in part.

    A ValueError for a completer at a level where modalities are not clamped.
    """
    completer = completer or stack.settings.completer or stack.settings.inpainter or Completer()

    level = completer.clamped_level(stack)
    if (
        isinstance(completer, Completer)
        and level > 0
        and bool((mask != stack.spread(observed)).any())
    ):
        return completer.at(0)

    if level not in (0, stack.level):
        raise ValueError(
            f"level={level}: modalities are clamped at level 0 (their values) or {stack.level} "
            "(their codes)"
        )

    return completer


def _complete_batch(
    stack: JointStack,
    completer: Completer | Inpainter,
    x: Tensor,
    observed: Tensor,
    mask: Tensor,
    generator: Generator | None,
) -> tuple[Completion, Tensor]:
    """The completion at the completer's level, and x decoded from it."""
    level = completer.clamped_level(stack)
    h = x
    if level == stack.level:
        h = stack.lower(x)[-1]

    clamped = mask
    if level > 0:
        clamped = stack.spread(observed, level)

    completion = completer(stack, h, clamped, observed, generator)
    if level == 0 or isinstance(completer, Inpainter):
        return completion, completion.h

    return completion, completer.values(stack, completion.h, generator)


def _together(completions: Sequence[Completion]) -> Completion:
    """Completions of several batches as one; shorter ones repeat their last residuals."""
    rounds = max(completion.rounds for completion in completions)

    residuals = []
    for completion in completions:
        padding = completion.residuals[-1:].expand(rounds - completion.rounds, -1)
        residuals.append(torch.cat([completion.residuals, padding]))

    return Completion(
        torch.cat([completion.h for completion in completions]),
        torch.cat(residuals, 1),
        torch.cat([completion.converged for completion in completions]),
    )


def hide(stack: JointStack, name: str, value: Tensor, mask: Tensor) -> Tensor:
    """Values with 0 where they are not observed: the given ones are ignored there."""
    width = stack.modalities[name].width
    if value.ndim != 2 or value.shape[1] != width:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; with a mask, rows of width {width} are "
            f"needed (modalities: {stack.described()})"
        )

    value = value.cpu()
    if not value.is_floating_point():
        value = value.to(stack.dtype)

    mask = mask.cpu().expand_as(value)
    there = present(value) & mask.any(1)  # otherwise the row is missing altogether

    return torch.where(mask, value, 0.0).masked_fill(~there[:, None], torch.nan)


def clamp(
    stack: JointStack, given: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x, which modalities are given, (batch, N), and which elements of x, (batch, width)."""
    masks = {name: _fitting_mask(stack, given, name, mask) for name, mask in (masks or {}).items()}

    given = dict(given)
    for name, mask in masks.items():
        given[name] = hide(stack, name, given[name], mask)

    x, observed = stack.join(given)
    elements = stack.separate(stack.spread(observed))
    for name, mask in masks.items():
        elements[name] = elements[name] & mask.to(x.device)

    return x, observed, torch.cat(list(elements.values()), 1)


def _fitting_mask(
    stack: JointStack, given: Mapping[str, Tensor], name: str, mask: Tensor
) -> Tensor:
    """The mask of a given modality, boolean and of its width, see `checks.mask`."""
    stack.index(name)
    if name not in given:
        raise ValueError(
            f"a mask is given for {name!r}, but no values; given: {', '.join(given) or 'nothing'}"
        )

    rows = given[name].shape[0] if given[name].ndim else 0
    try:
        width = stack.modalities[name].width
        return checks.mask(f"mask of {name!r}", mask, rows, width, channels_of(stack, name))
    except ValueError as error:
        raise ValueError(f"{error} (modalities: {stack.described()})") from None


@checks.takes_arrays
def log_conditional(prior: Prior, h: Tensor, observed: Tensor) -> Tensor:
    """log p(h_missing | h_observed) under a Gaussian or Parzen prior, in nats, (batch,).

    Args:
        prior: fitted, over whole h.
        h: (batch, width).
        observed: which elements are, (width,), the same for all rows.

    Raises:
        ValueError: for priors whose marginals have no closed form.
    """
    prior = whole(prior)

    return prior.log_prob(h) - prior.marginal(observed).log_prob(h[:, observed])
