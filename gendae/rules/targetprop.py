"""Target propagation for generative stacks: every map learns from a target of its own."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, normal_like
from gendae.models.noise import corruption_of_each
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import built, register
from gendae.rules.base import Rule, own_penalty
from gendae.rules.differences import DifferenceLoop
from gendae.rules.loops import Loop
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates

#: Length of the finite difference by which the contractive penalty is estimated, in units of h.
PROBE = 1e-2


@register
class TargetPropRule(Rule):
    """Every f_l and g_l learns from local targets, which a loop of auto-encoding gives.

    The loop is the difference loop (`DifferenceLoop`): what the reconstruction of x lacks travels
    around it, up the decoder and down the encoder, and becomes the target of each map. Algorithm 2
    as printed is `ShortAndLongLoops`; `PairLoops` trains each pair by itself.

    contractive_f_l = E |df_l v|^2,  sparsity_f_l = E |h_l|_1        (section 6, question 11)

    Source: Bengio 2014, Algorithm 2; Bengio et al. 2015, Eq. 12; Lee 2018, Eq. 3.15.

    Args:
        stack: the model.
        loop: where targets come from; `DifferenceLoop` if None.
        corruption: of h_0 .. h_L; the loop's own if None.
        contractive, sparsity: weights of penalties on the encoders.
        rates, log_every, prior_every: see `Rule`; `rates.feedback` is that of learned feedback.

    Raises:
        ValueError: for negative weights, or a wrong number of corruptions; for a loop whose
            feedback another rule has.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> rule = TargetPropRule(deep_autoencoder([8, 6, 4]))
        >>> [name for name in rule.losses((torch.rand(10, 8),)) if name.startswith("lack")]
        ['lack_g_1', 'lack_f_1', 'lack_f_2', 'lack_g_2']
    """

    def __init__(
        self,
        stack: Stack,
        loop: Loop | None = None,
        corruption: Sequence[Corruption] | None = None,
        contractive: float = 0.0,
        sparsity: float = 0.0,
        rates: Rates = Rates(hold=0.5),
        log_every: int = 50,
        prior_every: int = 0,
    ) -> None:
        super().__init__(stack, rates, log_every, prior_every)

        if loop is None:
            loop = DifferenceLoop()
        self.loop: Loop = built("loop", loop, Loop)

        if corruption is None:
            self.given_corruption = None
            self.corruption: list[Corruption] = self.loop.corruption(self.stack)
        else:
            self.given_corruption = corruption_of_each(self.stack, corruption)
            self.corruption = self.given_corruption

        self.contractive = checks.at_least("contractive", contractive, 0.0)
        self.sparsity = checks.at_least("sparsity", sparsity, 0.0)

        # last: what a rule of mistakes has prepared is of no use to the next one
        self.loop.prepare(self.stack, self.given_corruption)
        self.rates.check({"feedback": self.learners()})

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        return self.loop.learners()

    @property
    def has_phases(self) -> bool:
        return self.loop.has_phases

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """That of `Rule`, where encoders learn at the pace of the loop."""
        optimizer = super().configure_optimizers()
        for group in optimizer.param_groups:
            if group["name"].startswith("f_"):
                group["initial_lr"] *= self.loop.pace
                group["lr"] = group["initial_lr"]

        return optimizer

    def begin_update(self, optimizer: torch.optim.Optimizer, moment: Moment) -> None:
        """Where losses become others, the optimizer forgets the scale of their gradients.

        That of the loop's is some ten times that of the pairs'; Adam would divide it by what it
        remembers, for hundreds of updates, and throw the codes away.
        """
        super().begin_update(optimizer, moment)
        if moment.update is not None and self.loop.turns(moment.update):
            for parameter in self.stack.parameters():
                optimizer.state.pop(parameter, None)

    @property
    def prior_in_losses(self) -> Prior | None:
        return self.loop.prior(self.stack)

    def phase(self, moment: Moment) -> Hashable | None:
        """That of the loop, where the update can be repeated."""
        if super().phase(moment) is None:
            return None

        return self.loop.phase(moment)

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Weighted terms in nats, mean over the batch; batch[0] is x."""
        x = checks.rows("x", batch[0])

        terms = self.loop.losses(self.stack, x, self.corrupt, moment)
        for level, pair in enumerate(self.stack.pairs, 1):
            terms |= own_penalty(pair, level)
        if self.contractive > 0 or self.sparsity > 0:
            terms |= self._penalties(x, moment)

        return terms

    def global_loss(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> Tensor:
        """The loss that the difference loop assigns credit for; for another loop see `Rule`."""
        if not isinstance(self.loop, DifferenceLoop):
            return super().global_loss(batch, moment)

        return self.loop.loss(self.stack, batch[0], self.corrupt, moment)

    def corrupt(self, level: int, h: Tensor, moment: Moment) -> Tensor:
        """h~_l."""
        return self.corruption[level](h, moment.progress, moment.generator)

    def fit_residuals(self, x: Tensor) -> None:
        noise = self.loop.noise_of(self.stack, x, self.corruption)
        self.stack.fit_residuals(x, noise, adds_up=self.loop.adds_up)

    def _penalties(self, x: Tensor, moment: Moment) -> dict[str, Tensor]:
        """contractive_f_l and sparsity_f_l, each on the detached input of its encoder."""
        with torch.no_grad():
            h = self.stack.up(x, generator=moment.draws)

        terms = {}
        for level, (pair, below) in enumerate(zip(self.stack.pairs, h, strict=False), 1):
            code = pair.f(below)
            if self.contractive > 0:
                probe = torch.add(below, normal_like(below, moment.generator), alpha=PROBE)
                change = (pair.f(probe) - code).square().sum(-1).mean() / PROBE**2
                terms[f"contractive_f_{level}"] = self.contractive * change
            if self.sparsity > 0:
                terms[f"sparsity_f_{level}"] = self.sparsity * code.abs().sum(-1).mean()

        return terms
