"""Difference target propagation for feed-forward classifiers."""

from collections.abc import Hashable, Sequence

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, GaussianNoise
from gendae.models.classifier import Classifier, label_loss
from gendae.registry import register
from gendae.rules.base import PerLayer
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targets import displacements, first_displacement, iterated

SCHEDULES = ("joint", "alternate")


@register
class DifferenceTargetPropRule(SupervisedRule):
    """Every hidden layer learns to reach a target that comes down through learned inverses.

    h^_L = h_L - step dL/dh_L                    first target, from the global loss L
    h^_{l-1} = h_{l-1} + g_l(h^_l) - g_l(h_l)    l = L .. 2                         (Eq. 3.15)
    target_f_l:  |f_l(h_{l-1}) - h^_l|^2         l = 1 .. L; label_f_M is L itself  (Algorithm 1)
    inverse_g_l: |g_l(f_l(h_{l-1} + e)) - (h_{l-1} + e)|^2,
                 e ~ N(0, sigma^2)               l = 2 .. L                         (Eq. 3.13)

    All inputs and targets are detached: no gradient leaves the layer that it is computed in.
    Stochastic units have targets for their probabilities (Eq. 3.30). The layers above see the
    draws, and inverses reconstruct the draws.
    Source: Lee 2018, Algorithm 1 and sections 3.3.1 to 3.3.3; Bengio 2014 (slides) for several
    rounds.

    Args:
        stack: the classifier.
        step: eta^ of the first target, on the loss of one example, in squared units of h per nat.
            (The original code multiplies the gradient of the mean over 100 examples: its 0.33 is
            0.0033 here.)
        difference: with the correction; False is plain target propagation, h^_{l-1} = g_l(h^_l)
            (Eq. 3.9).
        sigma: standard deviation of e for g_2 .. g_L; a number, or one for each of these L - 1
            inverses.
        half_life: fraction of training after which sigma has halved, sigma / (1 + t / half_life);
            None: constant.
        scaled: divide the targets' losses by 2 step. Their gradients then have the scale of
            back-propagation's, and do not depend on step while it is small; Eq. 3.4 as printed,
            and the original code, do not.
        schedule: "joint" updates inverses and encoders in every batch; "alternate" goes over the
            data twice in an epoch, first for the inverses, then for the encoders (the original
            code).
        warmup: updates at the start in which the inverses alone learn: targets that come down
            through inverses which do not invert yet mislead the encoders.
        rounds: rounds of iterative target propagation.
        reconstruct: pull towards what h_{l-1} gives in these rounds, in [0, 1]: h then
            reconstructs x as well as y.
        optimizer, input_corruption, samples, eval_samples: see `SupervisedRule`.
        lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every: see `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`; for step <= 0, lists of a wrong length, or options that
            exclude each other.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> _ = torch.manual_seed(0)
        >>> rule = DifferenceTargetPropRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['inverse_g_2', 'label_f_3', 'target_f_1', 'target_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        step: float = 0.1,
        difference: bool = True,
        sigma: PerLayer = 0.36,
        half_life: float | None = None,
        scaled: bool = True,
        schedule: str = "joint",
        warmup: int = 0,
        rounds: int = 1,
        reconstruct: float = 0.0,
        optimizer: str = "adam",
        input_corruption: Corruption | None = None,
        samples: int = 1,
        eval_samples: int = 100,
        lr_f: PerLayer = 1e-3,
        lr_g: PerLayer = 1e-3,
        weight_decay_f: PerLayer = 0.0,
        weight_decay_g: PerLayer = 0.0,
        hold: float = 0.0,
        log_every: int = 50,
    ) -> None:
        super().__init__(
            stack,
            optimizer,
            input_corruption,
            samples,
            eval_samples,
            lr_f,
            lr_g,
            weight_decay_f,
            weight_decay_g,
            hold,
            log_every,
        )

        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.difference = bool(difference)
        self.scaled = bool(scaled)

        self.sigma = sigma
        self.half_life = half_life
        sigmas = checks.per_layer("sigma", sigma, self.stack.depth - 1)
        self.noise = [GaussianNoise(s, half_life=half_life) for s in sigmas]

        self.schedule = checks.one_of("schedule", schedule, SCHEDULES)
        self.warmup = checks.whole("warmup", warmup, 0)
        self.rounds = checks.whole("rounds", rounds, 1)
        self.reconstruct = checks.at_least("reconstruct", reconstruct, 0.0)
        self._check_options()

        self.inverses = True
        self.encoders = True

    def _check_options(self) -> None:
        """Raise a ValueError for options that exclude each other."""
        if self.phases and self.stack.depth == 1:
            raise ValueError(
                f"schedule={self.schedule!r}, warmup={self.warmup}: a network with one hidden "
                "layer has no inverses to train in a phase of their own"
            )
        if self.warmup and self.schedule == "alternate":
            raise ValueError(
                f"warmup={self.warmup} belongs to schedule='joint'; 'alternate' begins with "
                "inverses anyway"
            )
        if self.rounds > 1 and not self.difference:
            raise ValueError(
                f"rounds={self.rounds} need difference=True: several rounds move h by differences "
                "of reconstructions"
            )
        if self.reconstruct > 1.0 or (self.reconstruct > 0 and self.rounds == 1):
            raise ValueError(
                f"reconstruct={self.reconstruct}: a number in [0, 1] is needed, and with it "
                "rounds >= 2; in the first round nothing below has moved"
            )

    def setup(self, stage: str) -> None:
        """Tell several processes not to wait for all gradients: a map has none in some phases."""
        super().setup(stage)
        if self.phases and isinstance(self.trainer.strategy, DDPStrategy):
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    @property
    def phases(self) -> bool:
        """Whether there are updates in which some maps do not learn."""
        return self.schedule == "alternate" or self.warmup > 0

    @property
    def passes(self) -> int:
        """How often an epoch goes over the training data."""
        return 2 if self.schedule == "alternate" else 1

    def phase(self) -> Hashable | None:
        """Which maps learn."""
        return self.encoders, self.inverses

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        if self.schedule == "alternate":
            self.inverses = 2 * batch_idx < self.trainer.num_training_batches
            self.encoders = not self.inverses
        else:
            self.encoders = self.global_step >= self.warmup

        super().training_step(batch, batch_idx)

        self.inverses = True
        self.encoders = True

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Local losses, mean over the batch: squared errors, and label_f_M in nats.

        The batch is (x, y). In a phase of `training_step` only the maps that learn have losses.
        """
        x, y = self.labelled(batch)
        sent, outputs = self._up(x)

        terms: dict[str, Tensor] = {}
        if self.encoders:
            terms |= self._encoder_losses(sent, outputs, y)
        if self.inverses:
            for level in range(2, self.stack.depth + 1):
                one_draw = sent[level - 1][: len(x)]
                terms[f"inverse_g_{level}"] = self.inverse_loss(level, one_draw)

        return terms

    def idle(self) -> list[nn.Module]:
        return self.laws() + [self.stack.pairs[0].g]

    def _up(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What h_0 .. h_L send upwards, and the outputs of f_1 .. f_L.

        Each output depends on its own layer's parameters only.
        """
        sent = [x]
        outputs = []
        with torch.set_grad_enabled(self.encoders):
            for pair in self.stack.pairs:
                output = pair.f(sent[-1])
                if not outputs and self.copies > 1:  # x and f_1(x) are the same for all draws
                    output = output.repeat(self.copies, 1)

                outputs.append(output)
                sent.append(self.stack.send(pair, output.detach(), self.draws))

        return sent, outputs

    def _encoder_losses(
        self, sent: list[Tensor], outputs: list[Tensor], y: Tensor
    ) -> dict[str, Tensor]:
        """target_f_1 .. target_f_L, and label_f_M."""
        d = self._displacements(sent, outputs, y)

        # the M draws of an image share its gradient: their errors are added up
        scale = float(self.copies)
        if self.scaled:
            scale = scale * (1.0 / (2.0 * self.step))

        terms: dict[str, Tensor] = {}
        for level, (output, move) in enumerate(zip(outputs, d, strict=True), 1):
            # output - output is zero: the error is the displacement, to its last digit
            error = output - output.detach() - move
            terms[f"target_f_{level}"] = scale * error.square().sum(-1).mean()

        logits = self.stack.output(sent[-1]).unflatten(0, (self.copies, -1))
        terms[f"label_f_{self.stack.depth + 1}"] = label_loss(logits, y)
        return terms

    def _displacements(self, sent: list[Tensor], outputs: list[Tensor], y: Tensor) -> list[Tensor]:
        """d_1 .. d_L: displacements of the layers' outputs."""
        h = [sent[0], *(output.detach() for output in outputs)]

        if self.rounds > 1:
            x = sent[0].repeat(self.copies, 1)
            return iterated(
                self.stack,
                [x, *h[1:]],
                y,
                self.step,
                self.rounds,
                self.reconstruct,
                self.copies,
                [x, *sent[1:]],
            )

        top = first_displacement(self.stack, sent[-1], y, self.step, self.copies)
        return displacements(self.stack.pairs, h, top, self.difference)

    def inverse_loss(self, level: int, below: Tensor) -> Tensor:
        """Squared error of g_l(f_l(h_{l-1} + e)) as a reconstruction of h_{l-1} + e (Eq. 3.13)."""
        pair = self.stack.pairs[level - 1]
        with torch.no_grad():
            noisy = self.noise[level - 2](below, self.progress, self.generator)
            above = pair.f(noisy)

        return (pair.g(above) - noisy).square().sum(-1).mean()
