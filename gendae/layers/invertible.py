"""Perfect auto-encoders: square layers whose inverse costs no more than the layer itself.

Where g_l is the exact inverse of f_l, every h_l is reconstructed by construction. Learning only
has to make the distribution simpler on the way up. Both forms of W need O(d^2) operations per
example, up and down, and hold their parameters once: g reads those of f.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.laws import Law
from gendae.layers.activations import ACTIVATIONS, RANGES, inverse_activation
from gendae.layers.pair import Pair
from gendae.registry import register

FORMS = ("cholesky", "svd")


@register
class InvertibleAffine(nn.Module):
    """One layer h -> s(W h + b) with square W, and its inverse W^-1 (s^-1(h) - b), each in O(d^2).

    "cholesky": W = L L', L lower triangular with a positive diagonal, inverted by forward and
    backward substitution. W is then symmetric and positive definite: the layer shears and
    stretches, but does not turn.
    "svd": W = U D V', D diagonal and positive, U and V near orthogonal, held there by `penalty`.
    The transposes invert U and V, and refinement follows: y <- y + U'(a - U y). Its error falls by
    the factor |U'U - I| at each step. Below a penalty of 1 it always falls.
    Source: Bengio 2014, section 6.

    Args:
        features: width d of input and output.
        form: "cholesky" or "svd".
        activation: s, one of tanh, sigmoid, softplus, linear.
        refinements: steps of iterative refinement, for "svd".
        out_features: width of the output, d if given.

    Raises:
        ValueError: for an activation without an inverse, an unknown form, or two different widths.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer, x = InvertibleAffine(5), torch.rand(3, 5)
        >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        features: int,
        form: str = "cholesky",
        activation: str = "tanh",
        refinements: int = 4,
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        self.features = checks.whole("features", features, 1)
        self.in_features = self.features
        self.out_features = self.features
        if out_features not in (None, self.features):
            raise ValueError(
                f"out_features={out_features} differs from features={features}; only a square "
                "layer is invertible: use Affine to change the width"
            )

        self.form = checks.one_of("form", form, FORMS)
        self.activation = checks.one_of("activation", activation, RANGES)
        self.refinements = checks.whole("refinements", refinements, 0)
        self.s = ACTIVATIONS[activation]

        if form == "cholesky":
            self.lower = nn.Parameter(torch.randn(features, features) / features)
        else:
            self.u = nn.Parameter(nn.init.orthogonal_(torch.empty(features, features)))
            self.v = nn.Parameter(nn.init.orthogonal_(torch.empty(features, features)))
        self.log_diagonal = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def triangle(self) -> Tensor:
        """L, lower triangular with a positive diagonal."""
        return self.lower.tril(-1) + torch.diag(self.log_diagonal.exp())

    def forward(self, h: Tensor) -> Tensor:
        # rows are examples: W h is h @ W'
        if self.form == "cholesky":
            triangle = self.triangle()
            return self.s(h @ triangle @ triangle.T + self.bias)

        scaled = (h @ self.v) * self.log_diagonal.exp()
        return self.s(F.linear(scaled, self.u, self.bias))

    def inverse(self, h: Tensor) -> Tensor:
        """W^-1 (s^-1(h) - b), the h_{l-1} that gives this h_l, (batch, features).

        The closer h is to the ends of the range, the fewer digits of s^-1(h) it determines.

        Raises:
            ValueError: for another width, or values outside the open range of the activation.
        """
        checks.width("h", h, self.features)

        low, high = RANGES[self.activation]
        inside = (h > low) & (h < high)
        if not bool(inside.all()):
            raise ValueError(
                f"h holds values from {h.min().item():g} to {h.max().item():g}; {self.activation} "
                f"gives values between {low:g} and {high:g}, ends excluded: clamp h"
            )

        return self.invert(h)

    def invert(self, h: Tensor) -> Tensor:
        """`inverse` for the hot path: moves values into the range instead of refusing them."""
        a = inverse_activation(h, self.activation) - self.bias

        if self.form == "cholesky":
            triangle = self.triangle()
            half = torch.linalg.solve_triangular(triangle.T, a, upper=True, left=False)
            return torch.linalg.solve_triangular(triangle, half, upper=False, left=False)

        scaled = self._solve(self.u, a) * (-self.log_diagonal).exp()
        return self._solve(self.v.T, scaled)

    def _solve(self, matrix: Tensor, a: Tensor) -> Tensor:
        """y with M y = a for each row a, M near orthogonal."""
        y = a @ matrix
        for _ in range(self.refinements):
            missing = a - F.linear(y, matrix)
            y = y + missing @ matrix

        return y

    def penalty(self) -> Tensor:
        """|U'U - I|^2 + |V'V - I|^2, to be added to the layer's loss; 0 for "cholesky"."""
        if self.form == "cholesky":
            return self.bias.new_zeros(())

        identity = torch.eye(self.features, dtype=self.u.dtype, device=self.u.device)
        return cast(Tensor, sum((m.T @ m - identity).square().sum() for m in (self.u, self.v)))

    def extra_repr(self) -> str:
        return f"{self.features}, {self.form!r}, {self.activation!r}"


class Inverse(nn.Module):
    """g = f^-1 as a layer that has no parameters."""

    activation = "linear"  # any real value can come out of it

    def __init__(self, layer: InvertibleAffine) -> None:
        super().__init__()
        self.in_features = layer.out_features
        self.out_features = layer.in_features

        # in a tuple, so that the layer is not registered twice; a copied pair shares the copied f
        self._of = (layer,)

    def forward(self, h: Tensor) -> Tensor:
        return self._of[0].invert(h)


@register
class InvertiblePair(Pair):
    """A pair whose decoder is the exact inverse of its encoder, with one set of parameters.

    g(f(x)) = x. A loss of g moves the parameters of f too; `pair.f.penalty()` belongs to the loss
    of an "svd" layer. Values that f cannot give are moved into its range before they are inverted.
    The loop is exact while s does not saturate: |W x + b| below about 8 for tanh, 16 for sigmoid
    in float32.
    Source: Bengio 2014, section 6.

    Args:
        features: width of h_{l-1} and h_l.
        form, activation, refinements: see `InvertibleAffine`.
        observation: law of h_{l-1} around g; Gaussian(1) if None.
        recognition: law of h_l around f; Gaussian(1) if None.

    Raises:
        ValueError: see `InvertibleAffine` and `Pair`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> pair, x = InvertiblePair(5, "svd"), torch.rand(3, 5)
        >>> torch.allclose(pair.g(pair.f(x)), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        features: int,
        form: str = "cholesky",
        activation: str = "tanh",
        observation: Law | None = None,
        recognition: Law | None = None,
        refinements: int = 4,
    ) -> None:
        f = InvertibleAffine(features, form, activation, refinements)
        super().__init__(f, Inverse(f), observation, recognition)

        self.features = f.features
        self.form = form
        self.activation = activation
        self.refinements = f.refinements
