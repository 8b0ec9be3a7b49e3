"""P(h_L): what every top-level prior does.

Above the top, a prior takes the place of one more denoising auto-encoder. `reconstruct(h)` gives
the target h + noise^2 d log p(h) / dh, which is the optimal denoising of a code with Gaussian
noise of that level (2014, 2.2.4 and 7). A prior with a density also has `log_prob`, `score` and
`cross_entropy`. An analytic prior is sampled directly; any other is sampled by a Markov chain that
starts from recorded codes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.corruption import normal_like

if TYPE_CHECKING:
    from gendae.priors.conditional import Condition


class Prior(checks.TakesArrays, nn.Module):
    """Base class: a law over h_L with `fit`, `log_prob`, `score`, `reconstruct` and `sample`.

    Fitted numbers are buffers, which are empty until `fit`; a state dict brings their shapes with
    it. A variant defines `estimate`, `log_prob` and `sample`, and is registered so that files can
    hold it.

    Attributes:
        has_density: whether `log_prob`, `score` and `cross_entropy` are defined.
        slow_density: whether `log_prob` takes so long that reports ask for that of few codes.
        fixed: whether `fit` changes nothing, so that rules need not call it.
        analytic: whether `sample` draws exactly and independently, without a chain.
        discrete: whether p(h) is a probability of discrete values, and no density.
        leave_one_out: whether the density at a code leaves out that code's own term, if the prior
            stores it.
        condition: what a prior of p(h | c) is told of each code, with `name`, `values` and `rows`
            as those of a `Condition`; None for p(h) alone. A rule's fit gives it.
        noise: level sigma of the denoising that `reconstruct` stands for, in units of h; small
            beside the codes, whose scale is their own. A prior that knows it defines `noise` from
            what it fitted.
        LATER: names of the buffers that files of earlier versions do not have; the class fills
            them in as it loads such a file.

    Example:
        >>> from gendae import Prior, register
        >>> @register
        ... class ExponentialPrior(Prior):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("mean", torch.empty(0))
        ...
        ...     def estimate(self, codes):
        ...         self.mean = codes.mean(0)
        ...
        ...     def log_prob(self, h):
        ...         return -(h / self.mean + self.mean.log()).sum(-1)
        ...
        ...     def sample(self, n, generator=None):
        ...         return -self.mean * torch.rand(n, len(self.mean), generator=generator).log()
        >>> prior = ExponentialPrior().fit(torch.tensor([[1.0], [3.0]]))
        >>> prior.score(torch.ones(1, 1)), prior.reconstruct(torch.ones(1, 1))
        (tensor([[-0.5000]]), tensor([[0.9950]]))
    """

    ARRAYS = (
        "fit",
        "log_prob",
        "score",
        "reconstruct",
        "step",
        "marginal",
        "chain",
        "cross_entropy",
    )

    has_density: bool = True
    slow_density: bool = False
    fixed: bool = False
    analytic: bool = True
    discrete: bool = False
    leave_one_out: bool = False
    condition: "Condition | None" = None
    noise: float = 0.1
    LATER: ClassVar[tuple[str, ...]] = ()

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called, or fitted numbers were loaded."""
        return all(buffer.numel() > 0 for buffer in self.buffers(recurse=False))

    def require_fitted(self) -> None:
        """Raise a ValueError unless the prior is fitted."""
        if not self.fitted:
            raise ValueError(
                f"{type(self).__name__} is not fitted; call prior.fit(codes) with the "
                "top-level codes of the training set first"
            )

    def require_density(self) -> None:
        """Raise a ValueError unless the prior has a density."""
        if not self.has_density:
            raise ValueError(
                f"{type(self).__name__} has no density; use prior.reconstruct(h), or a prior "
                "with one: GaussianPrior, FactorialPrior, ParzenPrior"
            )

    def prepare(self, features: int) -> None:
        """Take the width of h_L, before any fit: a Stack calls this. Most priors need no width."""

    def check_units(self, lowest: Sequence[float | None]) -> None:
        """Raise a ValueError for a law that the units of h_L cannot have: a Stack calls this.

        Args:
            lowest: lower end of each unit's range, -1 or 0; None where it is another.
        """

    def fit(self, codes: Tensor, conditions: Tensor | None = None) -> "Prior":
        """Estimate the law from codes of the training set, (n, features); returns the prior.

        Args:
            codes: (n, features).
            conditions: of a prior of p(h | c), what each code is conditioned on; see `condition`.

        Raises:
            ValueError: for fewer than two codes, or codes with NaN or infinite values; for
                conditions where the prior takes none.
        """
        # Validation may run in inference mode, whose tensors no later training step could use.
        # Losses may run under autocast, which gives codes in half precision.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(codes.device.type, enabled=False),
        ):
            codes = usable_codes(codes)
            if conditions is None:
                self.estimate(codes)
            else:
                self.estimate_given(codes, conditions)

        return self

    def estimate(self, codes: Tensor) -> None:
        """Set the law's numbers from codes that `fit` checked: what a prior defines."""
        raise NotImplementedError(f"{type(self).__name__} must define estimate")

    def estimate_given(self, codes: Tensor, conditions: Tensor) -> None:
        """The same from codes and conditions: what a prior of p(h | c) defines."""
        raise ValueError(
            f"conditions: {type(self).__name__} models p(h) alone; accepted: "
            "ConditionalDenoisingPrior"
        )

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, (batch,); differentiable in h, in the precision of h.

        Raises:
            ValueError: before `fit`; for a prior without a density.
        """
        self.require_density()
        raise NotImplementedError(f"{type(self).__name__} must define log_prob")

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh, (batch, features); a constant, through which no gradient flows."""
        self.require_density()

        with torch.enable_grad():
            leaf = h.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prob(leaf).sum(), leaf)

        return gradient

    def reconstruct(self, h: Tensor) -> Tensor:
        """The denoised h, target of a code: h + noise^2 d log p(h) / dh, (batch, features)."""
        return h + self.noise**2 * self.score(h)

    def step(
        self, h: Tensor, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """One round of a chain whose law is the prior's, (batch, features).

        h~ = h + sqrt(2) noise N(0, I), denoised: the corruption and the draw from P(h | h~) have a
        variance of noise^2 each. The law is the prior's up to O(noise^2), as Langevin's.
        Source: Bengio 2014, sections 2.2.4 and 2.2.7.

        Args:
            h: (batch, features).
            temperature: scale of the noise; 0 is the ascent of `reconstruct`.
            generator: source of the noise.
        """
        if temperature == 0.0:
            return self.reconstruct(h)

        noise = temperature * math.sqrt(2.0) * self.noise_of_units
        return self.reconstruct(h + noise * normal_like(h, generator))

    @property
    def noise_of_units(self) -> Tensor | float:
        """The noise that `reconstruct` takes away: of each unit, (features,), or one for all."""
        return self.noise

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features), on the prior's device; drawn where `generator` lives."""
        raise NotImplementedError(f"{type(self).__name__} must define sample")

    def marginal(self, observed: Tensor) -> "Prior":
        """The fitted law of the units where `observed` is True; a boolean, (features,).

        Raises:
            ValueError: for a prior whose marginal has no closed form.
        """
        raise ValueError(
            f"{type(self).__name__} has no closed marginal; accepted: GaussianPrior, ParzenPrior"
        )

    def chain(self, h: Tensor, steps: int, generator: Generator | None = None) -> Tensor:
        """States of the Markov chain that starts at h, (steps + 1, batch, features).

        Raises:
            ValueError: for a prior that needs no chain.
        """
        raise ValueError(
            f"{type(self).__name__} is sampled directly: call sample(n), or run a "
            "chain at a level below the top (--level)"
        )

    def cross_entropy(
        self, sample: Tensor, mean: Tensor, variance: Tensor | None = None
    ) -> Tensor:
        """-E_Q log p(h_L) in nats, (batch,), the prior's term of KL(Q || P); differentiable.

        The value is exact where prior and Q have a closed form, and otherwise the Monte Carlo
        value -log p(sample).
        Source: Bengio et al. 2014, section 7.4.

        Args:
            sample: draw from Q(h_L | h_{L-1}), (batch, features).
            mean: mean of Q; the probabilities of binary units.
            variance: diagonal of Q's covariance, shaped like the mean or (features,); None if Q
                has no variance.
        """
        return -self.log_prob(sample)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        for name, buffer in list(self.named_buffers(recurse=False)):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(stored.shape))

        super()._load_from_state_dict(state_dict, prefix, *args)


