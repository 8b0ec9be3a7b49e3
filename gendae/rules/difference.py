"""Difference target propagation for feed-forward classifiers."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, GaussianNoise
from gendae.layers.wrapped import change
from gendae.models.classifier import Classifier, label_loss
from gendae.registry import built, register
from gendae.rules.chain import Chain, is_fixed
from gendae.rules.inverses import inverse_of
from gendae.rules.moment import Moment
from gendae.rules.rates import PerLayer, Rates
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targets import (
    displacements,
    first_displacement,
    iterated,
    missed,
    output_displacement,
    squared_error,
)

SCHEDULES = ("joint", "alternate")


@register
@dataclass(frozen=True)
class InverseLearning:
    """How the inverses g_2 .. g_L learn, and whether the output layer has one.

    Args:
        sigma: standard deviation of e; a number, or one for each of the inverses.
        half_life: fraction of training after which sigma has halved, sigma / (1 + t / half_life);
            None: constant.
        schedule: "joint" updates inverses and encoders in every batch; "alternate" goes over the
            data twice in an epoch, first for the inverses, then for the encoders (the original
            code).
        warmup: updates at the start in which the inverses alone learn: targets that come down
            through inverses which do not invert yet mislead the encoders.
        output: give the output layer an inverse g_M, which the rule owns: the first target is then
            that of h_M itself, as Eq. 3.7 has it, and comes down to h_L like the others. The
            thesis takes it at h_L by the exact gradient instead, as g_M has fewer units to begin
            with than to end in, and leaves the other to be tried.

    Raises:
        ValueError: for numbers out of range, an unknown schedule, or a warm-up of "alternate".
    """

    sigma: PerLayer = 0.36
    half_life: float | None = None
    schedule: str = "joint"
    warmup: int = 0
    output: bool = False

    def __post_init__(self) -> None:
        if self.half_life is not None:
            checks.at_least("inverses.half_life", self.half_life, 0.0, strict=True)
        checks.one_of("inverses.schedule", self.schedule, SCHEDULES)
        checks.whole("inverses.warmup", self.warmup, 0)
        if self.warmup and self.schedule == "alternate":
            raise ValueError(
                f"inverses.warmup={self.warmup} belongs to schedule='joint'; 'alternate' begins "
                "with inverses anyway"
            )

    @property
    def has_phases(self) -> bool:
        """Whether there are updates in which some maps do not learn."""
        return self.schedule == "alternate" or self.warmup > 0

    def noise(self, depth: int) -> list[GaussianNoise]:
        """e of the inverses, g_2 .. g_L or g_M, for a network of L = `depth` hidden layers."""
        count = depth if self.output else depth - 1
        if self.has_phases and count == 0:
            raise ValueError(
                f"inverses.schedule={self.schedule!r}, inverses.warmup={self.warmup}: a network "
                "with one hidden layer has no inverses to train in a phase of their own"
            )

        sigmas = checks.per_layer("inverses.sigma", self.sigma, count)
        return [GaussianNoise(sigma, half_life=self.half_life) for sigma in sigmas]


@register
@dataclass(frozen=True)
class Iterations:
    """Iterative target propagation (Bengio 2014, slides).

    Args:
        rounds: of moving h and passing targets down again.
        reconstruct: pull towards what h_{l-1} gives in these rounds, in [0, 1]: h then
            reconstructs x as well as y.

    Raises:
        ValueError: for fewer than one round, or a pull that has no second round to act in.
    """

    rounds: int = 1
    reconstruct: float = 0.0

    def __post_init__(self) -> None:
        checks.whole("iterations.rounds", self.rounds, 1, checks.REPEATS)
        checks.at_least("iterations.reconstruct", self.reconstruct, 0.0)
        if self.reconstruct > 1.0 or (self.reconstruct > 0 and self.rounds == 1):
            raise ValueError(
                f"iterations.reconstruct={self.reconstruct}: a number in [0, 1] is needed, and "
                "with it rounds >= 2; in the first round nothing below has moved"
            )


@register
class DifferenceTargetPropRule(SupervisedRule):
    """Every hidden layer learns to reach a target that comes down through learned inverses.

    h^_L = h_L - step dL/dh_L                    first target, from the global loss L; or
    h^_M = h_M - step dL/dh_M                    with an inverse g_M of its own         (Eq. 3.7)
    h^_{l-1} = h_{l-1} + g_l(h^_l) - g_l(h_l)    l = L .. 2, or M .. 2              (Eq. 3.15)
    target_f_l:  |f_l(h_{l-1}) - h^_l|^2         l = 1 .. L; label_f_M is L itself  (Algorithm 1)
    inverse_g_l: |g_l(f_l(h_{l-1} + e)) - (h_{l-1} + e)|^2,
                 e ~ N(0, sigma^2)               l = 2 .. L, or 2 .. M              (Eq. 3.13)

    All inputs and targets are detached: no gradient leaves the layer that it is computed in. h_M
    are the logits, or the values. Stochastic units have targets for their probabilities
    (Eq. 3.30). The layers above see the draws, and inverses reconstruct the draws.
    Source: Lee 2018, Algorithm 1 and sections 3.3.1 to 3.3.3; Bengio 2014 (slides) for several
    rounds.

    Args:
        stack: the classifier.
        step: eta^ of the first target, on the loss of one example, in squared units of h per nat.
            (The original code multiplies the gradient of the mean over 100 examples: its 0.33 is
            0.0033 here.)
        difference: with the correction; False is plain target propagation, h^_{l-1} = g_l(h^_l)
            (Eq. 3.9).
        scaled: divide the targets' losses by 2 step. Their gradients then have the scale of
            back-propagation's, and do not depend on step while it is small; Eq. 3.4 as printed,
            and the original code, do not.
        inverses: how g_2 .. g_L learn, and whether there is a g_M, whose rate is `rates.feedback`;
            see `InverseLearning`.
        iterations: rounds of iterative target propagation; see `Iterations`.
        input_corruption, samples, rates, log_every: see `SupervisedRule`.

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
        scaled: bool = True,
        inverses: InverseLearning = InverseLearning(),
        iterations: Iterations = Iterations(),
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, samples, rates, log_every)

        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.difference = bool(difference)
        self.scaled = bool(scaled)

        self.inverses = built("inverses", inverses, InverseLearning)
        if self.inverses.output:
            self.need_one_answer()
            chain = Chain.of_classifier(self.stack)
            self.of_output = inverse_of(chain.links[-1]).to(self.stack.device, self.stack.dtype)
            self.rates.check({"feedback": self.learners()})
        self.noise_of_inverses = self.inverses.noise(self.stack.depth)

        # g_l of the first f_l that learns, and those below, lead to no target
        learn = (level for level, pair in enumerate(self.stack.pairs, 1) if not is_fixed(pair.f))
        self.lowest = next(learn, self.stack.depth)

        self.iterations = built("iterations", iterations, Iterations)
        if self.iterations.rounds > 1 and not self.difference:
            raise ValueError(
                f"iterations.rounds={self.iterations.rounds} need difference=True: several rounds "
                "move h by differences of reconstructions"
            )

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        """g_M, where there is one: the stack of a classifier has none."""
        return [[self.of_output]] if self.inverses.output else []

    @property
    def has_phases(self) -> bool:
        return self.inverses.has_phases

    @property
    def passes(self) -> int:
        """How often an epoch goes over the training data."""
        return 2 if self.inverses.schedule == "alternate" else 1

    def learning(self, update: int, batch_idx: int) -> tuple[str, ...]:
        """Inverses "g" first, then encoders "f", in each epoch ("alternate") or at the start."""
        if self.inverses.schedule == "alternate":
            first_half = 2 * batch_idx < self.trainer.num_training_batches
            return ("g",) if first_half else ("f",)

        return ("f", "g") if update >= self.inverses.warmup else ("g",)

    def phase(self, moment: Moment) -> Hashable | None:
        """Which maps learn."""
        return moment.learn

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Local losses, mean over the batch: squared errors, and label_f_M in nats.

        Only the maps that learn at this moment have losses.
        """
        sent, outputs = self._up(x, moment)

        terms: dict[str, Tensor] = {}
        if "f" in moment.learn:
            terms |= self._encoder_losses(sent, outputs, y)
        if "g" in moment.learn:
            for level in range(self.lowest + 1, len(self.noise_of_inverses) + 2):
                one_draw = sent[level - 1][: len(x)]
                terms[f"inverse_g_{level}"] = self.inverse_loss(level, one_draw, moment)

        return terms

    def targets(
        self, x: Tensor, y: Tensor, moment: Moment = Moment()
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs of f_1 .. f_L, and the displacements d_l = h^_l - h_l that they are to make.

        Args:
            x: (batch, width of x).
            y: class indices, (batch,).
            moment: source of the draws of stochastic units.
        """
        sent, outputs = self._up(x, moment)
        d = self._displacements(sent, outputs, y)

        return [output.detach() for output in outputs], [move.detach() for move in d]

    def idle(self) -> list[nn.Module]:
        return [*self.laws(), *(pair.g for pair in self.stack.pairs[: self.lowest])]

    def _up(self, x: Tensor, moment: Moment) -> tuple[list[Tensor], list[Tensor]]:
        """What h_0 .. h_L send upwards, and the outputs of f_1 .. f_L.

        Each output depends on its own layer's parameters only.
        """
        sent = [x]
        outputs = []
        with torch.set_grad_enabled("f" in moment.learn):
            for pair in self.stack.pairs:
                output = pair.f(sent[-1])
                if not outputs and self.copies > 1:  # x and f_1(x) are the same for all draws
                    output = output.repeat(self.copies, 1)

                outputs.append(output)
                sent.append(self.stack.send(pair, output.detach(), moment.draws))

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
            terms[f"target_f_{level}"] = scale * missed(output, move)

        logits = self.stack.output(sent[-1]).unflatten(0, (self.copies, -1))
        terms[f"label_f_{self.stack.depth + 1}"] = label_loss(logits, y)
        return terms

    def _displacements(self, sent: list[Tensor], outputs: list[Tensor], y: Tensor) -> list[Tensor]:
        """d_1 .. d_L: displacements of the layers' outputs."""
        h = [sent[0], *(output.detach() for output in outputs)]

        first = partial(self._first, y=y, mean=h[-1])
        if self.iterations.rounds > 1:
            x = sent[0].repeat(self.copies, 1)
            return iterated(
                self.stack,
                [x, *h[1:]],
                y,
                self.step,
                self.iterations.rounds,
                self.iterations.reconstruct,
                self.copies,
                [x, *sent[1:]],
                first,
            )

        return displacements(self.stack.pairs, h, first(sent[-1]), self.difference)

    @torch.no_grad()
    def _first(self, sent: Tensor, y: Tensor, mean: Tensor) -> Tensor:
        """d_L, from what h_L sends; its mean is what a target without correction replaces."""
        if not self.inverses.output:
            return first_displacement(self.stack, sent, y, self.step, self.copies)

        output, d = output_displacement(self.stack, sent, y, self.step, self.copies)
        if self.difference:
            return change(self.of_output, output, d)

        return self.of_output(output + d) - mean

    def inverse_loss(self, level: int, below: Tensor, moment: Moment = Moment()) -> Tensor:
        """Squared error of g_l(f_l(h_{l-1} + e)) as a reconstruction of h_{l-1} + e (Eq. 3.13)."""
        if level <= self.stack.depth:
            pair = self.stack.pairs[level - 1]
            f, g = pair.f, pair.g
        else:
            f, g = self.stack.output, self.of_output

        with torch.no_grad():
            noise = self.noise_of_inverses[level - 2]
            noisy = noise(below, moment.progress, moment.generator)
            above = f(noisy)

        return squared_error(g(above), noisy)
