"""An encoder that is an optimisation: h_l is the code from which g_l reconstructs h_{l-1} best.

The parametric f_l gives the first guess; a few gradient steps through the pair's decoder improve
it. The result is a constant, a target that f_l can learn from: no derivative leaves the layer.
"""

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.laws import Law
from gendae.layers.activations import RANGES
from gendae.layers.affine import Affine
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.registry import register

#: A refused step is shortened to this fraction.
SHORTEN = 0.25
#: Codes of a layer whose activation has no open range, such as relu.
NO_RANGE = (0.0, float("inf"))


def code_range(activation: str | None) -> tuple[float, float]:
    """Closed interval of the codes that a layer with this activation gives: S of Eq. 20.

    Without one, codes may be any numbers.
    """
    return RANGES.get(activation or "linear", NO_RANGE)


@checks.takes_arrays
def optimize_code(
    pair: Pair,
    x: Tensor,
    h_start: Tensor,
    steps: int = 20,
    lr: float = 0.1,
    sparsity: float = 0.0,
) -> Tensor:
    """Codes h that climb log P(x | h) from a start, each example at its own pace:

    h <- argmax_{h in S} log P(x | h) - sparsity |h|_1,   S the range of f's activation

    Every step goes along the gradient (the L1 term by soft thresholding, S by projection), as far
    as the curvature of the last step suggests (Barzilai and Borwein 1988). A step that lowers the
    objective of an example is taken back and shortened. No example's objective is thus worse than
    at the start. The law of x enters by its `energy`.
    Source: Bengio 2014, Eq. 20; the sparse variant is that of sparse coding.

    Args:
        pair: the layer pair whose decoder g is inverted.
        x: the target of the reconstruction, h_{l-1}, (batch, width of x).
        h_start: where to start, usually f(x), (batch, width of h).
        steps: number of gradient steps; each costs one pass down and one back.
        lr: length of the first step, in units of h per gradient.
        sparsity: weight of the L1 norm, in nats per unit of h.

    Returns:
        Detached codes, (batch, width of h). Works under `no_grad` and `inference_mode`.

    Raises:
        ValueError: for x or h_start of a wrong width or batch size, or numbers out of range.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> from gendae.layers.pair import Pair
        >>> _ = torch.manual_seed(0)
        >>> pair, x = Pair(Affine(4, 3), Affine(3, 4)), torch.rand(2, 4)
        >>> guess = pair.f(x)
        >>> better = optimize_code(pair, x, guess)
        >>> error, former = (pair.g(h).sub(x).square().sum(1) for h in (better, guess))
        >>> bool((error < former).all())
        True
    """
    x = checks.width("x", x, pair.f.in_features)
    h_start = checks.width("h_start", h_start, pair.f.out_features)
    if len(x) != len(h_start):
        raise ValueError(
            f"h_start has {len(h_start)} rows but x has {len(x)}; one start for each x"
        )
    checks.whole("steps", steps, 0, checks.REPEATS)
    checks.at_least("lr", lr, 0.0, strict=True)
    checks.at_least("sparsity", sparsity, 0.0)

    # inference_mode(False): Trainer.test runs in inference mode, where autograd is off
    with torch.inference_mode(False), torch.no_grad():
        return _climb(pair, x.clone(), h_start.clone(), steps, lr, sparsity)


def _climb(pair: Pair, x: Tensor, h: Tensor, steps: int, lr: float, sparsity: float) -> Tensor:
    low, high = code_range(pair.f.activation)

    h = h.clamp(low, high)
    cost, gradient = _evaluate(pair, x, h, sparsity)
    rate = torch.full_like(cost, lr)
    for _ in range(steps):
        moved = _descend(h, gradient, rate, sparsity).clamp(low, high)
        new_cost, new_gradient = _evaluate(pair, x, moved, sparsity)
        accepted = new_cost <= cost

        longer = _suggested_rate(moved - h, new_gradient - gradient, rate)
        rate = torch.where(accepted, longer, SHORTEN * rate)

        h = torch.where(accepted, moved, h)
        cost = torch.where(accepted, new_cost, cost)
        gradient = torch.where(accepted, new_gradient, gradient)

    return h


def _evaluate(pair: Pair, x: Tensor, h: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    """Cost of each example, the objective's negative, (batch, 1); gradient of its smooth part."""
    leaf = h.detach().requires_grad_()
    with torch.enable_grad():
        energy = pair.observation.energy(x, pair.g(leaf), leaf)
        (gradient,) = torch.autograd.grad(energy.sum(), leaf)

    cost = energy.detach() + sparsity * h.abs().sum(-1)
    return cost[:, None], gradient


def _descend(h: Tensor, gradient: Tensor, rate: Tensor, sparsity: float) -> Tensor:
    """One gradient step, with soft thresholding for the L1 norm."""
    moved = h - rate * gradient
    if sparsity > 0.0:
        moved = moved.sign() * (moved.abs() - rate * sparsity).clamp(min=0.0)

    return moved


def _suggested_rate(step: Tensor, bend: Tensor, rate: Tensor) -> Tensor:
    """Barzilai and Borwein's rate from a step and the gradient's change along it.

    Where the curvature is not positive, the present rate stays.
    """
    curvature = (step * bend).sum(-1, keepdim=True)
    suggested = step.square().sum(-1, keepdim=True) / curvature

    usable = (curvature > 0.0) & torch.isfinite(suggested)
    return torch.where(usable, suggested, rate)


@register
class OptimizingPair(Pair):
    """A pair that encodes by optimisation, starting from the guess of its f.

    `pair.f` stays the fast parametric encoder, to be trained towards what `encode` returns.
    `encode` is `optimize_code` from there. The long loop of a stack then reconstructs as well as
    the decoders can.
    Source: Bengio 2014, section 6, Eq. 20.

    Args:
        f: encoder of the first guess.
        g: decoder, which is inverted.
        observation: law of h_{l-1} around g; Gaussian(1) if None.
        recognition: law of h_l around f; Gaussian(1) if None.
        steps, lr, sparsity: see `optimize_code`.

    Raises:
        ValueError: for numbers out of range, or discrete codes, along which there is no gradient.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> _ = torch.manual_seed(0)
        >>> pair, x = OptimizingPair(Affine(4, 8), Affine(8, 4), steps=50), torch.rand(2, 4)
        >>> torch.allclose(pair.decode(pair.encode(x)), x, atol=1e-3)
        True
    """

    def __init__(
        self,
        f: Affine | MLP,
        g: Affine | MLP,
        observation: Law | None = None,
        recognition: Law | None = None,
        steps: int = 20,
        lr: float = 0.1,
        sparsity: float = 0.0,
    ) -> None:
        super().__init__(f, g, observation, recognition)

        if self.recognition.hard:
            raise ValueError(
                f"recognition={type(self.recognition).__name__}: a code is found by gradient "
                "steps, which need real units; use Gaussian or LearnedGaussian"
            )

        self.steps = checks.whole("steps", steps, 0, checks.REPEATS)
        self.lr = checks.at_least("lr", lr, 0.0, strict=True)
        self.sparsity = checks.at_least("sparsity", sparsity, 0.0)

    def encode(self, h_below: Tensor, generator: Generator | None = None) -> Tensor:
        """The code that reconstructs h_below best within a few steps; a constant."""
        guess = self.f(h_below).detach()
        h = optimize_code(self, h_below, guess, self.steps, self.lr, self.sparsity)

        return self.recognition.transmit(h, generator)
