"""What estimators share: parameters, checked rows, and a training that disturbs nothing.

A rule learns in a plain loop, without a Trainer: no log, no checkpoint, no line. Networks learn in
single precision and are used in double precision, so that the result for a row does not depend on
the rows beside it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Generator, Tensor
from tqdm import tqdm

from gendae import checks
from gendae.estimators.scale import Scale, mean_of
from gendae.layers.affine import Affine
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.rules.base import Rule
from gendae.rules.differences import DifferenceLoop
from gendae.rules.ledger import TrainingDiverged
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates

#: Part of the updates in which pairs learn by themselves; see `DifferenceLoop`.
START = 0.1
#: Mean pixels keep away from 0 and 1 so far, where a sigmoid's bias would be infinite.
EDGE = 1e-2


def validated(estimator: BaseEstimator, *arrays: Any, **options: Any) -> Any:  # noqa: ANN401
    """What scikit-learn's `validate_data` gives, which is a method before version 1.6."""
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:
        if "ensure_all_finite" in options:
            options["force_all_finite"] = options.pop("ensure_all_finite")
        return estimator._validate_data(*arrays, **options)

    return validate_data(estimator, *arrays, **options)


class Network(BaseEstimator):
    """Base class of the estimators that train a network; a variant's `fit` makes a rule.

    Its parameters are those that all of them have: hidden, epochs, batch_size, learning_rate,
    corruption, random_state, device and verbose.
    """

    hidden: Sequence[int]
    epochs: int
    batch_size: int
    learning_rate: float
    corruption: float
    random_state: Any
    device: str
    verbose: bool
    scale_: Scale
    stack_: Stack

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "stack_")

    # -- parameters ----------------------------------------------------------------------------

    def _sizes(self, features: int) -> list[int]:
        """Widths of h_0 .. h_L."""
        hidden = self.hidden
        if isinstance(hidden, np.ndarray):
            hidden = hidden.tolist()

        text = isinstance(hidden, str | bytes)
        if text or not isinstance(hidden, Sequence) or len(hidden) == 0:
            raise ValueError(f"hidden={self.hidden!r}: widths of h_1 .. h_L, such as (256, 64)")

        return [features, *(checks.whole("hidden", width, 1) for width in hidden)]

    def _updates(self, rows: int) -> int:
        """How many updates the training has."""
        epochs = checks.whole("epochs", self.epochs, 0, checks.REPEATS)
        return epochs * -(-rows // self._rows_of_batch())

    def _rows_of_batch(self) -> int:
        return checks.whole("batch_size", self.batch_size, 1)

    def _rates(self) -> Rates:
        rate = checks.at_least("learning_rate", self.learning_rate, 0.0)
        return Rates(f=rate, g=rate, feedback=rate, hold=0.5)

    def _loop(self, rows: int) -> DifferenceLoop:
        """Targets of a stack, whose pairs learn by themselves at the start."""
        return DifferenceLoop(prior_weight=0.0, start=round(START * self._updates(rows)))

    @contextmanager
    def _repeatable(self) -> Iterator[Generator]:
        """Noise of the training, and weights, by `random_state`; torch's own state comes back."""
        seed = seed_of(self.random_state)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of no accelerator: none is drawn from
            yield torch.Generator().manual_seed(seed)

    # -- rows ----------------------------------------------------------------------------------

    def _seen(self, x: np.ndarray) -> Tensor:
        """Rows as the network sees them while it learns, where it learns."""
        rows = torch.as_tensor(self.scale_.scaled(x), dtype=torch.float32)
        return rows.to(checks.device(self.device))

    def _used(self, x: np.ndarray) -> Tensor:
        """Rows as the fitted network takes them."""
        return torch.as_tensor(self.scale_.scaled(x)).to(self.stack_.device, self.stack_.dtype)

    # -- the network ---------------------------------------------------------------------------

    def _autoencoder(
        self,
        x: np.ndarray,
        activations: Sequence[str],
        observation: str = "gaussian",
        prior: Prior | None = None,
    ) -> Stack:
        """A stack for rows in their own units, (n, features), NaN where values are missing."""
        stack = deep_autoencoder(
            self._sizes(x.shape[1]),
            list(activations),
            visible=self.scale_.visible,
            observation=observation,
            prior=prior,
        )
        self._centre(stack, x)

        return stack.to(checks.device(self.device))

    @torch.no_grad()
    def _centre(self, stack: Stack, x: np.ndarray) -> None:
        """Have f_1 take pixels around their mean, and g_1 give the mean where h_1 is 0.

        What is not centred slows every layer down: with pixels as they are, completions of the
        digits were a tenth further from the truth after the same training.
        """
        if not self.scale_.pixels:
            return

        mean = torch.as_tensor(mean_of(x), dtype=stack.dtype)
        f = cast(Affine, stack.pairs[0].f)
        g = cast(Affine, stack.pairs[0].g)
        f.bias.sub_(f.weight @ mean)
        g.bias.add_(torch.logit(mean.clamp(EDGE, 1.0 - EDGE)))

    def _train(
        self,
        rule: Rule,
        batch: Sequence[Tensor],
        generator: Generator,
        expect: Callable[[], Sequence[Tensor]] | None = None,
    ) -> None:
        """Train a rule's stack, and keep it as `stack_`.

        Args:
            rule: what learns.
            batch: all rows, and what else the rule takes.
            generator: source of noise, and of the order of rows.
            expect: gives the rows anew after each epoch.
        """
        n = len(batch[0])
        updates = self._updates(n)
        size = self._rows_of_batch()
        optimizer = rule.configure_optimizers()

        update = 0
        for _ in tqdm(range(self.epochs), unit=" epochs", leave=False, disable=not self.verbose):
            for index in torch.randperm(n, generator=generator).split(size):
                moment = Moment(update / updates, generator, update)
                some = [rows[index.to(rows.device)] for rows in batch]
                losses = step(rule, optimizer, some, moment)
                update += 1

            stop_where_diverged(losses, update)
            if expect is not None:
                batch = expect()

        self.stack_ = rule.stack.eval().requires_grad_(False)

    def _settle(self) -> None:
        """Keep the trained stack in double precision, where the device has it."""
        if self.stack_.device.type != "mps":
            self.stack_.double()


def seed_of(random_state: Any) -> int:  # noqa: ANN401 - as scikit-learn takes it
    """A seed for torch from what scikit-learn calls a random state."""
    return int(draws_of(random_state).randint(2**31 - 1))


def draws_of(random_state: Any) -> np.random.RandomState:  # noqa: ANN401
    """NumPy's source of random numbers that a random state of scikit-learn stands for."""
    try:
        return check_random_state(random_state)
    except ValueError:
        raise ValueError(
            f"random_state={random_state!r}: None, a whole number from 0 to 2^32 - 1, or a "
            "RandomState is needed"
        ) from None


def step(
    rule: Rule, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor], moment: Moment
) -> dict[str, Tensor]:
    """One update of a rule outside of a Trainer; its losses."""
    rule.begin_update(optimizer, moment)
    optimizer.zero_grad()

    losses = rule.losses(batch, moment)
    rule.sum_of(losses).backward()

    rule.on_before_optimizer_step(optimizer)
    optimizer.step()
    return losses


def stop_where_diverged(losses: dict[str, Tensor], update: int) -> None:
    """Raise a TrainingDiverged for losses that are NaN or infinite."""
    for name, loss in losses.items():
        if not math.isfinite(loss.item()):
            raise TrainingDiverged(
                f"{name} is {loss.item()} after {update} updates: give a lower learning_rate"
            )
