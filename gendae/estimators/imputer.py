"""Missing cells filled by clamped inference, as an estimator."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.chain import ClampedChain
from gendae.corruption import Corruption, RelativeNoise, uniform_like
from gendae.estimators.base import Network, validated
from gendae.estimators.scale import Scale, mean_of, range_of
from gendae.models.stack import Stack
from gendae.rules.targetprop import TargetPropRule

if TYPE_CHECKING:
    from typing_extensions import Self

    Rows = Any

#: Noise on the codes in training, as a part of their spread.
NOISE = 0.3


class HiddenCells(Corruption):
    """Cells are hidden, of each row another share of them, as where a filling begins.

    Then they hold what the stack itself makes of the others, in each round in half of the rows: so
    it learns to go on from its own fillings.
    Source: Vincent et al. 2008, section 2.3; the rounds are a walkback (Bengio et al. 2013).

    Args:
        start: what hidden cells hold, (features,), scaled.
        stack: the stack that learns.
        share: largest share of the cells of a row that is hidden; that of each row is uniform
            between 0 and it.
        rounds: through the stack.
    """

    def __init__(self, start: Tensor, stack: Stack, share: float, rounds: int) -> None:
        self.start = start
        self.stack = stack
        self.share = share
        self.rounds = rounds

    @torch.no_grad()
    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        shares = self.share * uniform_like(h[:, :1], generator)
        hidden = uniform_like(h, generator) < shares

        x = torch.where(hidden, self.start, h)
        for _ in range(self.rounds):
            walks = uniform_like(h[:, :1], generator) < 0.5
            x = torch.where(hidden & walks, around(self.stack, x), x)

        return x


def around(stack: Stack, x: Tensor) -> Tensor:
    """x up to the top and down again."""
    return stack.down(stack.up(x)[-1])[0]


class DAEImputer(OneToOneFeatureMixin, TransformerMixin, Network):
    """Missing cells (NaN) are filled by clamped inference in a stack of denoising auto-encoders.

    The stack learns to give back rows of which it sees a part: hidden cells hold the mean of their
    feature. To fill a row, its missing cells start there, and go through the stack some times,
    while the given ones are clamped (Bengio 2014, section 7.5). Given cells come back as they are.

    Cells that are missing in `fit` are latent: they start at the mean too, and after each epoch
    are filled anew by the stack as it is then.

    Args:
        hidden: widths of h_1 .. h_L, of relu units.
        epochs, batch_size, learning_rate: of the training; the rate is held for half of it and
            then declines to 0.
        corruption: largest share of the cells of a row that is hidden in training.
        rounds: how often a filling goes through the stack.
        random_state: of weights and noise; None draws from NumPy's global state. Filling draws
            nothing.
        device: where it learns: cpu, cuda, cuda:0, mps.
        verbose: show a bar on standard error.

    Attributes:
        stack_: the model, a `gendae.Stack` of scaled rows.
        scale_: how rows are scaled.
        start_: where missing cells start, (features,), scaled: the means of the features. A
            feature without any value in `fit` counts as 0.
        low_, high_: what fillings lie between, (features,), scaled: the values seen in `fit`.
        n_features_in_, feature_names_in_: of the rows of `fit`.

    Raises:
        ValueError: by `fit`, for parameters out of range and rows that do not fit.

    Example:
        >>> x = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, np.nan], [np.nan, 40.0]])
        >>> filled = DAEImputer((8,), epochs=2, random_state=0).fit_transform(x)
        >>> bool(np.isnan(filled).any()), filled[0]
        (False, array([ 1., 10.]))
    """

    def __init__(
        self,
        hidden: Sequence[int] = (256, 256),
        epochs: int = 200,
        batch_size: int = 100,
        learning_rate: float = 2e-3,
        corruption: float = 1.0,
        rounds: int = 3,
        random_state: Any = None,  # noqa: ANN401 - as scikit-learn takes it
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden

        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.corruption = corruption
        self.rounds = rounds

        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: "Rows", y: None = None) -> "Self":
        """Learn from rows, (n, features), of which cells may be missing."""
        x = validated(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        checks.whole("rounds", self.rounds, 0, checks.REPEATS)
        self.scale_ = Scale.of(x)
        self.start_ = self.scale_.scaled(mean_of(x))
        self.low_, self.high_ = self.scale_.scaled(range_of(x))

        with self._repeatable() as generator:
            rule = self._rule(x)
            self._learn(rule, self._seen(x), generator)

        self._settle()
        return self

    def _rule(self, x: np.ndarray) -> TargetPropRule:
        stack = self._autoencoder(x, ["relu"] * (len(self._sizes(x.shape[1])) - 1))
        start = torch.as_tensor(self.start_, dtype=stack.dtype, device=stack.device)

        share = checks.share("corruption", self.corruption)
        hiding = HiddenCells(start, stack, share, self.rounds)
        noise = [hiding, *(RelativeNoise(NOISE) for _ in stack.pairs)]
        return TargetPropRule(stack, self._loop(len(x)), noise, rates=self._rates())

    def _learn(self, rule: TargetPropRule, rows: Tensor, generator: Generator) -> None:
        """Train on rows whose missing cells the stack fills anew after each epoch."""
        mask = ~rows.isnan()
        stack = rule.stack

        def expect() -> Sequence[Tensor]:
            return (self._filled(stack, rows, mask),)

        start = torch.as_tensor(self.start_, dtype=rows.dtype, device=rows.device)
        completed = torch.where(mask, rows, start)
        latent = not bool(mask.all())
        self._train(rule, (completed,), generator, expect if latent else None)

    def _filled(self, stack: Stack, rows: Tensor, mask: Tensor) -> Tensor:
        """Scaled rows whose missing cells went through the stack, (n, features)."""
        ends = np.stack([self.start_, self.low_, self.high_])
        start, low, high = torch.as_tensor(ends, dtype=rows.dtype, device=rows.device)

        def round_(x: Tensor, temperature: float) -> Tensor:
            return torch.clamp(around(stack, x), low, high)

        chain = ClampedChain(round_, [0.0] * self.rounds)
        return chain(start.expand_as(rows), rows, mask).h

    def transform(self, X: "Rows") -> np.ndarray:
        """The rows with their missing cells filled; given cells are as they were."""
        check_is_fitted(self)
        x = validated(self, X, dtype=np.float64, reset=False, ensure_all_finite="allow-nan")
        missing = np.isnan(x)

        rows = self._used(x)
        filled = self._filled(self.stack_, rows, ~rows.isnan()).cpu().double().numpy()
        return np.where(missing, self.scale_.unscaled(filled), x)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _more_tags(self) -> dict[str, bool]:
        """The same before scikit-learn 1.6."""
        return {"allow_nan": True}
