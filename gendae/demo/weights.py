"""A model as the numbers that the page computes with.

A layer is a chain of affine maps, an array is text: base64 of its single-precision numbers, or of
whole numbers from -127 to 127 with one scale a row, a quarter of the size.
"""

import base64
import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gendae import checks
from gendae.data.files import image_shape
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair, Transpose
from gendae.layers.wrapped import Layer
from gendae.models.joint import JointStack, kind_of
from gendae.models.modalities import Masked, Slices
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.sampling.samplers import GenerateSampler, Sampler, sampler_of

BITS = (8, 32)
#: Codes of a prior that the page draws from, where the law has no short form.
CODES = 2_000

Numbers = dict[str, Any]


# -- arrays ---------------------------------------------------------------------------------------


def packed(array: Tensor, bits: int = 32) -> Numbers:
    """An array as text; vectors are always in single precision.

    Example:
        >>> packed(torch.tensor([1.0, 2.0]))
        {'shape': [2], 'bits': 32, 'data': 'AACAPwAAAEA='}
    """
    array = array.detach().float().cpu()
    if bits == 32 or array.ndim < 2:
        return {"shape": list(array.shape), "bits": 32, "data": _text(array.numpy(), "<f4")}

    whole, scale = _whole_numbers(array)
    return {
        "shape": list(array.shape),
        "bits": 8,
        "data": _text(whole.numpy(), "i1"),
        "scale": _text(scale.numpy(), "<f4"),
    }


def _whole_numbers(array: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as whole numbers from -127 to 127, and the scale of each row."""
    scale = array.abs().amax(1) / 127.0
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny)

    return (array / scale[:, None]).round(), scale


def _text(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()


def rounded(stack: Stack) -> Stack:
    """A copy whose weight matrices are those that 8 bits leave of them.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> gap = rounded(stack).pairs[0].f.weight - stack.pairs[0].f.weight
        >>> bool(gap.abs().max() < stack.pairs[0].f.weight.abs().max() / 250)
        True
    """
    stack = copy.deepcopy(stack)
    for layer in stack.modules():
        if isinstance(layer, Affine):
            whole, scale = _whole_numbers(layer.weight.detach())
            layer.weight = nn.Parameter(whole * scale[:, None])

    return stack


# -- models ---------------------------------------------------------------------------------------


def page_model(stack: Stack, name: str, bits: int = 32) -> Numbers:
    """A stack of affine maps, of images or points, as the page reads it.

    Args:
        stack: the model; a joint stack of an image and a label has its own form.
        name: shown on the page.
        bits: of a weight, 32 or 8.

    Raises:
        ValueError: for a model that the page cannot compute.
    """
    if isinstance(stack, JointStack):
        return _joint(stack, name, bits)

    kind = kind_of(stack)
    if kind not in ("image", "points"):
        raise ValueError(f"{name} is a model of {kind}; the page shows images and points")
    if stack.hard_levels:
        raise ValueError(f"{name} has discrete units; the page moves real ones, by small steps")

    return {
        "name": name,
        "kind": kind,
        "shape": list(_shape(name, stack.sizes[0], stack.facts.get("shape"))),
        "pairs": [_pair(name, pair, bits) for pair in stack.pairs],
        "prior": _prior(stack.prior, bits),
        "law": type(stack.law(0)).__name__,
        "rounds": _rounds(sampler_of(stack)),
    }


def _shape(name: str, features: int, shape: Sequence[int] | None) -> tuple[int, int]:
    """Height and width of the images that the page draws, which has no colour."""
    told = image_shape(features, shape)
    return checks.grey_shape(told, f"the page that shows {name}")


def _rounds(sampler: Sampler) -> int:
    """K of GENERATE, where the model samples by it; 0 for decoded draws of the prior."""
    return sampler.rounds if type(sampler) is GenerateSampler else 0


def _joint(stack: JointStack, name: str, bits: int) -> Numbers:
    """Encoder and decoder of the image, the junction of both codes, and the noise of a round."""
    kinds = {modality.kind: key for key, modality in stack.modalities.items()}
    if list(kinds) != ["pixels", "onehot"] or stack.level != 1 or stack.depth != 2:
        raise ValueError(
            f"{name} holds {stack.described()}; the page shows one image and its label, an image "
            "of one pair under one joint pair"
        )

    below, above = stack.pairs
    f, g = _slice(below.f), _slice(below.g)
    junction = above.f
    heads = above.g
    if not isinstance(junction, Masked) or not isinstance(heads, Heads):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{name} joins its modalities by other layers than the page's"
        )

    image = kinds["pixels"]
    shape = stack.facts.get("shapes", {}).get(image)
    noise = stack.loop_noise(1)
    return {
        "name": name,
        "kind": "joint",
        "shape": list(_shape(name, stack.modalities[image].width, shape)),
        "image": {"f": _layers(name, f, bits), "g": _layers(name, g, bits)},
        "junction": {"f": _layers(name, junction.f, bits), "g": _layers(name, heads.g, bits)},
        "activation": heads.given_activations[0],
        "widths": stack.widths(1),
        "noise": {
            "entering": packed(noise.entering),
            "passing": packed(noise.passing[0]),
            "rest": packed(noise.rest),
        },
    }


def _slice(layer: Layer) -> Layer:
    """The map of the first modality, of maps side by side."""
    return cast(Layer, layer.maps[0]) if isinstance(layer, Slices) else layer


def _pair(name: str, pair: Pair, bits: int) -> Numbers:
    return {"f": _layers(name, pair.f, bits), "g": _layers(name, pair.g, bits)}


def _layers(name: str, layer: Layer, bits: int) -> list[Numbers]:
    """The affine maps that a layer is a chain of."""
    parts = list(layer.layers) if isinstance(layer, MLP) else [layer]
    chain = []
    for part in parts:
        real = getattr(part, "receives", "real") == "real"
        if type(part) not in (Affine, Transpose) or not real:
            raise ValueError(
                f"{name} has a layer that the page cannot compute, {type(part).__name__}; "
                "accepted: Affine, MLP, and those of a TiedPair"
            )
        chain.append(cast(Affine | Transpose, part))

    return [
        {
            "weight": packed(part.weight, bits),
            "bias": packed(part.bias),
            "activation": part.activation,
        }
        for part in chain
    ]


def _prior(prior: Prior, bits: int) -> Numbers:
    """N(mean, R' R), or codes with noise of one width around them."""
    prior.require_fitted()
    if isinstance(prior, GaussianPrior):
        root = prior.spread.root(torch.eye(len(prior.mean)))
        return {"kind": "gaussian", "mean": packed(prior.mean), "root": packed(root)}

    if isinstance(prior, ParzenPrior):
        codes = prior.codes[:CODES]
        scale = prior.noise_scale
        if scale is None:
            scale = float(prior.noise_scale_)

        return {"kind": "codes", "codes": packed(codes, bits), "width": scale * prior.noise}

    codes = prior.sample(CODES, torch.Generator().manual_seed(0))
    return {"kind": "codes", "codes": packed(codes, bits), "width": 0.0}
