"""Target propagation for joint stacks: Algorithm 5 (2014), with several modalities (section 4)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.completer import Completer
from gendae.corruption import Corruption, uniform_like
from gendae.models.joint import JointStack
from gendae.models.noise import corruption_of_each, noise_of_all_but_labels
from gendae.registry import build, register
from gendae.rules import missing
from gendae.rules.base import PerLayer, Rule
from gendae.rules.processes import log_means
from gendae.rules.targets import DISCRIMINANT, displacements, hybrid
from gendae.sampling.samplers import AncestralSampler, Sampler

REACHES = ("pair", "full")


class Filled(NamedTuple):
    """A batch after the E-step.

    Attributes:
        h: h_0 .. h_J, with inferred values in the place of missing ones.
        there: which modalities are observed or inferred, (batch, N).
        certainty: weights of the modalities' terms, (batch, N).
        seen: which modalities the junction sees, (batch, N).
    """

    h: tuple[Tensor, ...]
    there: Tensor
    certainty: Tensor
    seen: Tensor


@register
class JointTargetPropRule(Rule):
    """The top learns to reconstruct codes of modalities that it does not see.

    Its reconstructions teach the stacks below.

    Below the junction, with h~_l = f_l(h~_{l-1}) from a corrupted x, l = 1 .. J:
           pair_l:     h_{l-1} is a target for g_l(corrupt(f_l(h~_{l-1}))): an auto-encoder
           short_f_l:  h_l is a target for f_l(g_l(corrupt(h_l)))            (recirculation)
           target_f_l: h^_l is a target for f_l(h~_{l-1})
    Junction, with a random part of the observed modalities hidden from it:
           joint_{J+1}: h_J^(t), observed, is a target for g(corrupt(f(m * corrupt(h~_J), m)))
    Above it, further pairs make the top stack one deep denoising auto-encoder (3.2).

    The target of h~_J comes from the top's reconstruction r(h, m) = g(f(m * h, m)), without noise.
    h^ is the reconstruction from all that is observed, h- the one with the outputs y hidden:
           joint        h^                   the score of P(h^x, y) moves h         (Eq. 16)
           discriminant h + h^ - h-          the score of P(y | h^x) moves h        (Eq. 18)
           hybrid       h^ + (1 - joint_weight) (h - h-)                            (Eq. 19)
    Where no output is observed, h^ = h- gives joint_weight h^ + (1 - joint_weight) h; Algorithm 5
    takes h^ there, which is unlabelled=1. Targets come down by target propagation, with the
    correction of difference target propagation unless `difference` is False (the paper's).

    All inputs and targets are detached: no gradient leaves the pair that it is computed in (reach
    "pair"). A pair here is an auto-encoder trained as one: its decoder's error reaches its
    encoder, as in section 2.2.4. With reach "full" the joint criterion is back-propagated through
    all encoders instead of being turned into targets: the reference.
    Source: Bengio 2014, Algorithm 5 and sections 3.1, 3.3 and 4.

    Args:
        stack: the model, with a top stack of at least one pair.
        corruption: of h_0 .. h_L; noise of a quarter of each representation's own spread, but for
            labels, if None.
        hide: probability that an observed modality is hidden from the junction; a number, or one
            for each modality by name. One modality always stays.
        weights: of each modality's reconstruction by the junction, by name; 1 where not named.
        outputs: y, the modalities that others are to predict (all labels if None; none, if there
            are none).
        joint_weight: 1 models the joint law, 0 the law of the outputs alone.
        unlabelled: the joint weight of examples without outputs; joint_weight if None.
        discriminant: how h- is computed.
            "missing": r(h, m) with y missing from its input (Eq. 17).
            "inferred": y is replaced by its prediction. The score of P(h) is the mean of the
            scores of P(h, y) under P(y | h), so that h^ - h- vanishes where y is certain.
            "gradient": without reconstructions, by the gradient of log P(y | h~_J) within the top
            stack. Above a single pair that is back-propagation: the reference.
        target, pair, recirculation: weights of target_f, pair and short_f.
        difference: see above.
        walkback: further rounds of the junction in training. Each starts at the last one's end,
            with the hidden parts filled in; all have the clean codes as target. Chains and ascent
            then do not run into spurious modes (7.5).
        inferred: weight of outputs that are inferred from the rest (MAP, without noise) where they
            are not observed: labels with at least `confidence` count as observed ones with this
            weight (semi-supervised learning by inferring what is missing); it grows linearly from
            0 over the first `ramp` of training.
        confidence: least probability of an inferred label.
        ramp: fraction of training.
        reach: "pair" or "full".
        completer: how missing parts are inferred from given ones; Completer.annealed() if None.
        sampler: what the trained stack is sampled with; AncestralSampler() if None.
        lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every: see `Rule`.

    Raises:
        ValueError: for a stack without modalities or without a top, unknown names, numbers out of
            range.

    Example:
        >>> from gendae.models.architectures import joint_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> modalities = {"image": {"sizes": [8, 6]}, "label": {"sizes": [3], "kind": "onehot"}}
        >>> stack = joint_autoencoder(modalities, top=[5])
        >>> label = torch.tensor([0, 2, -1, 1])
        >>> x, observed = stack.join({"image": torch.rand(4, 8), "label": label})
        >>> sorted(JointTargetPropRule(stack).losses((x, observed)))
        ['joint_image_2', 'joint_label_2', 'pair_1', 'target_f_1']
    """

    score = ("val/error", "min")
    handles_missing = True

    def __init__(
        self,
        stack: JointStack,
        corruption: Sequence[Corruption] | None = None,
        hide: float | dict[str, float] = 0.5,
        weights: dict[str, float] | None = None,
        outputs: list[str] | None = None,
        joint_weight: float = 1.0,
        unlabelled: float | None = None,
        discriminant: str = "inferred",
        target: float = 1.0,
        pair: float = 1.0,
        recirculation: float = 0.0,
        difference: bool = True,
        walkback: int = 0,
        inferred: float = 0.0,
        confidence: float = 0.9,
        ramp: float = 0.3,
        reach: str = "pair",
        completer: Completer | None = None,
        sampler: Sampler | None = None,
        lr_f: PerLayer = 1e-3,
        lr_g: PerLayer = 1e-3,
        weight_decay_f: PerLayer = 0.0,
        weight_decay_g: PerLayer = 0.0,
        hold: float = 0.0,
        log_every: int = 50,
    ) -> None:
        stack = build(stack)
        check_stack(stack)
        super().__init__(stack, lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every)

        if corruption is None:
            corruption = noise_of_all_but_labels(stack)
        self.corruption = corruption_of_each(stack, build(corruption))

        self.hide = hide
        self.weights = weights
        self.outputs = outputs
        wanted = stack.labels if outputs is None else outputs
        self._hide = self._by_name("hide", hide, default=0.0, most=1.0)
        self._weights = self._by_name("weights", weights or {}, default=1.0)
        self._outputs = [stack.index(name) for name in wanted]

        self.joint_weight = fraction("joint_weight", joint_weight)
        self.unlabelled = fraction("unlabelled", unlabelled)
        self.confidence = fraction("confidence", confidence)
        self.discriminant = checks.one_of("discriminant", discriminant, DISCRIMINANT)

        self.target = checks.at_least("target", target, 0.0)
        self.pair = checks.at_least("pair", pair, 0.0)
        self.recirculation = checks.at_least("recirculation", recirculation, 0.0)
        self.difference = bool(difference)
        self.walkback = checks.whole("walkback", walkback, 0)

        self._check_outputs(inferred)
        self.inferred = checks.at_least("inferred", inferred, 0.0)
        self.ramp = checks.at_least("ramp", ramp, 0.0)
        self.reach = checks.one_of("reach", reach, REACHES)

        self.completer: Completer = build(completer) or Completer.annealed()
        self.sampler: Sampler = build(sampler) or AncestralSampler()
        self.stack.settings = {"sampler": self.sampler, "completer": self.completer}

    def _by_name(
        self,
        argument: str,
        value: float | Mapping[str, float],
        default: float,
        most: float = math.inf,
    ) -> list[float]:
        """One number for each modality; the default for those that a mapping does not name."""
        if not isinstance(value, Mapping):
            value = dict.fromkeys(self.stack.names, value)

        for name, number in value.items():
            self.stack.index(name)
            checks.at_least(f"{argument}[{name!r}]", number, 0.0)
            if number > most:
                raise ValueError(
                    f"{argument}[{name!r}]={number}: a number in [0, {most:g}] is needed"
                )

        return [float(value.get(name, default)) for name in self.stack.names]

    def _check_outputs(self, inferred: float) -> None:
        """Raise a ValueError if a latent is an output, or if anything but labels is inferred."""
        names = [self.stack.names[t] for t in self._outputs]
        has_latents = not set(names).isdisjoint(self.stack.latents)
        only_labels = set(names) <= set(self.stack.labels)

        if has_latents or (inferred and not (names and only_labels)):
            raise ValueError(
                f"outputs={names}, inferred={inferred}: latents are no outputs, and only labels "
                "are inferred"
            )

    def on_fit_start(self) -> None:
        super().on_fit_start()

        data = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "modalities"):
            return

        there = data.split("train").y
        if there is None or bool(there.all()):
            return

        if self.inferred == 0 and int(there.all(1).sum()) < 2:
            raise ValueError(
                "no two training examples have all modalities: the prior is fitted on codes of "
                "those that do"
            )

    def _training_batches(self) -> Iterable[Sequence[Tensor]]:
        """Every distinct example once.

        Copies would be their own neighbours where the width of a Parzen window is chosen.
        """
        distinct = getattr(getattr(self.trainer, "datamodule", None), "distinct", None)
        if distinct is None:
            yield from super()._training_batches()
            return

        # this process's share of the distinct examples, which come first
        left = len(range(self.trainer.global_rank, distinct, self.trainer.world_size))
        for batch in super()._training_batches():
            if left > 0:
                yield [part[:left] for part in batch]
                left -= len(batch[0])

    # -- the loop ------------------------------------------------------------------------------

    def _there(self, batch: Sequence[Tensor]) -> Tensor:
        """Which modalities are observed, (batch, N) boolean.

        All but the latents are, where a batch does not say.
        """
        latents = len(self.stack.latents)
        shape = (len(batch[0]), len(self.stack.names) - latents)

        there = next((part for part in batch[1:] if part.dtype == torch.bool), None)
        if there is None:
            there = torch.ones(*shape, dtype=torch.bool, device=batch[0].device)
        if there.shape != shape:
            raise ValueError(
                f"the mask has shape {tuple(there.shape)}; one column for each modality is "
                f"needed, {shape}"
            )

        return torch.nn.functional.pad(there, (0, latents))

    def inputs(self, batch: Sequence[Tensor]) -> Tensor:
        """x with 0 in the slices of latents, of which data know nothing."""
        unseen = sum(self.stack.modalities[name].width for name in self.stack.latents)
        width = self.stack.sizes[0] - unseen
        if batch[0].ndim != 2 or batch[0].shape[1] != width:
            raise ValueError(
                f"x has shape {tuple(batch[0].shape)}; the modalities ({self.stack.described()}) "
                f"need rows of {width} values, side by side: use Multimodal or Arrays, or "
                "JointStack.join"
            )

        return torch.nn.functional.pad(checks.rows("x", batch[0]), (0, unseen))

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weighted terms in nats, mean over the batch.

        batch[0] is x, and a boolean part (batch, N) tells which modalities are observed.
        """
        x = self.inputs(batch)
        there = self._there(batch)
        with torch.no_grad():
            h = self.stack.lower(x)
        filled = self._fill_in(h, there)
        noisy, outputs = self._climb(filled.h[0])

        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs[: self.stack.level], 1):
            terms |= self.own_penalty(pair, level)
            terms |= self._pair(level, filled, outputs[level - 1])

        terms |= self._joint(filled, noisy[-1])

        if self.reach == "pair" and self.target > 0 and self.stack.level > 0:
            terms |= self._targets(filled, noisy, outputs)

        return terms

    def _climb(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h~_0 .. h~_J, and the outputs f_l(h~_{l-1}) through which gradients reach f_l."""
        noisy = [self._corrupt(0, x)]
        outputs = []
        for pair in self.stack.pairs[: self.stack.level]:
            output = pair.f(noisy[-1])
            outputs.append(output)

            sent = output if self.reach == "full" else output.detach()
            noisy.append(pair.recognition.transmit(sent))

        return noisy, outputs

    def _pair(self, level: int, filled: Filled, output: Tensor) -> dict[str, Tensor]:
        """The pair as a denoising auto-encoder, and its decoder as an input of its encoder."""
        pair = self.stack.pairs[level - 1]
        law = pair.observation
        below = filled.h[level - 1]
        above = filled.h[level]

        terms = {}
        if self.pair > 0:
            mean = pair.g(self._corrupt(level, pair.recognition.transmit(output)))
            energies = law.energies(below, mean) * filled.there
            terms[f"pair_{level}"] = self.pair * energies.sum(1).mean()

        if self.recirculation > 0:
            with torch.no_grad():
                again = law.transmit(pair.g(self._corrupt(level, above)))
            energies = pair.recognition.energies(above, pair.f(again)) * filled.there
            terms[f"short_f_{level}"] = self.recirculation * energies.sum(1).mean()

        return terms

    # -- the E-step ----------------------------------------------------------------------------

    @torch.no_grad()
    def _fill_in(self, h: tuple[Tensor, ...], there: Tensor) -> Filled:
        """E-step: infer labels, hide modalities from the junction, draw latents.

        Inferred labels may be hidden like observed ones. Latents are drawn given what is not
        hidden.
        """
        filled = Filled(h, there, certainty=there.to(h[0].dtype), seen=there)

        weight = self._weight_of_inferred()
        if weight > 0.0:
            filled = self._infer_labels(filled, weight)

        seen = missing.hidden(filled.there, self._hide, self.generator)
        filled = filled._replace(seen=seen)

        if self.stack.latents:
            filled = self._draw_latents(filled)

        return filled

    def _weight_of_inferred(self) -> float:
        """Weight of inferred labels now: it grows over the ramp, and is full outside a Trainer."""
        share = 1.0
        if self.ramp > 0 and self.updates is not None:
            share = min(1.0, self.progress / self.ramp)

        return self.inferred * share

    def _infer_labels(self, filled: Filled, weight: float) -> Filled:
        values, new = missing.labels(
            self.stack, filled.h[-1], filled.there, self._outputs, self.confidence
        )

        return filled._replace(
            h=self._with_values(filled.h, values),
            there=filled.there | new,
            certainty=torch.where(new, weight, filled.certainty),
        )

    def _draw_latents(self, filled: Filled) -> Filled:
        stack = self.stack
        values = missing.latents(
            stack, filled.h[-1], filled.there, filled.seen, self._weights, self.generator
        )

        is_latent = [name in stack.latents for name in stack.names]
        latent = torch.tensor(is_latent, device=filled.there.device)
        certainty = torch.where(latent, 1.0, filled.certainty)

        # latents are hidden by chance too
        draw = uniform_like(certainty, self.generator)
        shown = latent & (draw >= certainty.new_tensor(self._hide))

        return Filled(
            h=self._with_values(filled.h, values),
            there=filled.there | latent,
            certainty=certainty,
            seen=filled.seen | shown,
        )

    def _with_values(
        self, h: tuple[Tensor, ...], values: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """h_0 .. h_J with other values of some one-hot modalities.

        One-hot rows pass up unchanged: all levels hold the same.
        """
        return tuple(self.stack.replace(layer, level, values) for level, layer in enumerate(h))

    # -- the junction --------------------------------------------------------------------------

    def _joint(self, filled: Filled, noisy: Tensor) -> dict[str, Tensor]:
        """Reconstruction of each observed modality's code from the codes that are not hidden.

        It is repeated after each walk back.

        Args:
            filled: the batch after the E-step.
            noisy: h~_J.
        """
        level = self.stack.level
        law = self.stack.junction.observation
        codes = filled.h[-1]

        if level > 0:
            known = noisy
            h = self._corrupt(level, noisy)
        else:  # h~_0 is x, corrupted already
            known = codes
            h = noisy

        rounds = 1 + self.walkback
        shown = filled.seen
        energies = 0.0
        for walk in range(rounds):
            mean = self._top(h, shown)
            energies = energies + law.energies(codes, mean) * filled.certainty / rounds

            if walk < self.walkback:  # what was hidden is filled in, as a chain would do
                guess = law.transmit(mean.detach())
                visible = self.stack.spread(filled.seen, level)
                h = self._corrupt(level, torch.where(visible, known, guess))
                shown = filled.there

        terms = {}
        for t, name in enumerate(self.stack.names):
            if self._weights[t] > 0:
                terms[f"joint_{name}_{level + 1}"] = self._weights[t] * energies[:, t].mean()

        return terms

    def _top(self, h: Tensor, seen: Tensor) -> Tensor:
        """Means of h_J from the top stack as one denoising auto-encoder.

        Each of its representations is corrupted.
        """
        first = self.stack.level + 1
        for level, pair in enumerate(self.stack.pairs[first - 1 :], first):
            mean = pair.f(h, seen) if level == first else pair.f(h)
            h = self._corrupt(level, pair.recognition.transmit(mean))

        code = self.stack.down(h, stop=first)[0]
        return self.stack.junction.g(code)

    # -- targets for the stacks below ----------------------------------------------------------

    def _targets(
        self, filled: Filled, noisy: list[Tensor], outputs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Squared distance of every f_l's output to its target, 1/2 |f_l(h~_{l-1}) - h^_l|^2."""
        h = [layer.detach() for layer in noisy]
        top = self._top_displacement(h[-1], filled)
        d = displacements(self.stack.pairs[: self.stack.level], h, top, self.difference)

        terms = {}
        for level, (output, move) in enumerate(zip(outputs, d, strict=True), 1):
            move = move * self.stack.spread(filled.there, level)
            # output - output is zero: the error is the displacement, to its last digit
            error = output - output.detach() - move
            terms[f"target_f_{level}"] = 0.5 * self.target * error.square().sum(-1).mean()

        return terms

    def _top_displacement(self, codes: Tensor, filled: Filled) -> Tensor:
        """h^_J - h_J; inferred outputs teach by their weight."""
        with_inferred = self.hybrid(codes, filled.there)
        if self.inferred == 0:
            return with_inferred

        certainty = torch.where(filled.there, filled.certainty, 1.0)
        sure = certainty.amin(1, keepdim=True).clamp_max(1.0)
        without = self.hybrid(codes, filled.there & (filled.certainty >= 1.0))
        return torch.lerp(without, with_inferred, sure)

    def hybrid(self, codes: Tensor, there: Tensor) -> Tensor:
        """h^_J - h_J, (batch, width); see `targets.hybrid`."""
        return hybrid(
            self.stack,
            codes,
            there,
            self._outputs,
            self.joint_weight,
            self.unlabelled,
            self.discriminant,
        )

    def _corrupt(self, level: int, h: Tensor) -> Tensor:
        return self.corruption[level](h, self.progress, self.generator)

    # -- prior and validation ------------------------------------------------------------------

    def examples(self, batch: Sequence[Tensor]) -> Tensor:
        """x of the prior's examples: all their modalities are observed or inferred."""
        training = self.generator
        self.generator = Generator(self.stack.device).manual_seed(0)
        try:
            filled = self._fill_in(self.stack.lower(self.inputs(batch)), self._there(batch))
        finally:
            self.generator = training  # its draws stay as they are

        return filled.h[0][filled.there.all(1)]

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_prediction("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_prediction("test", batch)

    def _log_prediction(self, split: str, batch: Sequence[Tensor]) -> None:
        """Errors of each modality, predicted from all others.

        SPLIT/error is the mean over outputs, or over all modalities where there are no outputs.
        """
        x = self.inputs(batch)
        there = self._there(batch)
        errors = self.stack.prediction_errors(x, there)
        counts = dict(zip(self.stack.names, there.sum(0), strict=True))

        values = {f"{split}/error_{name}": (error, counts[name]) for name, error in errors.items()}

        chosen = [self.stack.names[t] for t in self._outputs] or list(errors)
        mean = sum(errors[name] for name in chosen) / len(chosen)
        values[f"{split}/error"] = (mean, min(counts[name] for name in chosen))

        difference = self.stack.x_of(self.stack.lower(x)[-1]) - x
        squares = difference.square() * self.stack.spread(there)
        values[f"{split}/reconstruction"] = (squares.sum(-1).mean(), len(x))

        # several processes wait for each other's values
        several = self._trainer is not None and self.trainer.world_size > 1
        for name, (value, n) in values.items():
            if n > 0 or several:
                log_means(self, {name: value}, int(n))


def check_stack(stack: object) -> None:
    """Raise a ValueError unless this is a joint stack with a top, whose codes are real numbers."""
    if not isinstance(stack, JointStack) or stack.junction is None:
        raise ValueError(
            f"stack={type(stack).__name__}: JointTargetPropRule trains a JointStack of several "
            "modalities under a top stack; accepted for others: TargetPropRule, KLRule, "
            "VariationalEMRule"
        )

    pairs = []
    for modality in stack.modalities.values():
        pairs += modality.pairs
    if any(pair.recognition.hard for pair in pairs):
        raise ValueError(
            "the modalities' codes are discrete units, which JointTargetPropRule does not train; "
            "accepted: real ones, or TargetPropRule"
        )


def fraction(name: str, value: float | None) -> float | None:
    """`value` if it is None or a number in [0, 1], else a ValueError."""
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value}: a number in [0, 1] is needed")

    return value