class ScaledPrior(Prior):
    """A prior whose denoising is that of a tenth of its codes' spread, unless a noise is given.

    The level then means the same to codes of any scale. A variant defines `variance`.

    Args:
        noise: level sigma of the denoising, in units of h; a tenth of the codes' spread if None.

    Raises:
        ValueError: for a negative noise, or one of 0 where `needs_noise`; also when it is set.
    """

    #: Whether a noise of 0 leaves nothing to learn from.
    needs_noise: ClassVar[bool] = False
    given_noise: float | None

    def __init__(self, noise: float | None) -> None:
        super().__init__()
        self.noise = noise

    @property
    def noise(self) -> float:
        """Level of the denoising, in units of h; a tenth of a spread of 1 before `fit`."""
        return float(self.level)

    @noise.setter
    def noise(self, level: float | None) -> None:
        if level is not None:
            level = checks.at_least("noise", level, 0.0, strict=self.needs_noise)

        self.given_noise = level

    @property
    def level(self) -> Tensor | float:
        """The same; no device is waited for."""
        if self.given_noise is not None:
            return self.given_noise
        if not self.fitted:
            return NOISE

        return NOISE * self.variance.sqrt()

    @property
    def variance(self) -> Tensor:
        """Variance of the codes, a mean over their units."""
        raise NotImplementedError(f"{type(self).__name__} must define variance")


def usable_codes(codes: Tensor) -> Tensor:
    """Codes to fit a law on: real numbers in single precision at least, that no graph holds.

    Raises:
        ValueError: for fewer than two codes, another shape, or NaN and infinite values.
    """
    if codes.ndim != 2 or len(codes) < 2:
        raise ValueError(f"codes has shape {tuple(codes.shape)}; at least two rows are needed")

    codes = checks.finite("codes", codes).detach()
    if codes.dtype in (torch.float16, torch.bfloat16):
        codes = codes.float()
    if codes.is_inference():
        codes = codes.clone()

    return codes


#: Share of the mean variance added to each variance, so that dead units leave a density.
JITTER = 1e-6
#: Level of a prior's denoising where none is given, as a share of the spread of its codes.
NOISE = 0.1


def floored(variance: Tensor, dtype: torch.dtype) -> Tensor:
    """Variances, all of them positive in this dtype."""
    return variance + JITTER * variance.mean() + torch.finfo(dtype).tiny
