"""The learning rule: local losses in, one step of every layer out.

A rule fills one hole, `losses(batch, moment)`: a named loss for each layer and direction, whose
inputs and targets are detached. One backward pass through their sum then gives each layer its own
gradient, and nothing crosses from one layer to another.
"""

from collections.abc import Hashable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.completion.inpainting import Inpainter
from gendae.corruption import Corruption
from gendae.layers.pair import Pair
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import build, built
from gendae.rules.chain import Chain, clean
from gendae.rules.moment import Moment
from gendae.rules.rates import Maps, Rates
from gendae.rules.shell import Shell
from gendae.sampling.samplers import AncestralSampler


class Rule(checks.TakesArrays, Shell):
    """Base class of the learning rules over a stack; a variant defines `losses`.

    Works without a Trainer, in a loop over updates, with the optimizer that
    `rule.configure_optimizers()` gives:

        moment = Moment(progress, generator, update)
        rule.begin_update(optimizer, moment)
        optimizer.zero_grad()
        sum(rule.losses(batch, moment).values()).backward()
        optimizer.step()

    Args:
        stack: the model to train.
        rates: learning rates, weight decay, optimizer, clipping; see `Rates`.
        log_every: updates between two readings of the losses.
        prior_every: updates between two fits of P(h_L) on the latest codes, for rules whose losses
            use the prior; 0 fits it on all training codes before each validation only.

    Raises:
        ValueError: for numbers out of range, or rates of a wrong length.
        TrainingDiverged: during fit, where a loss is NaN or infinite.

    Example:
        >>> class AutoencoderRule(Rule):
        ...     def losses(self, batch, moment=Moment()):
        ...         x = batch[0]
        ...         return {"x_1": (self.stack.reconstruct(x) - x).square().sum(-1).mean()}
        >>> from gendae import deep_autoencoder
        >>> list(AutoencoderRule(deep_autoencoder([8, 4])).losses((torch.rand(2, 8),)))
        ['x_1']
    """

    ARRAYS = ("losses", "total_loss", "global_loss", "codes", "fit_residuals")

    #: Whether the stack is to be sampled from: its prior is then fitted, its samples scored.
    generative: ClassVar[bool] = True
    #: Whether examples may lack modalities.
    handles_missing: ClassVar[bool] = False
    #: Whether the label pair of a `LabelledStack` learns.
    learns_label: ClassVar[bool] = False
    #: What best.ckpt is chosen by, and whether more ("max") or less ("min") of it is better.
    score: ClassVar[tuple[str, str]] = ("val/parzen_ll", "max")
    #: Noise of h_0 .. h_L in training; None for a rule without any.
    corruption: Sequence[Corruption] | None = None
    #: What a stack is used with where it says nothing itself.
    DEFAULT_SETTINGS: ClassVar[Settings] = Settings(
        sampler=AncestralSampler(), inpainter=Inpainter.encode_decode()
    )

    def __init__(
        self, stack: Stack, rates: Rates = Rates(), log_every: int = 50, prior_every: int = 0
    ) -> None:
        self.log_every = checks.whole("log_every", log_every, 1)
        self.prior_every = checks.whole("prior_every", prior_every, 0)
        super().__init__(log_every, prior_every)

        self.stack = checks.kind("stack", checks.plain(build(stack)), Stack)
        checks.untied("stack", self.stack)
        self._check_untrained()
        self.stack.settings = self.stack.settings.or_else(self.default_settings())
        self.stack.settings.check(self.stack)

        self.rates = built("rates", rates, Rates)
        self.rates.check(self.maps())

    def _check_untrained(self) -> None:
        """Raise a ValueError for a stack with layers that this rule would leave as they are."""
        if self.generative and hasattr(self.stack, "output"):
            raise ValueError(
                f"stack={type(self.stack).__name__}: {type(self).__name__} trains generative "
                "stacks, and would leave the output layer as it is; accepted: a Stack"
            )
        if hasattr(self.stack, "label") and not self.learns_label:
            raise ValueError(
                f"stack={type(self.stack).__name__}: {type(self).__name__} would leave the label "
                "decoder as it is; accepted: LabelledEMRule, or a Stack"
            )

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Local losses in nats, mean over the batch; batch[0] is x.

        They are named term_l, or term_f_l and term_g_l. They change nothing: what an update
        depends on besides the batch and the weights is in `moment`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses")

    def total_loss(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> Tensor:
        """The sum of the losses, whose gradient an update follows; a classifier's at clean x."""
        return self.sum_of(self.losses(batch, moment))

    # -- what a rule may define ----------------------------------------------------------------

    def default_settings(self) -> Settings:
        """`DEFAULT_SETTINGS`, unless a rule has others for some stacks."""
        return self.DEFAULT_SETTINGS

    def global_loss(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> Tensor:
        """The loss of the whole model that local losses stand for, through all layers.

        Its exact gradient is what credit assignment is measured by. For a generative stack it is
        -log P(x | h_1) of the noise-free reconstruction from the top, unless a rule says more.
        """
        x = batch[0]
        chain = Chain.of(self.stack)
        _, output = chain.through(x, clean, moment)

        return chain.links[-1].energy(x, output).mean()

    def maps(self) -> Maps:
        """Encoders "f" and decoders "g" of the layers, each with the law around it."""
        pairs = self.stack.pairs
        return {
            "f": [[pair.f, pair.recognition] for pair in pairs],
            "g": [[pair.g, pair.observation] for pair in pairs],
        }

    def codes(self, x: Tensor) -> Tensor:
        """Top-level codes on which the prior is fitted; by default the feed-forward ones."""
        return self.stack.encode(x)[-1]

    def examples(self, batch: Sequence[Tensor]) -> Tensor:
        """x of the examples in a batch on whose codes the prior is fitted."""
        return batch[0]

    def fit_residuals(self, x: Tensor) -> None:
        """Measure P(H_l | h_L) under this rule's noise; see `Stack.fit_residuals`."""
        self.stack.fit_residuals(x, self.corruption)

    @property
    def prior_in_losses(self) -> Prior | None:
        """The prior that `losses` uses, if it uses one: in training it follows the codes."""
        return None

    @property
    def has_phases(self) -> bool:
        """Whether some maps, or their feedback, have no gradient at some updates."""
        return False

    def learning(self, update: int, batch_idx: int) -> tuple[str, ...]:
        """The directions that learn at an update."""
        return ("f", "g")

    def phase(self, moment: Moment) -> Hashable | None:
        """What `losses` takes from Python at this moment, apart from `progress`.

        Two updates in one phase, on batches of one shape, launch the same operations: see
        `gendae.Graphs`. None stands for an update that cannot be repeated.
        """
        prior = self.prior_in_losses
        if self.handles_missing or (prior is not None and not prior.fixed):
            return None

        return ()

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        """What learns beside the stack, such as feedback: a parameter group for each entry."""
        return []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer: a group for each layer and direction, and for each learned feedback."""
        return self.rates.optimizer_of({**self.maps(), "feedback": self.learners()})


def own_penalty(pair: Pair, level: int) -> dict[str, Tensor]:
    """An encoder's own penalty, such as orthogonality of an invertible layer (2014, section 6)."""
    penalty = getattr(pair.f, "penalty", None)
    if penalty is None:
        return {}

    return {f"penalty_f_{level}": penalty()}
