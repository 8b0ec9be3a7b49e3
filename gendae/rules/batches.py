"""What is wrong with the data: looked for in the first batches, and where training diverged."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendae import checks
from gendae.data.loader import Split
from gendae.layers.layers import in_shape
from gendae.layers.optimized import code_range
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.rules.processes import first_said, like_parameters

if TYPE_CHECKING:
    from gendae.rules.shell import Shell

#: How far x may leave the range of g_1, as a share of it: resized images overshoot a little.
OVERSHOOT = 0.1
#: Most training examples in which a cause is looked for.
SEARCHED = 200_000


def check(rule: "Shell", batch: Sequence[Tensor], name: str) -> None:
    """Raise one ValueError, on all processes, unless the model can learn from a batch.

    Args:
        rule: whose stack sees the batch.
        batch: as the rule's losses take it.
        name: of the batch.

    Raises:
        ValueError: that names the batch, the argument and the cure.
    """
    x = Split.of(batch).x
    wrong = (
        _not_received(rule, x) or _wrong_shape(rule, x) or _not_finite(x) or _out_of_range(rule, x)
    )
    wrong = first_said(rule.trainer, wrong and f"{name}: x {wrong}")
    if wrong:
        raise ValueError(wrong)


def check_shapes(stack: Stack, data: object) -> None:
    """Raise a ValueError for images of another shape than convolutions take: rows would fit.

    Args:
        stack: the model.
        data: the data set, if it is one of gendae's; any other says no shape.
    """
    name = type(data).__name__
    if isinstance(stack, JointStack):
        shapes = getattr(data, "shapes", {})
        for modality in shapes.keys() & stack.modalities.keys():
            own = stack.modalities[modality].pairs
            taken = in_shape(own[0].f) if own else ()
            _check_shape(f"{modality} of {name}", shapes[modality], taken)

    elif getattr(data, "kind", None) in ("image", "whitened"):
        _check_shape(name, data.shape, stack.shapes[0])


def check_images(stack: Stack, batch: Sequence[Tensor]) -> None:
    """The same of images, (n, channels, height, width), that a loader of the user's gives."""
    x = Split.of(batch).x
    if x.ndim == 4 and not isinstance(stack, JointStack):
        _compare_shapes("the batch", tuple(x.shape[1:]), stack.shapes[0])


def _check_shape(name: str, held: Sequence[int], taken: tuple[int, ...]) -> None:
    """See `check_shapes`; `held` is the shape of the images as data say it."""
    _compare_shapes(name, tuple(checks.ImageShape.of(held)), taken)


def _compare_shapes(name: str, held: tuple[int, ...], taken: tuple[int, ...]) -> None:
    if len(taken) != len(held) or held == taken:
        return

    cure = ""
    if held[1:] == taken[1:] and checks.RGB in (held[0], taken[0]):
        color = "rgb" if taken[0] == checks.RGB else "grey"
        cure = f'; Images take color="{color}" (--data.color {color})'
    raise ValueError(
        f"{name} has images of (channels, height, width) = {held}; the model takes {taken}{cure}"
    )


def _not_received(rule: "Shell", x: Tensor) -> str | None:
    """Where a DataModule has a hook in the place of the rule's, which converts batches."""
    like = next(rule.stack.parameters())
    if (x.dtype, x.device) == (like.dtype, like.device):
        return None

    return (
        f"is {x.dtype} on {x.device}, and the model {like.dtype} on {like.device}; "
        "on_after_batch_transfer of the DataModule, which takes the place of the rule's, has to "
        "convert it"
    )


def _wrong_shape(rule: "Shell", x: Tensor) -> str | None:
    width = rule.stack.sizes[0]
    if isinstance(rule.stack, JointStack) or (x.ndim == 2 and x.shape[1] == width):
        return None  # rules of several modalities know which of them data hold

    if x.ndim == 1 and len(x) == width:
        return (
            f"has shape ({width},), which is one example; the model takes (batch, {width}): give "
            "the Trainer a torch.utils.data.DataLoader with a batch_size"
        )

    cure = f"use a model of {x[:1].numel()} inputs, or data of {width} values"
    if x[:1].numel() == width:
        cure = "flatten it, x.flatten(1)"
    return f"has shape {tuple(x.shape)}; the model takes (batch, {width}): {cure}"


def _not_finite(x: Tensor) -> str | None:
    bad = int((~torch.isfinite(x)).sum())
    if bad == 0:
        return None

    return f"holds {bad} NaN or infinite values; replace them, or leave their rows out"


def _out_of_range(rule: "Shell", x: Tensor) -> str | None:
    """Levels of grey for a model of numbers around 1, or values that its g_1 never gives."""
    if x.numel() == 0 or isinstance(rule.stack, JointStack):
        return None

    low = float(x.min())
    high = float(x.max())
    told = f"holds values from {low:g} to {high:g}"
    if 0.0 <= low and checks.SEVEN_BITS < high <= 255.0:
        return f"{told}, as images of 0..255 do: divide by 255, or bring it to numbers around 1"

    least, most = range_of_x(rule)
    room = OVERSHOOT * (most - least)
    if low >= least - room and high <= most + room:
        return None

    return (
        f"{told}, and g_1 gives {least:g} to {most:g}: bring x into this range (divide images of "
        "0..255 by 255), or give the model linear visible units"
    )


def range_of_x(rule: "Shell") -> tuple[float, float]:
    """Between which numbers g_1 gives values, where a rule trains it and they are bounded."""
    low, high = code_range(getattr(rule.stack.pairs[0].g, "activation", None))
    if rule.generative and torch.inf not in (-low, high):
        return low, high

    return -torch.inf, torch.inf


def advice(rule: "Shell") -> str:
    """What to do after a divergence: what the training data say, or else what helps most often."""
    return cause(rule) or "lower the learning rates or raise the corruption of x"


def cause(rule: "Shell") -> str | None:
    """What is wrong with the training data of any process; None without a Trainer."""
    if rule._trainer is None:
        return None

    return first_said(rule.trainer, _own_cause(rule))


def _own_cause(rule: "Shell") -> str | None:
    """What is wrong with this process's training data, if anything is."""
    first = None
    equal = 0
    for index, x in enumerate(_examples(rule)):
        bad = _not_finite(x)
        if bad:
            return f"batch {index} of the training data, in order: x {bad}"

        first = x[:1] if first is None else first
        if equal is not None:
            equal = equal + len(x) if bool((x == first).all()) else None

    if not equal:
        return None
    return (
        f"all {equal} training examples are equal, so that their codes have no spread for a prior "
        "to fit: use data that vary"
    )


def _examples(rule: "Shell") -> Iterator[Tensor]:
    """x of the training batches, in order."""
    count = 0
    for batch in rule.training_batches():
        x = like_parameters(rule.stack, batch).x
        yield x

        count += len(x)
        if count >= SEARCHED:
            return
