"""A denoising auto-encoder over codes as a top-level prior, sampled by its Markov chain.

Source: Bengio et al. 2014, 2.2.7 and 2.2.8.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.layers.activations import ACTIVATIONS
from gendae.layers.mlp import MLP
from gendae.priors.base import Prior, floored
from gendae.registry import register

CRITERIA = ("self", "nearest")
SPACES = ("code", "input")
CHAIN_NOISE = ("both", "input", "code")


@register
class AutoencoderPrior(Prior):
    """P(h) implied by a denoising auto-encoder (f, g) over codes.

    It has a chain and a denoising, but no density.

    One transition:  h <- g(corrupt(f(corrupt(h)))), started from recorded codes      (Algorithm 3)

    Criterion "self" trains it by the error of that transition in giving h back (with `walkback`,
    of several transitions in a row). Criterion "nearest" asks only that h be given back from
    f(h') + xi, where h' is the training code whose f(h') is nearest to f(h) - xi; f(h) and f(h')
    are targets for each other (2.2.8, steps 1 to 4). Under "nearest" much noise can be injected,
    so that the chain mixes, without blurring the reconstruction.
    All of it happens on codes standardised to mean 0 and variance 1.
    Source: Bengio et al. 2014, sections 2.2.7 and 2.2.8, Eq. 13-15, Algorithm 3.

    Args:
        hidden: widths of the hidden layers of f; g has the same widths in reverse.
        code: width of f's output, on which `hidden_noise` acts.
        activation: of all layers, except g's last, which is linear.
        sigma: noise on h, in standard deviations of each code unit.
        hidden_noise: noise on f(h) (xi of 2.2.8), in units of the activation.
        walkback: further transitions in training, each from the last one's end, all with h as
            target.
        criterion: "self" or "nearest".
        space: where "nearest" looks for candidates h': "code", among the f(h') nearest to f(h), or
            "input".
        neighbours: number of candidates, h itself among them.
        refresh: updates between two searches for candidates in code space.
        match: weight of |f(h) - f(h')|^2, each with the other as target.
        epochs: passes over the codes in each `fit`; a second fit continues from the weights of the
            first.
        lr: learning rate of Adam, which falls linearly to zero during each fit.
        batch_size: codes in an update.
        steps: K, transitions before each sample of a chain.
        burn_in: further transitions before a chain's first sample.
        chains: number of parallel chains; None for one per sample, which makes the samples
            independent of each other, but for K not of their starts.
        chain_noise: which of the two corruptions the chain uses: "both", "input" or "code".
        residual: scale of Gaussian noise with the variance of the reconstruction error, added
            after each transition: 1 gives draws from P(h | f(h)), and 0 its mean (2.2.7).
        capacity: most codes recorded as starts; "nearest" trains on these codes alone.
        seed: of weights, batches and noise in training; the global random state is left alone.

    Raises:
        ValueError: for unknown names or numbers out of range, no noise at all, "nearest" without
            hidden_noise; from `log_prob`, `score` and `cross_entropy`, since there is no density;
            from `fit`, if training diverges.

    Example:
        >>> codes = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> prior = AutoencoderPrior(hidden=[16], code=8, epochs=2).fit(codes)
        >>> prior.sample(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])
    """

    has_density = False
    analytic = False

    @property
    def noise(self) -> float:
        """Level of the corruption that it learned to undo, in units of h."""
        if not self.fitted:
            return self.sigma
        return float(self.sigma * self.scale.square().mean().sqrt())

    def __init__(
        self,
        hidden: Sequence[int] = (256,),
        code: int = 64,
        activation: str = "tanh",
        sigma: float = 0.5,
        hidden_noise: float = 0.0,
        walkback: int = 0,
        criterion: str = "self",
        space: str = "code",
        neighbours: int = 10,
        refresh: int = 500,
        match: float = 0.1,
        epochs: int = 10,
        lr: float = 1e-3,
        batch_size: int = 128,
        steps: int = 20,
        burn_in: int = 0,
        chains: int | None = None,
        chain_noise: str = "both",
        residual: float = 0.0,
        capacity: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.hidden = [checks.whole("hidden", width, 1) for width in hidden]
        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.criterion = checks.one_of("criterion", criterion, CRITERIA)
        self.space = checks.one_of("space", space, SPACES)
        self.chain_noise = checks.one_of("chain_noise", chain_noise, CHAIN_NOISE)

        self.sigma = checks.at_least("sigma", sigma, 0.0)
        self.hidden_noise = checks.at_least("hidden_noise", hidden_noise, 0.0)
        self.match = checks.at_least("match", match, 0.0)
        self.residual = checks.at_least("residual", residual, 0.0)
        self.lr = checks.at_least("lr", lr, 0.0, strict=True)

        self.code = checks.whole("code", code, 1)
        self.walkback = checks.whole("walkback", walkback, 0)
        self.neighbours = checks.whole("neighbours", neighbours, 1)
        self.refresh = checks.whole("refresh", refresh, 1)
        self.epochs = checks.whole("epochs", epochs, 1)
        self.batch_size = checks.whole("batch_size", batch_size, 1)
        self.steps = checks.whole("steps", steps, 1)
        self.burn_in = checks.whole("burn_in", burn_in, 0)

        self.chains = chains
        if chains is not None:
            self.chains = checks.whole("chains", chains, 1)

        self.capacity = checks.whole("capacity", capacity, 2)
        self.seed = int(seed)

        if self._noises() == (0.0, 0.0):
            raise ValueError(
                f"sigma={sigma}, hidden_noise={hidden_noise}, chain_noise={chain_noise!r} "
                "leave the chain without noise; it would stay where it starts"
            )
        if criterion == "nearest" and hidden_noise == 0.0:
            raise ValueError("hidden_noise=0.0: criterion='nearest' needs noise on the code, > 0")

        for name in ("center", "scale", "recorded", "error"):
            self.register_buffer(name, torch.empty(0))
        self.f: MLP | None = None
        self.g: MLP | None = None

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
            torch.default_generator.manual_seed(self.seed)
            self.f = MLP(features, self.hidden, self.code, self.activation, self.activation)
            self.g = MLP(self.code, self.hidden[::-1], features, "linear", self.activation)

        self.to(self.center.device, self.center.dtype).requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        center = state_dict.get(prefix + "center")
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
        generator = torch.Generator().manual_seed(self.seed)

        self.center = codes.mean(0)
        self.scale = floored(codes.var(0), codes.dtype).sqrt()
        order = torch.randperm(len(codes), generator=generator)[: self.capacity].to(codes.device)
        self.recorded = codes[order]

        trained = codes
        if self.criterion == "nearest":
            trained = self.recorded

        self._train(self._standardised(trained), generator)
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters()):
            raise ValueError(f"lr={self.lr}: training of AutoencoderPrior diverged; lower it")

        start = self._standardised(self.recorded)
        self.error = (self._move(start, generator) - start).square().mean(0).sqrt()

    def _standardised(self, h: Tensor) -> Tensor:
        return (h - self.center) / self.scale

    def _train(self, z: Tensor, generator: Generator) -> None:
        """Adam on the criterion, over standardised codes."""
        self.requires_grad_(True)
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)

        updates = self.epochs * -(-len(z) // self.batch_size)
        done = 0
        near = None
        for _ in range(self.epochs):
            order = torch.randperm(len(z), generator=generator).to(z.device)
            for rows in order.split(self.batch_size):
                if self.criterion == "nearest" and self._due(done):
                    near = self._candidates(z)

                candidates = None
                if near is not None:
                    candidates = z[near[rows]]

                optimizer.param_groups[0]["lr"] = self.lr * (1.0 - done / updates)
                optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    self.loss(z[rows], candidates, generator).backward()

                optimizer.step()
                done += 1

        self.requires_grad_(False)

    def _due(self, done: int) -> bool:
        return done == 0 or (self.space == "code" and done % self.refresh == 0)

    def _candidates(self, z: Tensor) -> Tensor:
        """Rows of each code's nearest codes, itself first, (n, neighbours)."""
        from sklearn.neighbors import NearestNeighbors

        points = z
        if self.space == "code":
            points = self.f(z)
        points = points.cpu().numpy()

        k = min(self.neighbours, len(z))
        search = NearestNeighbors(n_neighbors=k).fit(points)
        index = search.kneighbors(points, return_distance=False)
        return torch.from_numpy(index).to(z.device)

    def loss(self, z: Tensor, candidates: Tensor | None, generator: Generator | None) -> Tensor:
        """Squared error of standardised codes, summed over features.

        The error is a mean over batch and transitions.

        Args:
            z: standardised codes, (batch, features).
            candidates: for criterion "nearest", the codes among which h' is looked for,
                (batch, k, features).
            generator: source of the noise.
        """
        if candidates is None:
            end = self._move(z, generator)
            mismatch = 0.0
        else:
            end, mismatch = self._from_neighbour(z, candidates, generator)

        total = (end - z).square().sum(-1).mean()
        for _ in range(self.walkback):
            end = self._move(end.detach(), generator)
            total = total + (end - z).square().sum(-1).mean()

        return total / (1 + self.walkback) + self.match * mismatch

    def _from_neighbour(
        self, z: Tensor, candidates: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """g(f(h') + xi) and |f(h) - f(h')|^2 (2.2.8, steps 1 to 4)."""
        own = self.f(z)
        xi = self.hidden_noise * normal_like(own, generator)

        with torch.no_grad():
            distance = (self.f(candidates) - (own - xi)[:, None]).square().sum(-1)
            nearest = distance.argmin(1)
        other = candidates[torch.arange(len(z), device=z.device), nearest]
        code = self.f(self._corrupt(other, self.sigma, generator))

        own_error = (own - code.detach()).square().sum(-1)
        code_error = (code - own.detach()).square().sum(-1)
        return self.g(code + xi), (own_error + code_error).mean()

    # -- use -----------------------------------------------------------------------------------

    @staticmethod
    def _corrupt(h: Tensor, level: float, generator: Generator | None) -> Tensor:
        if level == 0.0:
            return h
        return torch.add(h, normal_like(h, generator), alpha=level)

    def _noises(self) -> tuple[float, float]:
        """Levels on h and on f(h) in the chain."""
        if self.chain_noise == "input":
            return self.sigma, 0.0
        if self.chain_noise == "code":
            return 0.0, self.hidden_noise
        return self.sigma, self.hidden_noise

    def _move(
        self, z: Tensor, generator: Generator | None, noises: tuple[float, float] | None = None
    ) -> Tensor:
        """g(corrupt(f(corrupt(z)))), with the noise of training unless `noises` are given."""
        sigma, hidden_noise = noises or (self.sigma, self.hidden_noise)
        code = self.f(self._corrupt(z, sigma, generator))
        return self.g(self._corrupt(code, hidden_noise, generator))

    def reconstruct(self, h: Tensor) -> Tensor:
        """g(f(h)) without noise, the target of h, (batch, features); gradients pass to h."""
        self.require_fitted()
        return self.center + self.scale * self.g(self.f(self._standardised(h)))

    def _step(self, h: Tensor, generator: Generator | None) -> Tensor:
        """One transition of the chain."""
        z = self._move(self._standardised(h), generator, self._noises())
        if self.residual > 0.0:
            z = z + self.residual * self.error * normal_like(z, generator)

        return self.center + self.scale * z

    @torch.no_grad()
    def chain(self, h: Tensor, steps: int, generator: Generator | None = None) -> Tensor:
        """States of the chain that starts at h, with h first, (steps + 1, batch, features)."""
        self.require_fitted()
        checks.width("h", h, len(self.center))

        states = [h]
        for _ in range(checks.whole("steps", steps, 0)):
            states.append(self._step(states[-1], generator))

        return torch.stack(states)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n states of chains that start from recorded codes, (n, features) (Algorithm 3).

        Each chain runs `burn_in` transitions, then gives a state every `steps` transitions.
        """
        self.require_fitted()

        chains = n
        if self.chains is not None:
            chains = min(n, self.chains)

        h = self._starts(chains, generator)
        for _ in range(self.burn_in):
            h = self._step(h, generator)

        states = []
        for _ in range(-(-n // max(chains, 1))):
            for _ in range(self.steps):
                h = self._step(h, generator)
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
            f"{self.criterion!r}, sigma={self.sigma:g}, hidden_noise={self.hidden_noise:g}, "
            f"steps={self.steps}, fitted={self.fitted}"
        )
