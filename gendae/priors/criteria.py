"""What a denoising auto-encoder over codes repeats, and the criteria that train it.

One transition:  z <- g(corrupt(f(corrupt(z)))),  with noise of level sigma on z and of level
hidden_noise on f(z) (xi of 2.2.8). A criterion asks that the transition give z back:

| criterion | z is to be given back from | source |
|---|---|---|
| `Reconstruction` | the transition's own code | 2014, 2.2.7, Algorithm 3 |
| `NearestNeighbour` | the code of a neighbour, noise added | 2014, 2.2.8, Eq. 13-15 |

Codes z are standardised to mean 0 and variance 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.registry import register

SPACES = ("code", "input")

#: The candidates of a batch, (batch, k, features), by its rows; None for a criterion without any.
Search = Callable[[Tensor], Tensor | None]


def corrupt(h: Tensor, level: float, generator: Generator | None) -> Tensor:
    """h + level N(0, I)."""
    if level == 0.0:
        return h
    return torch.add(h, normal_like(h, generator), alpha=level)


class Transition(NamedTuple):
    """One step of the chain: g(corrupt(f(corrupt(z))))."""

    f: Callable[[Tensor], Tensor]
    g: Callable[[Tensor], Tensor]
    sigma: float
    hidden_noise: float

    def __call__(self, z: Tensor, generator: Generator | None) -> Tensor:
        code = self.f(corrupt(z, self.sigma, generator))
        return self.g(corrupt(code, self.hidden_noise, generator))


class Criterion:
    """The squared error of a transition, or of several in a row, in giving z back.

    A variant defines the `first` transition, and where it needs other codes, their `search`.

    Args:
        walkback: further transitions in training, each from the last one's end, all with z as
            target. Chains then meet fewer spurious modes, and pull harder to what was learned:
            states are likelier, and spread less, than those of the codes.
    """

    def __init__(self, walkback: int = 0) -> None:
        self.walkback = checks.whole("walkback", walkback, 0, checks.REPEATS)

    def require_noise(self, hidden_noise: float) -> None:
        """Raise a ValueError for noise with which the criterion asks nothing."""

    def training_codes(self, codes: Tensor, recorded: Tensor) -> Tensor:
        """The codes to train on, among all of them and those recorded."""
        return codes

    def search(self, move: Transition, z: Tensor) -> Search:
        """What looks up the candidates of each batch, while training changes the transition."""
        return lambda rows: None

    def first(
        self, move: Transition, z: Tensor, candidates: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor | float]:
        """The end of the first transition, and a penalty, in the units of the squared error."""
        raise NotImplementedError

    def loss(
        self, move: Transition, z: Tensor, candidates: Tensor | None, generator: Generator | None
    ) -> Tensor:
        """Squared error summed over features, a mean over batch and transitions; plus the penalty.

        Args:
            move: the transition to train.
            z: standardised codes, (batch, features).
            candidates: other codes among which neighbours are looked for, (batch, k, features).
            generator: source of the noise.
        """
        end, penalty = self.first(move, z, candidates, generator)

        total = (end - z).square().sum(-1).mean()
        for _ in range(self.walkback):
            end = move(end.detach(), generator)
            total = total + (end - z).square().sum(-1).mean()

        return total / (1 + self.walkback) + penalty


@register
class Reconstruction(Criterion):
    """E |move(z) - z|^2: each transition is to give its own start back.

    Source: Bengio et al. 2014, section 2.2.7 and Algorithm 3.

    Args:
        walkback: further transitions in training, each from the last one's end, all with z as
            target. Chains then meet fewer spurious modes, and pull harder to what was learned:
            states are likelier, and spread less, than those of the codes.

    Example:
        >>> halve = Transition(lambda z: z / 2, lambda c: c, 0.0, 0.0)
        >>> Reconstruction().loss(halve, torch.tensor([[2.0, 4.0]]), None, None)
        tensor(5.)
    """

    def first(
        self, move: Transition, z: Tensor, candidates: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, float]:
        return move(z, generator), 0.0


@register
class NearestNeighbour(Criterion):
    """E |g(f(z') + xi) - z|^2 + match |f(z) - f(z')|^2: z comes back from a neighbour's code.

    z' is the training code whose f(z') is nearest to f(z) - xi; f(z) and f(z') are targets for
    each other. Much noise can be injected, so that the chain mixes, without blurring the
    reconstruction. It trains on the recorded codes alone.
    Source: Bengio et al. 2014, section 2.2.8, steps 1 to 4, Eq. 13-15.

    Args:
        walkback: further transitions in training, each from the last one's end, all with z as
            target. Chains then meet fewer spurious modes, and pull harder to what was learned:
            states are likelier, and spread less, than those of the codes.
        space: where candidates z' are looked for: "code", among the f(z') nearest to f(z), or
            "input".
        neighbours: number of candidates, z itself among them.
        refresh: updates between two searches for candidates in code space.
        match: weight of |f(z) - f(z')|^2, each with the other as target.

    Raises:
        ValueError: for an unknown space or numbers out of range.
    """

    def __init__(
        self,
        walkback: int = 0,
        space: str = "code",
        neighbours: int = 10,
        refresh: int = 500,
        match: float = 0.1,
    ) -> None:
        super().__init__(walkback)
        self.space = checks.one_of("space", space, SPACES)
        self.neighbours = checks.whole("neighbours", neighbours, 1)
        self.refresh = checks.whole("refresh", refresh, 1)
        self.match = checks.at_least("match", match, 0.0)

    def require_noise(self, hidden_noise: float) -> None:
        if hidden_noise == 0.0:
            raise ValueError("hidden_noise=0.0: NearestNeighbour needs noise on the code, > 0")

    def training_codes(self, codes: Tensor, recorded: Tensor) -> Tensor:
        return recorded

    def search(self, move: Transition, z: Tensor) -> Search:
        updates = 0
        near = None

        def candidates(rows: Tensor) -> Tensor:
            nonlocal updates, near
            if near is None or (self.space == "code" and updates % self.refresh == 0):
                near = self.nearest(move, z)

            updates += 1
            return z[near[rows]]

        return candidates

    def nearest(self, move: Transition, z: Tensor) -> Tensor:
        """Rows of each code's nearest codes, itself first, (n, neighbours)."""
        from sklearn.neighbors import NearestNeighbors

        points = z
        if self.space == "code":
            points = move.f(z)
        points = points.cpu().numpy()

        k = min(self.neighbours, len(z))
        search = NearestNeighbors(n_neighbors=k).fit(points)
        index = search.kneighbors(points, return_distance=False)
        return torch.from_numpy(index).to(z.device)

    def first(
        self, move: Transition, z: Tensor, candidates: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        own = move.f(z)
        xi = move.hidden_noise * normal_like(own, generator)

        with torch.no_grad():
            distance = (move.f(candidates) - (own - xi)[:, None]).square().sum(-1)
            nearest = distance.argmin(1)
        other = candidates[torch.arange(len(z), device=z.device), nearest]
        code = move.f(corrupt(other, move.sigma, generator))

        own_error = (own - code.detach()).square().sum(-1)
        code_error = (code - own.detach()).square().sum(-1)
        return move.g(code + xi), self.match * (own_error + code_error).mean()
