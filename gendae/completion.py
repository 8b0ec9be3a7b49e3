"""Completion: any modalities of a joint stack, or any of their elements, given any others.

Source: Bengio 2014, Algorithm 6 and sections 3.2, 4 and 7.5.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gendae import checks
from gendae.clamping import Completer, Completion, whole
from gendae.inference import fill
from gendae.joint import JointStack, present
from gendae.priors import Prior
from gendae.sampling import BATCH, seeded


class Values(NamedTuple):
    """Completed examples by modality, (batch, width) each, and how the completion went."""

    values: dict[str, Tensor]
    completion: Completion


@torch.no_grad()
def complete(
    stack: JointStack,
    given: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    n: int = 1,
    completer: Completer | None = None,
    seed: int | None = None,
    batch_size: int = BATCH,
) -> Values:
    """All modalities, given any of them, or any elements of them.

    Args:
        stack: a trained joint stack.
        given: values by name, see `JointStack.join`.
        masks: for modalities of which only a part is given, True where an element is, (width,) or (batch, width).
        n: answers for each row; they follow each other.
        completer: the stack's own if None.
        seed: of noise and draws.
        batch_size: rows computed at a time.

    Returns:
        values in CPU memory, observed ones exactly as given.

    Raises:
        ValueError: for unknown names, nothing given, wrong widths, and masks that are not boolean or do not fit.

    Example:
        >>> from gendae.models import joint_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> joint = joint_autoencoder({"image": {"sizes": [8, 6]}, "label": {"sizes": [3], "kind": "onehot"}}, top=[5])
        >>> found = complete(joint, {"image": torch.rand(2, 8)}, completer=Completer.map(3, tolerance=0.0))
        >>> found.values["label"].shape, found.completion.rounds
        (torch.Size([2, 3]), 3)
    """
    n, batch_size = checks.whole("n", n, 1), int(checks.at_least("batch_size", batch_size, 1))
    x, observed, mask = clamp(stack, given, masks)
    x, observed, mask = (part.repeat_interleave(n, 0) for part in (x, observed, mask))
    completer = (
        completer
        or stack.settings.get("completer")
        or stack.settings.get("inpainting")
        or Completer()
    )
    partial = bool((mask != stack.spread(observed)).any())
    completer, generator = completer.at(0) if partial else completer, seeded(seed)
    level = completer.level_of(stack)
    if level not in (0, stack.level):
        raise ValueError(
            f"level={level}: modalities are clamped at level 0 (their values) or {stack.level} (their codes)"
        )
    found, xs = [], []
    for rows, there, elements in zip(
        *(part.split(batch_size) for part in (x, observed, mask)), strict=True
    ):
        h = stack.lower(rows)[-1] if level == stack.level else rows
        clamped = stack.spread(there, level) if level > 0 else elements
        result = completer(stack, h, clamped, there, generator)
        found.append(result)
        down = stack.down(result.h) if level == stack.level else result.h
        xs.append(fill(rows, elements, down).cpu())
    rounds = max(result.rounds for result in found)
    padded = [
        torch.cat([r.residuals, r.residuals[-1:].expand(rounds - r.rounds, -1)]) for r in found
    ]
    together = Completion(
        torch.cat([r.h for r in found]),
        torch.cat(padded, 1),
        torch.cat([r.converged for r in found]),
    )
    return Values(stack.separate(torch.cat(xs)), together)


def hide(stack: JointStack, name: str, value: Tensor, mask: Tensor) -> Tensor:
    """Values with 0 where they are not observed: what stands there is ignored."""
    width = stack.modalities[name].width
    if value.ndim != 2 or value.shape[1] != width:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; with a mask, rows of width {width} are needed "
            f"(modalities: {stack.described()})"
        )
    value = value.cpu() if value.is_floating_point() else value.cpu().to(stack.dtype)
    mask = mask.cpu().expand_as(value)
    there = present(value) & mask.any(1)  # otherwise the row is missing altogether
    return torch.where(mask, value, 0.0).masked_fill(~there[:, None], torch.nan)


def clamp(
    stack: JointStack, given: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x, which modalities are given, (batch, N), and which elements of x, (batch, width)."""
    for name, mask in (masks or {}).items():
        stack.index(name)
        width = stack.modalities[name].width
        if name not in given:
            raise ValueError(
                f"a mask is given for {name!r}, but no values; given: {', '.join(given) or 'nothing'}"
            )
        rows = given[name].shape[0] if given[name].ndim else 0
        fits = (
            mask.dtype == torch.bool
            and mask.ndim in (1, 2)
            and mask.shape[-1] == width
            and (mask.ndim == 1 or len(mask) in (1, rows))
        )
        if not fits:
            raise ValueError(
                f"mask of {name!r} has shape {tuple(mask.shape)} and type {mask.dtype}; a boolean one of shape "
                f"({width},) or ({rows}, {width}) is needed, True where observed "
                f"(modalities: {stack.described()})"
            )
    given = {
        name: value if name not in (masks or {}) else hide(stack, name, value, masks[name])
        for name, value in given.items()
    }
    x, observed = stack.join(given)
    parts = []
    for name, seen in stack.separate(stack.spread(observed)).items():
        own = (masks or {}).get(name)
        parts.append(seen if own is None else seen & own.to(seen.device))
    return x, observed, torch.cat(parts, 1)


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
