"""A stack of auto-encoders as a transformer, a sampler and a density."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gendae import checks
from gendae.corruption import GaussianNoise, RelativeNoise
from gendae.estimators.base import Network, seed_of, validated
from gendae.estimators.scale import Scale
from gendae.priors.bandwidth import HeldOut
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import parzen_log_prob
from gendae.rules.targetprop import TargetPropRule
from gendae.sampling.samplers import generate

if TYPE_CHECKING:
    from typing_extensions import Self

    Rows = Any

#: Samples of the model around which the density has its windows.
CENTRES = 2000
#: Most rows of `fit`, drawn at random, on which the width of the windows is chosen.
ROWS = 1000


class StackedDAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Network):
    """A stack of denoising auto-encoders, trained by target propagation, under a Gaussian top.

    `transform` gives the codes h_L and `inverse_transform` decodes them. `sample` draws h_L from
    the Gaussian that fits the codes, and decodes it. `score_samples` is the log density of a
    Parzen window around 2,000 such samples, whose width is chosen on rows of `fit`, on 1,000 at
    random where there are more: a density of what the model draws, in the units of the features.
    It can be compared with that of any other model of the same rows, such as
    `GaussianMixture.score_samples`.
    See `TargetPropRule` and `DifferenceLoop` for how it learns.

    Args:
        hidden: widths of h_1 .. h_L; those below the top are tanh units, the top is linear.
        epochs, batch_size, learning_rate: of the training; the rate is held for half of it and
            then declines to 0.
        corruption: noise on x and on the codes in training, as a part of their spread.
        random_state: of weights and noise; None draws from NumPy's global state.
        device: where it learns: cpu, cuda, cuda:0, mps.
        verbose: show a bar on standard error.

    Attributes:
        stack_: the model, a `gendae.Stack` of scaled rows, which `gendae.save` keeps.
        scale_: how rows are scaled.
        bandwidth_: deviation of the density's windows, in units of scaled rows.
        n_features_in_, feature_names_in_: of the rows of `fit`.

    Raises:
        ValueError: by `fit`, for fewer than two rows, parameters out of range, and rows that do
            not fit.

    Example:
        >>> x = np.random.RandomState(0).rand(50, 6)
        >>> model = StackedDAE((8, 2), epochs=2, random_state=0).fit(x)
        >>> codes = model.transform(x)
        >>> codes.shape, model.inverse_transform(codes).shape, model.sample(3).shape
        ((50, 2), (50, 6), (3, 6))
        >>> model.score_samples(x).shape
        (50,)
    """

    def __init__(
        self,
        hidden: Sequence[int] = (200, 20),
        epochs: int = 100,
        batch_size: int = 50,
        learning_rate: float = 3e-3,
        corruption: float = 0.3,
        random_state: Any = None,  # noqa: ANN401 - as scikit-learn takes it
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden

        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.corruption = corruption

        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: "Rows", y: None = None) -> "Self":
        """Learn from rows, (n, features)."""
        x = validated(self, X, dtype=np.float64, ensure_min_samples=2)
        self.scale_ = Scale.of(x)

        with self._repeatable() as generator:
            rule = self._rule(x)
            self._train(rule, (self._seen(x),), generator)
            self.seed_ = generator.initial_seed()

        self._settle()
        with torch.no_grad():
            self.stack_.prior.fit(self.stack_.encode(self._used(x))[-1])

        # at random, for rows may be sorted
        some = torch.randperm(len(x), generator=generator)[:ROWS].numpy()
        self.bandwidth_ = self._best_bandwidth(self._used(x[some]))
        return self

    def _rule(self, x: np.ndarray) -> TargetPropRule:
        activations = ["tanh"] * (len(self._sizes(x.shape[1])) - 2) + ["linear"]
        observation = "bernoulli" if self.scale_.pixels else "gaussian"
        prior = GaussianPrior("full", variance_scale=1.0)
        stack = self._autoencoder(x, activations, observation, prior)

        noise = RelativeNoise(checks.at_least("corruption", self.corruption, 0.0))
        between = [GaussianNoise(0.0) for _ in stack.pairs[1:]]
        loop = self._loop(len(x))
        return TargetPropRule(stack, loop, [noise, *between, noise], rates=self._rates())

    # -- codes ---------------------------------------------------------------------------------

    @property
    def _n_features_out(self) -> int:
        return self.stack_.sizes[-1]

    def transform(self, X: "Rows") -> np.ndarray:
        """Codes h_L, (n, hidden[-1])."""
        check_is_fitted(self)
        x = validated(self, X, dtype=np.float64, reset=False)

        return self.stack_.encode(self._used(x))[-1].cpu().double().numpy()

    def inverse_transform(self, X: "Rows") -> np.ndarray:
        """What codes, (n, hidden[-1]), stand for, (n, features)."""
        check_is_fitted(self)
        codes = torch.as_tensor(check_array(X, dtype=np.float64))
        codes = codes.to(self.stack_.device, self.stack_.dtype)

        return self._in_units(self.stack_.decode(codes))

    # -- samples and a density -----------------------------------------------------------------

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:  # noqa: ANN401
        """Rows drawn from the model, (n_samples, features).

        Args:
            n_samples: how many.
            random_state: None draws the same rows each time, by the seed of `fit`.
        """
        check_is_fitted(self)
        checks.whole("n_samples", n_samples, 1)
        seed = self.seed_
        if random_state is not None:
            seed = seed_of(random_state)

        return self._in_units(generate(self.stack_, n_samples, seed=seed))

    def score_samples(self, X: "Rows") -> np.ndarray:
        """Log density of each row, in nats and in the units of the features, (n,)."""
        check_is_fitted(self)
        x = validated(self, X, dtype=np.float64, reset=False)
        log_p = parzen_log_prob(self._used(x), self._centres(), self.bandwidth_)

        return log_p.cpu().numpy() - self.scale_.log_volume

    def score(self, X: "Rows", y: None = None) -> float:
        """Mean log density of the rows, in nats, as `GaussianMixture.score`."""
        return float(self.score_samples(X).mean())

    def _centres(self) -> Tensor:
        """Samples of the model, scaled; the same each time."""
        return generate(self.stack_, CENTRES, seed=self.seed_).to(self.stack_.device)

    def _best_bandwidth(self, rows: Tensor) -> float:
        centres = self._centres()
        spread = rows.var(0, correction=0).mean().sqrt().item() or 1.0

        def log_likelihood(grid: Tensor) -> Tensor:
            return parzen_log_prob(rows, centres, grid).mean(1).cpu()

        return HeldOut().best(log_likelihood, spread)

    def _in_units(self, x: Tensor) -> np.ndarray:
        return self.scale_.unscaled(x.cpu().double().numpy())
