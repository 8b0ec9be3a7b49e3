"""Perfect auto-encoders: square layers whose inverse costs no more than the layer itself.

Where g_l is the exact inverse of f_l, every h_l is reconstructed by construction. Learning only
has to make the distribution simpler on the way up. Both forms of W need O(d^2) operations per
example, up and down, and hold their parameters once: g reads those of f. What f does to volumes is
known, O(d) for W, and with it the density of x under a stack of such layers.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.laws import Law
from gendae.layers.activations import ACTIVATIONS, LOG_SLOPES, RANGES, inverse_activation
from gendae.layers.pair import Pair
from gendae.registry import Plain, register

FORMS = ("cholesky", "svd")


def orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal factor Q of a square matrix Q R, R triangular with a positive diagonal.

    It is the matrix itself, if that is orthogonal; the decomposition is unique, and smooth.
    """
    q, r = torch.linalg.qr(matrix)
    return q * torch.where(r.diagonal() < 0.0, -1.0, 1.0)


def without_refinements(arguments: dict[str, Plain]) -> dict[str, Plain]:
    """Arguments without the `refinements` of 0.1, whose U and V were orthogonal but for an error.

    Example:
        >>> without_refinements({"features": 3, "refinements": 4})
        {'features': 3}
    """
    return {name: value for name, value in arguments.items() if name != "refinements"}


@register
class InvertibleAffine(nn.Module):
    """One layer h -> s(W h + b) with square W, and its inverse W^-1 (s^-1(h) - b), each in O(d^2).

    "cholesky": W = L L', L lower triangular with a positive diagonal, inverted by forward and
    backward substitution. W is then symmetric and positive definite: the layer shears and
    stretches, but does not turn.
    "svd": W = U D V', D diagonal and positive, U and V orthogonal, and inverted by their
    transposes, however they are trained: they are the orthogonal factors of two free matrices,
    which take O(d^3) once for a batch. The `penalty` keeps those matrices near their factors: it
    is no matter of exactness, but a rate of learning means the same as long as they do not grow.
    Source: Bengio 2014, section 6 (where U and V are orthogonal but for an error).

    Args:
        features: width d of input and output.
        form: "cholesky" or "svd".
        activation: s, one of tanh, sigmoid, softplus, linear.
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
        self.s = ACTIVATIONS[activation]

        if form == "cholesky":
            self.lower = nn.Parameter(torch.randn(features, features) / features)
        else:
            self.u = nn.Parameter(nn.init.orthogonal_(torch.empty(features, features)))
            self.v = nn.Parameter(nn.init.orthogonal_(torch.empty(features, features)))
        self.log_diagonal = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        return without_refinements(arguments)

    def triangle(self) -> Tensor:
        """L, lower triangular with a positive diagonal."""
        return self.lower.tril(-1) + torch.diag(self.log_diagonal.exp())

    def preactivation(self, h: Tensor) -> Tensor:
        """W h + b."""
        # rows are examples: W h is h @ W'
        if self.form == "cholesky":
            triangle = self.triangle()
            return h @ triangle @ triangle.T + self.bias

        scaled = (h @ orthogonal(self.v)) * self.log_diagonal.exp()
        return F.linear(scaled, orthogonal(self.u), self.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.s(self.preactivation(h))

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

        scaled = (a @ orthogonal(self.u)) * (-self.log_diagonal).exp()
        return F.linear(scaled, orthogonal(self.v))

    def log_det_of_weights(self) -> Tensor:
        """log |det W|, in O(d): from the diagonal of L, twice, or of D."""
        if self.form == "cholesky":
            return 2.0 * self.log_diagonal.sum()

        return self.log_diagonal.sum()

    def log_det(self, h: Tensor) -> Tensor:
        """log |det df / dh| at h, in nats, (batch,): log |det W| + sum_j log s'(a_j)."""
        slopes = LOG_SLOPES[self.activation](self.preactivation(h))
        return slopes.sum(-1) + self.log_det_of_weights()

    def penalty(self) -> Tensor:
        """|U'U - I|^2 + |V'V - I|^2 of the free matrices, for the layer's loss; 0 for "cholesky".

        It can be 0 for all maps that the layer has, and prefers none.
        """
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

    g(f(x)) = x. A loss of g moves the parameters of f too; `pair.f.penalty()` may join the loss of
    an "svd" layer. Values that f cannot give are moved into its range before they are inverted.
    The loop is exact while s does not saturate: |W x + b| below about 8 for tanh, 16 for sigmoid
    in float32.
    Source: Bengio 2014, section 6.

    Args:
        features: width of h_{l-1} and h_l.
        form, activation: see `InvertibleAffine`.
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
    ) -> None:
        f = InvertibleAffine(features, form, activation)
        super().__init__(f, Inverse(f), observation, recognition)

        self.features = f.features
        self.form = form
        self.activation = activation

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        return without_refinements(arguments)
