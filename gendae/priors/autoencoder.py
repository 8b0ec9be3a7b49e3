"""A denoising auto-encoder over codes as a top-level prior, sampled by its Markov chain.

Source: Bengio et al. 2014, 2.2.7 and 2.2.8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.layers.activations import ACTIVATIONS
from gendae.layers.mlp import MLP
from gendae.priors.base import Prior, floored
from gendae.priors.criteria import Criterion, Reconstruction, Transition
from gendae.registry import grouped, register

CHAIN_NOISE = ("both", "input", "code")
#: The criteria by their names before 0.2.
FORMER_CRITERIA = {"self": "Reconstruction", "nearest": "NearestNeighbour"}


@register
@dataclass
class Learning:
    """How the weights of an `AutoencoderPrior` are learned: by Adam, in each `fit`.

    Args:
        epochs: passes over the codes; a second fit continues from the weights of the first.
        lr: learning rate, which falls linearly to zero during each fit.
        batch_size: codes in an update.
        seed: of weights, batches and noise; the global random state is left alone.

    Raises:
        ValueError: for numbers out of range.
    """

    epochs: int = 10
    lr: float = 1e-3
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        self.epochs = checks.whole("epochs", self.epochs, 1, checks.REPEATS)
        self.lr = checks.at_least("lr", self.lr, 0.0, strict=True)
        self.batch_size = checks.whole("batch_size", self.batch_size, 1)
        self.seed = checks.seed("seed", self.seed)

    def updates(self, n: int) -> int:
        """Updates of a fit to n codes."""
        return self.epochs * -(-n // self.batch_size)

    def batches(self, n: int, generator: Generator) -> Iterator[Tensor]:
        """Rows of each update's codes."""
        for _ in range(self.epochs):
            yield from torch.randperm(n, generator=generator).split(self.batch_size)


@register
@dataclass
class Walk:
    """The chains from which an `AutoencoderPrior` is sampled.

    Args:
        steps: K, transitions before each sample of a chain.
        burn_in: further transitions before a chain's first sample.
        chains: number of parallel chains; None for one per sample, which makes the samples
            independent of each other, but for K not of their starts.
        noise: which of the two corruptions the chain uses: "both", "input" or "code".
        residual: scale of Gaussian noise with the variance of the reconstruction error, added
            after each transition: 1 gives draws from P(h | f(h~)), with which the chain has the
            law of the codes; 0 gives its mean: sharper samples, of a law that is too narrow (for
            Gaussian codes of variance 1, its variance is 1 / (2 + sigma^2) where it should be 1).
            Source: 2014, 2.2.7 ("in general one should also add noise").
        capacity: most codes recorded as starts.

    Raises:
        ValueError: for an unknown noise or numbers out of range.
    """

    steps: int = 20
    burn_in: int = 0
    chains: int | None = None
    noise: str = "both"
    residual: float = 1.0
    capacity: int = 10_000

    def __post_init__(self) -> None:
        self.steps = checks.whole("steps", self.steps, 1, checks.REPEATS)
        self.burn_in = checks.whole("burn_in", self.burn_in, 0, checks.REPEATS)
        if self.chains is not None:
            self.chains = checks.whole("chains", self.chains, 1, checks.REPEATS)
        self.noise = checks.one_of("noise", self.noise, CHAIN_NOISE)
        self.residual = checks.at_least("residual", self.residual, 0.0)
        self.capacity = checks.whole("capacity", self.capacity, 2)

    def levels(self, sigma: float, hidden_noise: float) -> tuple[float, float]:
        """Levels of the noise on h and on f(h)."""
        if self.noise == "input":
            return sigma, 0.0
        if self.noise == "code":
            return 0.0, hidden_noise
        return sigma, hidden_noise


