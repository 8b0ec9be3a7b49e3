"""The denoiser of codes at any level of noise, and the network inside it.

z is a code with variance v (one number for each unit, 1 where codes are standardised unit by
unit), z~ = z + s n with n ~ N(0, I). A network F estimates what is left unknown of z:

    D(z~; s) = v / (v + s^2) z~  +  s sqrt(v) / sqrt(v + s^2) F(z~ / sqrt(v + s^2), ln s / 4)

F = 0 is the exact denoiser of Gaussian codes, and the loss of F,

    E (v + s^2) / (v s^2) (D(z~; s) - z)^2  =  E (F - noise left)^2,

is then 1 at every level: no level outweighs another. D(z~; s) estimates E[z | z~], so that
(D(z~; s) - z~) / s^2 is the score of codes with noise of that level (2014, 2.2.4).
Source: Karras et al. 2022, Eq. 7 and table 1.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gendae import checks
from gendae.errors import reason
from gendae.registry import register

#: D(z~; s) for one level, a number, as samplers and flows call it.
Denoise = Callable[[Tensor, float], Tensor]


def waves(level: Tensor, frequencies: int) -> Tensor:
    """Sines and cosines of a level, from an eighth of a turn to eight turns of it.

    Example:
        >>> waves(torch.zeros(5), 2).shape
        torch.Size([5, 4])
    """
    octaves = torch.linspace(-3.0, 3.0, frequencies, device=level.device)
    angles = 2.0 * math.pi * level[:, None] * octaves.to(level.dtype).exp2()

    return torch.cat([angles.sin(), angles.cos()], -1)


@register
class LevelMLP(nn.Module):
    """F(z, c): residual layers, scaled and shifted by the level of noise (FiLM).

    h <- h + W silu((1 + scale(c)) norm(h) + shift(c)), where c holds sines and cosines of
    ln s / 4, and what the codes are conditioned on. The last layer is 0 at the start, so that D
    begins as the denoiser of Gaussian codes.
    Source: Perez et al. 2018 (FiLM).

    Args:
        width: of the hidden layers.
        layers: number of residual layers.
        frequencies: number of sines, and of cosines, of the level.

    Raises:
        ValueError: for numbers below 1.

    Example:
        >>> network = LevelMLP(width=16, layers=1)
        >>> network.prepare(features=3)
        >>> network(torch.ones(2, 3), torch.zeros(2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, width: int = 256, layers: int = 3, frequencies: int = 16) -> None:
        super().__init__()
        self.width = checks.whole("width", width, 1)
        self.layers = checks.whole("layers", layers, 1)
        self.frequencies = checks.whole("frequencies", frequencies, 1)

    def prepare(self, features: int, condition: int = 0) -> None:
        """Create the weights for codes, and conditions, of these widths."""
        level = 2 * self.frequencies + condition
        width = self.width

        self.enter = nn.Linear(features, width)
        self.films = nn.ModuleList(nn.Linear(level, 2 * width) for _ in range(self.layers + 1))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(self.layers))
        self.leave = nn.Linear(width, features)

        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, level: Tensor, condition: Tensor | None = None) -> Tensor:
        """F, (batch, features).

        Args:
            z: (batch, features), of variance 1.
            level: ln s / 4, (batch,).
            condition: (batch, width of conditions).
        """
        c = waves(level, self.frequencies)
        if condition is not None:
            c = torch.cat([c, condition], -1)

        h = self.enter(z)
        *films, last = self.films
        for film, layer in zip(films, self.hidden, strict=True):
            h = h + layer(self._modulated(h, film(c)))

        return self.leave(self._modulated(h, last(c)))

    @staticmethod
    def _modulated(h: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.chunk(2, -1)
        norm = functional.layer_norm(h, h.shape[-1:])

        return functional.silu(torch.addcmul(shift, norm, 1.0 + scale))


class Denoiser(nn.Module):
    """D(z~; s), one network F or one for each block of levels.

    Blocks own levels between two `bounds` each; nothing in D joins them.

    Args:
        networks: F of each block, lowest levels first, each called as F(z, ln s / 4), with the
            condition as a third argument where there is one.
        bounds: the levels between blocks, in rising order, one fewer than networks.
        variances: v of each unit, (features,).

    Example:
        >>> class Nothing(nn.Module):
        ...     def forward(self, z, level, condition=None):
        ...         return torch.zeros_like(z)
        >>> D = Denoiser([Nothing()], [], torch.ones(1))
        >>> D(torch.tensor([[2.0]]), 1.0)                       # half of it is noise
        tensor([[1.]])
    """

    bounds: Tensor | None
    variances: Tensor

    def __init__(
        self, networks: Sequence[nn.Module], bounds: Sequence[float], variances: Tensor
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        between = torch.tensor(bounds, dtype=torch.float64) if bounds else None
        self.register_buffer("bounds", between)
        self.register_buffer("variances", variances)

        self._known: list[float] | None = None
        self.eval()

    def train(self, mode: bool = True) -> "Denoiser":
        """In evaluation always: what trains the networks has them for itself."""
        return super().train(False)

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self._known = None

    def block(self, level: float) -> int:
        """The block that owns a level."""
        if self.bounds is None:
            return 0
        if self._known is None:  # no device is waited for at each level
            self._known = self.bounds.tolist()

        return sum(level >= bound for bound in self._known)

    def forward(self, z: Tensor, level: float, condition: Tensor | None = None) -> Tensor:
        """D(z; s) at one level for all rows, (batch, features)."""
        network = self.networks[self.block(level)]
        sigma = z.new_full((len(z), 1), level)

        return denoised(network, z, sigma, self.variances, condition)


def denoised(
    network: nn.Module,
    z: Tensor,
    sigma: Tensor,
    variances: Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """D(z; s) by one network; s is (batch, 1)."""
    total = variances + sigma.square()
    rest = sigma * (variances / total).sqrt()

    return variances / total * z + rest * estimate(network, z, sigma, variances, condition)


def estimate(
    network: nn.Module,
    z: Tensor,
    sigma: Tensor,
    variances: Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """F(z / sqrt(v + s^2), ln s / 4), (batch, features)."""
    scaled = z * (variances + sigma.square()).rsqrt()
    level = 0.25 * sigma[:, 0].log()
    if condition is None:
        return network(scaled, level)

    return network(scaled, level, condition)


def denoising_loss(
    network: nn.Module,
    z: Tensor,
    sigma: Tensor,
    noise: Tensor,
    variances: Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """E (v + s^2) / (v s^2) (D(z + s n; s) - z)^2, a mean over rows and units.

    It is computed as the squared error of F, which no level makes small or large.

    Args:
        network: F.
        z: codes, (batch, features).
        sigma: levels s, (batch, 1).
        noise: n, (batch, features).
        variances: v, (features,).
        condition: (batch, width of conditions).

    Example:
        >>> half = lambda z, level: 0.5 * z
        >>> z, one = torch.zeros(1, 1), torch.ones(1, 1)
        >>> denoising_loss(half, z, one, one, torch.ones(1))    # D = 1/2 + 1/4, times 2 (3/4)^2
        tensor(1.1250)
    """
    noisy = torch.addcmul(z, sigma, noise)
    total = variances + sigma.square()

    # (z - v / (v + s^2) z~) / (s sqrt(v) / sqrt(v + s^2)), without cancellation
    target = (sigma * z / variances - noise) * (variances / total).sqrt()
    error = estimate(network, noisy, sigma, variances, condition) - target

    return error.square().mean()


def fresh(network: nn.Module, features: int, condition: int, seed: int) -> nn.Module:
    """A copy of a network with weights of its own, drawn from a seed.

    A network with `prepare(features, condition)` gets its weights there; any other one must have
    the width already, and draws them anew where its layers know how (`reset_parameters`).

    Raises:
        ValueError: for a network that does not take codes of this width with their level, or gives
            another shape.
    """
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if hasattr(network, "prepare"):
            network.prepare(features, condition)
        else:
            network.apply(_redraw)

    _try(network, features, condition)
    return network


@torch.no_grad()
def _try(network: nn.Module, features: int, condition: int) -> None:
    """Raise a ValueError unless a network maps codes and their levels to the shape of codes."""
    name = type(network).__name__
    like = next(network.parameters(), torch.empty(0))

    z = like.new_zeros(2, features)
    given = [z, z[:, 0]]
    if condition:
        given.append(like.new_zeros(2, condition))

    told = ", condition" if condition else ""
    needed = f"network: F(z, level{told}) of codes (2, {features}) is to give their shape"
    try:
        output = copy.deepcopy(network).eval()(*given)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{needed}; {name}: {reason(error)}") from None

    if output.shape != z.shape:
        raise ValueError(f"{needed}; {name} gives {tuple(output.shape)}")


def _redraw(layer: nn.Module) -> None:
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