@register
class AutoencoderPrior(Prior):
    """P(h) implied by a denoising auto-encoder (f, g) over codes.

    It has a chain and a denoising, but no density.

    One transition:  h <- g(corrupt(f(corrupt(h)))), started from recorded codes      (Algorithm 3)

    A criterion trains that transition to give h back. All of it happens on codes standardised to
    mean 0 and variance 1.
    Source: Bengio et al. 2014, sections 2.2.7 and 2.2.8, Eq. 13-15, Algorithm 3.

    Args:
        hidden: widths of the hidden layers of f; g has the same widths in reverse.
        code: width of f's output, on which `hidden_noise` acts.
        activation: of all layers, except g's last, which is linear.
        sigma: noise on h, in standard deviations of each code unit.
        hidden_noise: noise on f(h) (xi of 2.2.8), in units of the activation.
        criterion: what training asks of a transition: `Reconstruction` or `NearestNeighbour`.
        learning: epochs, rate, batches and seed of training.
        walk: the chains of `sample`, and the noise of a chain.

    Raises:
        ValueError: for an unknown activation or numbers out of range, no noise at all, a
            `NearestNeighbour` without hidden_noise; from `log_prob`, `score` and `cross_entropy`,
            since there is no density; from `fit`, if training diverges.

    Example:
        >>> codes = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> prior = AutoencoderPrior(hidden=[16], code=8, learning=Learning(epochs=2)).fit(codes)
        >>> prior.sample(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])
    """

    has_density = False
    analytic = False

    def __init__(
        self,
        hidden: Sequence[int] = (256,),
        code: int = 64,
        activation: str = "tanh",
        sigma: float = 0.5,
        hidden_noise: float = 0.0,
        criterion: Criterion | None = None,
        learning: Learning | None = None,
        walk: Walk | None = None,
    ) -> None:
        super().__init__()
        self.hidden = checks.wholes("hidden", hidden, 1)
        self.code = checks.whole("code", code, 1)
        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.sigma = checks.at_least("sigma", sigma, 0.0)
        self.hidden_noise = checks.at_least("hidden_noise", hidden_noise, 0.0)
        self.criterion = checks.kind("criterion", criterion or Reconstruction(), Criterion)
        self.learning = checks.kind("learning", learning or Learning(), Learning)
        self.walk = checks.kind("walk", walk or Walk(), Walk)

        self.criterion.require_noise(hidden_noise)
        if self.walk.levels(sigma, hidden_noise) == (0.0, 0.0):
            raise ValueError(
                f"sigma={sigma}, hidden_noise={hidden_noise}, walk.noise={self.walk.noise!r} "
                "leave the chain without noise; it would stay where it starts"
            )

        for name in ("center", "scale", "recorded", "error"):
            self.register_buffer(name, torch.empty(0))
        self.f: MLP | None = None
        self.g: MLP | None = None

    @classmethod
    def upgrade(cls, arguments: dict) -> dict:
        """Before 0.2, a criterion was a name, and all arguments were flat."""
        learning = ("epochs", "lr", "batch_size", "seed")
        arguments = grouped(arguments, "learning", "Learning", {name: name for name in learning})

        walk = {name: name for name in ("steps", "burn_in", "chains", "residual", "capacity")}
        arguments = grouped(arguments, "walk", "Walk", {**walk, "chain_noise": "noise"})

        members = ("walkback", "space", "neighbours", "refresh", "match")
        former = {name: arguments.pop(name) for name in members if name in arguments}
        if former or isinstance(arguments.get("criterion"), str):
            name = arguments.get("criterion", "self")
            if name == "self":
                former = {key: former[key] for key in ("walkback",) if key in former}
            arguments["criterion"] = {"type": FORMER_CRITERIA[name], **former}

        return arguments

    @property
    def noise(self) -> float:
        """Level of the corruption that it learned to undo, in units of h."""
        if not self.fitted:
            return self.sigma
        return float(self.sigma * self.scale.square().mean().sqrt())

    @property
    def transition(self) -> Transition:
        """What training repeats."""
        return Transition(self.f, self.g, self.sigma, self.hidden_noise)

    def prepare(self, features: int) -> None:
        """Create the weights for this width, drawn from the prior's own seed.

        They need no gradient outside `fit`: no rule's optimizer trains them, and gradients pass
        through.
        """
        if self.f is not None and self.f.in_features == features:
            return

        if self.fitted:
            raise ValueError(
                f"AutoencoderPrior was fitted on codes of width {len(self.center)}, not "
                f"{features}; make a new one"
            )

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.learning.seed)
            self.f = MLP(features, self.hidden, self.code, self.activation, self.activation)
            self.g = MLP(self.code, self.hidden[::-1], features, "linear", self.activation)

        self.to(self.center.device, self.center.dtype).requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        center = state_dict.get(prefix + "center")
        recorded = state_dict.get(prefix + "recorded")
        if center is not None and recorded is not None and center.numel():
            checks.width("recorded", recorded, center.numel())

        if center is not None and center.numel() and self.f is None:
            self.prepare(len(center))

        super()._load_from_state_dict(state_dict, prefix, *args)

    # -- training ------------------------------------------------------------------------------

    def estimate(self, codes: Tensor) -> None:
        """Standardise, train, record codes as starts, and measure the reconstruction error."""
        if self.fitted and len(self.center) != codes.shape[1]:
            raise ValueError(f"codes have width {codes.shape[1]}, the prior {len(self.center)}")

        self.prepare(codes.shape[1])
        self.to(codes.device, codes.dtype)
        generator = torch.Generator().manual_seed(self.learning.seed)

        self.center = codes.mean(0)
        self.scale = floored(codes.var(0), codes.dtype).sqrt()
        order = torch.randperm(len(codes), generator=generator)[: self.walk.capacity]
        self.recorded = codes[order.to(codes.device)]

        trained = self.criterion.training_codes(codes, self.recorded)
        self._train(self._standardised(trained), generator)
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters()):
            lr = self.learning.lr
            raise ValueError(f"lr={lr}: training of AutoencoderPrior diverged; lower it")

        start = self._standardised(self.recorded)
        end = self._noisy(1.0)(start, generator)
        self.error = (end - start).square().mean(0).sqrt()

    def _standardised(self, h: Tensor) -> Tensor:
        return (h - self.center) / self.scale

    def _train(self, z: Tensor, generator: Generator) -> None:
        """Adam on the criterion, over standardised codes."""
        self.requires_grad_(True)
        lr = self.learning.lr
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)

        move = self.transition
        candidates = self.criterion.search(move, z)
        updates = self.learning.updates(len(z))
        for done, rows in enumerate(self.learning.batches(len(z), generator)):
            rows = rows.to(z.device)
            among = candidates(rows)

            optimizer.param_groups[0]["lr"] = lr * (1.0 - done / updates)
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                self.criterion.loss(move, z[rows], among, generator).backward()

            optimizer.step()

        self.requires_grad_(False)

    # -- use -----------------------------------------------------------------------------------

    def reconstruct(self, h: Tensor) -> Tensor:
        """g(f(h)) without noise, the target of h, (batch, features); gradients pass to h."""
        self.require_fitted()
        return self.center + self.scale * self.g(self.f(self._standardised(h)))

    def _noisy(self, temperature: float) -> Transition:
        """The chain's transition, its noise scaled by a temperature."""
        levels = self.walk.levels(self.sigma, self.hidden_noise)
        sigma, hidden_noise = (temperature * level for level in levels)

        return Transition(self.f, self.g, sigma, hidden_noise)

    def step(
        self, h: Tensor, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """One transition of the chain, with its residual noise; see `Prior.step`."""
        self.require_fitted()
        z = self._noisy(temperature)(self._standardised(h), generator)

        residual = temperature * self.walk.residual
        if residual > 0.0:
            z = z + residual * self.error * normal_like(z, generator)

        return self.center + self.scale * z

    @torch.no_grad()
    def chain(self, h: Tensor, steps: int, generator: Generator | None = None) -> Tensor:
        """States of the chain that starts at h, with h first, (steps + 1, batch, features)."""
        self.require_fitted()
        checks.width("h", h, len(self.center))

        states = [h]
        for _ in range(checks.whole("steps", steps, 0, checks.REPEATS)):
            states.append(self.step(states[-1], generator=generator))

        return torch.stack(states)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n states of chains that start from recorded codes, (n, features) (Algorithm 3).

        Each chain runs `burn_in` transitions, then gives a state every `steps` transitions.
        """
        self.require_fitted()

        chains = n
        if self.walk.chains is not None:
            chains = min(n, self.walk.chains)

        h = self._starts(chains, generator)
        for _ in range(self.walk.burn_in):
            h = self.step(h, generator=generator)

        states = []
        for _ in range(-(-n // max(chains, 1))):
            for _ in range(self.walk.steps):
                h = self.step(h, generator=generator)
            states.append(h)

        if not states:
            return h
        return torch.cat(states)[:n]

    def _starts(self, n: int, generator: Generator | None) -> Tensor:
        """n recorded codes, drawn where `generator` lives."""
        device = self.recorded.device if generator is None else generator.device
        index = torch.randint(len(self.recorded), (n,), generator=generator, device=device)
        return self.recorded[index.to(self.recorded.device)]

    def extra_repr(self) -> str:
        return (
            f"{type(self.criterion).__name__}, sigma={self.sigma:g}, "
            f"hidden_noise={self.hidden_noise:g}, steps={self.walk.steps}, fitted={self.fitted}"
        )
