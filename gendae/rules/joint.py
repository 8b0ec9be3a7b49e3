"""Target propagation for joint stacks: Algorithm 5 (2014), with several modalities (section 4)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.completion.completer import Completer
from gendae.corruption import Corruption, uniform_like
from gendae.data.loader import Split
from gendae.models.joint import JointStack
from gendae.models.noise import corruption_of_each, noise_of_all_but_labels
from gendae.models.settings import Settings
from gendae.registry import build, built, describe, register
from gendae.rules import missing
from gendae.rules.base import Rule, own_penalty
from gendae.rules.chain import Chain, State
from gendae.rules.differences import around, losses_of, need_codes_of_encoders
from gendae.rules.feedback import Feedback, Partners
from gendae.rules.loops import need_fixed_widths
from gendae.rules.missing import Hiding, Inferring, by_name
from gendae.rules.moment import Moment
from gendae.rules.processes import log_means
from gendae.rules.rates import Rates
from gendae.rules.targets import Hybrid, displacements, missed
from gendae.rules.transposes import LocalDifference
from gendae.sampling.samplers import AncestralSampler

REACHES = ("pair", "full")
#: Length of the displacements inside the top, in squared units of h per nat.
STEP = 0.1


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
@dataclass(frozen=True)
class JointWeights:
    """Weights of the terms of `JointTargetPropRule`.

    Args:
        target: of target_f.
        pair: of pair, in which the decoder's error reaches the encoder.
        short: of short_g, in which it does not; with pair=0 and recirculation=1 the pairs are
            trained as the listing has it.
        recirculation: of short_f.
        long: of long_g.
        modalities: of each modality's reconstruction by the junction, by name; 1 where not named.

    Raises:
        ValueError: for a negative weight; when used, for unknown names.
    """

    target: float = 1.0
    pair: float = 1.0
    short: float = 0.0
    recirculation: float = 0.0
    long: float = 1.0
    modalities: dict[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("target", "pair", "short", "recirculation", "long"):
            checks.at_least(f"weights.{name}", getattr(self, name), 0.0)

    def of_each(self, stack: JointStack) -> list[float]:
        """The weight of each modality."""
        return by_name(stack, "weights.modalities", self.modalities or {}, default=1.0)


@register
class JointTargetPropRule(Rule):
    """The top learns to reconstruct codes of modalities that it does not see.

    Its reconstructions teach the stacks below.

    Below the junction, with h~_l = f_l(h~_{l-1}) from a corrupted x, l = 1 .. J:
           pair_l:     h_{l-1} is a target for g_l(corrupt(f_l(h~_{l-1}))): an auto-encoder
           short_g_l:  h_{l-1} is a target for g_l(corrupt(h_l)), the listing's form of pair_l
           short_f_l:  h_l is a target for f_l(g_l(corrupt(h_l)))            (recirculation)
           target_f_l: h^_l is a target for f_l(h~_{l-1})
           long_g_l:   h_{l-1} is a target for g_l(corrupt(h^_l))
    Junction, with a random part of the observed modalities hidden from it:
           joint_{J+1}: h_J^(t), observed, is a target for g(corrupt(f(m * corrupt(h~_J), m)))
    Above it, further pairs make the top stack one deep denoising auto-encoder (3.2). What its
    output lacks of the codes then travels around the top, see `DifferenceLoop`:
           lack_f_l, lack_g_l: the targets of the top's maps, l = J+1 .. L, but for the last

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
    encoder, as in section 2.2.4, unless short_g takes the place of pair. With reach "full" the
    joint criterion is back-propagated through all encoders instead of being turned into targets,
    of which there are none then, nor long loops: the reference.
    Source: Bengio 2014, Algorithm 5 and sections 3.1, 3.3 and 4.

    Args:
        stack: the model, with a top stack of at least one pair.
        corruption: of h_0 .. h_L; noise of a quarter of each representation's own spread, but for
            labels, if None.
        weights: of the terms; see `JointWeights`.
        hiding: which modalities the junction does not see; see `Hiding`.
        hybrid: the target of h~_J, and the outputs y; see `Hybrid`.
        inferring: labels that take the place of missing ones; see `Inferring`.
        difference: see above.
        reach: "pair" or "full".
        feedback: by which targets travel inside a top of several pairs; `LocalDifference`, at
            every update, if None. A top of one pair is an auto-encoder trained as one.
        rates, log_every: see `Rule`.

    Raises:
        ValueError: for a stack without modalities or without a top, unknown names, numbers out of
            range; for feedback that would not be used, and `Partners`; for pairs of the top whose
            codes are found by optimisation, or have a law that is to be learned.

    Example:
        >>> from gendae.models.architectures import joint_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> modalities = {"image": {"sizes": [8, 6]}, "label": {"sizes": [3], "kind": "onehot"}}
        >>> stack = joint_autoencoder(modalities, top=[5])
        >>> label = torch.tensor([0, 2, -1, 1])
        >>> x, observed = stack.join({"image": torch.rand(4, 8), "label": label})
        >>> sorted(JointTargetPropRule(stack).losses((x, observed)))
        ['joint_image_2', 'joint_label_2', 'long_g_1', 'pair_1', 'target_f_1']
    """

    score = ("val/error", "min")
    handles_missing = True

    DEFAULT_SETTINGS = Settings(sampler=AncestralSampler(), completer=Completer.annealed())

    def __init__(
        self,
        stack: JointStack,
        corruption: Sequence[Corruption] | None = None,
        weights: JointWeights = JointWeights(),
        hiding: Hiding = Hiding(),
        hybrid: Hybrid = Hybrid(),
        inferring: Inferring = Inferring(),
        difference: bool = True,
        reach: str = "pair",
        feedback: Feedback | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        stack = build(stack)
        check_stack(stack)
        super().__init__(stack, rates, log_every)

        if corruption is None:
            corruption = noise_of_all_but_labels(stack)
        self.corruption: list[Corruption] = corruption_of_each(stack, corruption)

        self.weights = built("weights", weights, JointWeights)
        self.weights_of_modalities = self.weights.of_each(stack)

        self.hiding = built("hiding", hiding, Hiding)
        self.hiding.of_each(stack)

        self.hybrid = built("hybrid", hybrid, Hybrid)
        self.outputs = self.hybrid.positions(stack)

        self.inferring = built("inferring", inferring, Inferring)
        self._check_outputs()

        self.difference = bool(difference)
        self.reach = checks.one_of("reach", reach, REACHES)

        self._check_pairs()
        self.feedback = self._feedback(feedback)
        if self.deep_top:
            self.feedback.prepare(self.chain, stack)
            self.rates.check({"feedback": self.learners()})

    @property
    def deep_top(self) -> bool:
        """Whether targets travel inside the top."""
        return self.reach == "pair" and self.stack.depth > self.stack.level + 1

    @property
    def chain(self) -> Chain:
        """The maps of the top."""
        return Chain.of_top(self.stack, unfolded=self.feedback.unfolds)

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        return self.feedback.learners()

    @property
    def has_phases(self) -> bool:
        return self.deep_top and self.feedback.has_phases

    def _feedback(self, given: Feedback | None) -> Feedback:
        """The given feedback, or the default one; a ValueError for any that cannot be used."""
        default = LocalDifference(every=1)
        if given is None:
            return default

        feedback = built("feedback", given, Feedback)
        # the default is what files of rules without a deep top say
        is_default = describe(feedback, foreign=True) == describe(default)
        if not self.deep_top and not is_default:
            raise ValueError(
                f"feedback={type(feedback).__name__} would not be used: targets travel inside "
                "tops of several pairs, with reach='pair'; accepted: None"
            )
        if isinstance(feedback, Partners):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"feedback={type(feedback).__name__}: the maps that join modalities are no "
                "inverses of each other, as one sees the mask and the other gives no means; "
                "accepted: LocalDifference(), Inverses(), Exact()"
            )

        return feedback

    def _check_pairs(self) -> None:
        """Raise a ValueError for pairs that the rule cannot train."""
        accepted = "Gaussian() there, or weights.recirculation > 0"
        for level, pair in enumerate(self.stack.pairs[: self.stack.level], 1):
            if self.weights.recirculation == 0:
                need_fixed_widths(level, pair, True, accepted)

        junction = self.stack.level + 1
        for level, pair in enumerate(self.stack.pairs[self.stack.level :], junction):
            need_codes_of_encoders(level, pair, "a Pair there")
            need_fixed_widths(level, pair, level == junction, "Gaussian() there, or KLRule")

    def _check_outputs(self) -> None:
        """Raise a ValueError if a latent is an output, or if anything but labels is inferred."""
        names = [self.stack.names[t] for t in self.outputs]
        has_latents = not set(names).isdisjoint(self.stack.latents)
        only_labels = set(names) <= set(self.stack.labels)

        if has_latents or (self.inferring.weight and not (names and only_labels)):
            raise ValueError(
                f"hybrid.outputs={names}, inferring.weight={self.inferring.weight}: latents are "
                "no outputs, and only labels are inferred"
            )

    def on_fit_start(self) -> None:
        super().on_fit_start()

        data = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "modalities"):
            return

        there = data.split("train").observed
        if there is None or bool(there.all()):
            return

        if self.inferring.weight == 0 and int(there.all(1).sum()) < 2:
            raise ValueError(
                "no two training examples have all modalities: the prior is fitted on codes of "
                "those that do"
            )

    def training_batches(self) -> Iterable[Sequence[Tensor]]:
        """Every distinct example once.

        Copies would be their own neighbours where the width of a Parzen window is chosen.
        """
        distinct = getattr(getattr(self.trainer, "datamodule", None), "distinct", None)
        if distinct is None:
            yield from super().training_batches()
            return

        # this process's share of the distinct examples, which come first
        left = len(range(self.trainer.global_rank, distinct, self.trainer.world_size))
        for batch in super().training_batches():
            if left > 0:
                yield Split.of(batch)[:left]
                left -= len(batch[0])

    # -- the loop ------------------------------------------------------------------------------

    def _there(self, batch: Sequence[Tensor]) -> Tensor:
        """Which modalities are observed, (batch, N) boolean.

        All but the latents are, where a batch does not say.
        """
        latents = len(self.stack.latents)
        shape = (len(batch[0]), len(self.stack.names) - latents)

        there = Split.of(batch).observed
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

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Weighted terms in nats, mean over the batch.

        The batch tells which modalities are observed; see `Split.of`.
        """
        x = self.inputs(batch)
        there = self._there(batch)
        with torch.no_grad():
            h = self.stack.lower(x)
        filled = self._fill_in(h, there, moment)
        noisy, outputs = self._climb(filled.h[0], moment)

        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs[: self.stack.level], 1):
            terms |= own_penalty(pair, level)
            terms |= self._pair(level, filled, outputs[level - 1], moment)

        terms |= self._joint(filled, noisy[-1], moment)

        wanted = self.weights.target > 0 or self.weights.long > 0
        if self.reach == "pair" and wanted and self.stack.level > 0:
            terms |= self._targets(filled, noisy, outputs, moment)

        return terms

    def _climb(self, x: Tensor, moment: Moment) -> tuple[list[Tensor], list[Tensor]]:
        """h~_0 .. h~_J, and the outputs f_l(h~_{l-1}) through which gradients reach f_l."""
        noisy = [self._corrupt(0, x, moment)]
        outputs = []
        for pair in self.stack.pairs[: self.stack.level]:
            output = pair.f(noisy[-1])
            outputs.append(output)

            sent = output if self.reach == "full" else output.detach()
            noisy.append(pair.recognition.transmit(sent))

        return noisy, outputs

    def _pair(
        self, level: int, filled: Filled, output: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        """The pair as a denoising auto-encoder, and its short loops."""
        pair = self.stack.pairs[level - 1]
        above = filled.h[level]

        terms = {}
        if self.weights.pair > 0:
            code = self._corrupt(level, pair.recognition.transmit(output), moment)
            error = self._decoding_error(level, filled, pair.g(code))
            terms[f"pair_{level}"] = self.weights.pair * error

        if self.weights.short == 0 and self.weights.recirculation == 0:
            return terms

        decoded = pair.g(self._corrupt(level, above, moment))
        if self.weights.short > 0:
            error = self._decoding_error(level, filled, decoded)
            terms[f"short_g_{level}"] = self.weights.short * error

        if self.weights.recirculation > 0:
            again = pair.observation.transmit(decoded.detach())
            energies = pair.recognition.energies(above, pair.f(again)) * filled.there
            terms[f"short_f_{level}"] = self.weights.recirculation * energies.sum(1).mean()

        return terms

    def _decoding_error(self, level: int, filled: Filled, mean: Tensor) -> Tensor:
        """-log P(h_{l-1}) around a mean from g_l, of the modalities that are there.

        A modality without a pair at this level has no decoder that could err.
        """
        law = self.stack.pairs[level - 1].observation
        energies = law.energies(filled.h[level - 1], mean) * filled.there

        modalities = enumerate(self.stack.modalities.values())
        decoded = [t for t, modality in modalities if len(modality.pairs) >= level]
        return energies[:, decoded].sum(1).mean()

    # -- the E-step ----------------------------------------------------------------------------

    @torch.no_grad()
    def _fill_in(self, h: tuple[Tensor, ...], there: Tensor, moment: Moment) -> Filled:
        """E-step: infer labels, hide modalities from the junction, draw latents.

        Inferred labels may be hidden like observed ones. Latents are drawn given what is not
        hidden.
        """
        filled = Filled(h, there, certainty=there.to(h[0].dtype), seen=there)

        weight = self.inferring.weight_at(moment)
        if weight > 0.0:
            filled = self._infer_labels(filled, weight)

        seen = self.hiding(self.stack, filled.there, moment.generator)
        filled = filled._replace(seen=seen)

        if self.stack.latents:
            filled = self._draw_latents(filled, moment)

        return filled

    def _infer_labels(self, filled: Filled, weight: float) -> Filled:
        values, new = missing.labels(
            self.stack, filled.h[-1], filled.there, self.outputs, self.inferring.confidence
        )

        return filled._replace(
            h=self._with_values(filled.h, values),
            there=filled.there | new,
            certainty=torch.where(new, weight, filled.certainty),
        )

    def _draw_latents(self, filled: Filled, moment: Moment) -> Filled:
        stack = self.stack
        values = missing.latents(
            stack,
            filled.h[-1],
            filled.there,
            filled.seen,
            self.weights_of_modalities,
            moment.generator,
        )

        is_latent = [name in stack.latents for name in stack.names]
        latent = torch.tensor(is_latent, device=filled.there.device)
        certainty = torch.where(latent, 1.0, filled.certainty)

        # latents are hidden by chance too
        draw = uniform_like(certainty, moment.generator)
        shown = latent & (draw >= certainty.new_tensor(self.hiding.of_each(stack)))

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

    def _joint(self, filled: Filled, noisy: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Reconstruction of each observed modality's code from the codes that are not hidden.

        It is repeated after each walk back.

        Args:
            filled: the batch after the E-step.
            noisy: h~_J.
            moment: of the update.
        """
        level = self.stack.level
        law = self.stack.junction.observation
        codes = filled.h[-1]

        if level > 0:
            known = noisy
            h = self._corrupt(level, noisy, moment)
        else:  # h~_0 is x, corrupted already
            known = codes
            h = noisy

        rounds = 1 + self.hiding.walkback
        shown = filled.seen
        energies = 0.0
        terms: dict[str, Tensor] = {}
        for walk in range(rounds):
            states = self._around_top(h, shown, moment)
            mean = self.stack.junction.g.heads(states[-1].output)
            errors = law.energies(codes, mean) * filled.certainty / rounds
            energies = energies + errors
            if self.deep_top:
                self._add_lacks(terms, states, errors, moment)
                self._add_feedback(terms, states, rounds, moment)

            if walk < self.hiding.walkback:  # what was hidden is filled in, as a chain would do
                guess = law.transmit(mean.detach())
                visible = self.stack.spread(filled.seen, level)
                h = self._corrupt(level, torch.where(visible, known, guess), moment)
                shown = filled.there

        for t, name in enumerate(self.stack.names):
            weight = self.weights_of_modalities[t]
            if weight > 0:
                terms[f"joint_{name}_{level + 1}"] = weight * energies[:, t].mean()

        return terms

    def _around_top(self, h: Tensor, seen: Tensor, moment: Moment) -> list[State]:
        """What goes through the maps of the top stack as one denoising auto-encoder.

        Each of its representations is corrupted. Graphs end at each map where targets travel;
        elsewhere the last output has the graph of all.
        """
        given = self.stack.junction.f.input(h, seen)
        if self.deep_top:
            return self.chain.run(given, self._corrupt, moment)

        top, output = self.chain.through(given, self._corrupt, moment)
        return [State(top, output, output)]

    def _add_lacks(
        self,
        terms: dict[str, Tensor],
        states: Sequence[State],
        errors: Tensor,
        moment: Moment,
    ) -> None:
        """The terms of the top's maps but the last."""
        weights = errors.new_tensor(self.weights_of_modalities)
        chain = self.chain
        moves = around(chain, states, errors @ weights, self.feedback, STEP, moment)
        losses_of(chain, states, moves, STEP, terms)

    def _add_feedback(
        self, terms: dict[str, Tensor], states: Sequence[State], rounds: int, moment: Moment
    ) -> None:
        """The terms of the feedback inside the top, a mean over the rounds."""
        if not self.feedback.due(moment):
            return

        for name, loss in self.feedback.losses(self.chain, states, moment).items():
            terms[name] = terms.get(name, 0.0) + loss / rounds

    # -- targets for the stacks below ----------------------------------------------------------

    def _targets(
        self, filled: Filled, noisy: list[Tensor], outputs: list[Tensor], moment: Moment
    ) -> dict[str, Tensor]:
        """The terms of the way down: target_f_l and long_g_l.

        That of f_l is the squared distance of its output to its target,
        1/2 |f_l(h~_{l-1}) - h^_l|^2.
        """
        h = [layer.detach() for layer in noisy]
        top = self._top_displacement(h[-1], filled)
        d = displacements(self.stack.pairs[: self.stack.level], h, top, self.difference)

        terms = {}
        for level, (output, move) in enumerate(zip(outputs, d, strict=True), 1):
            move = move * self.stack.spread(filled.there, level)
            if self.weights.target > 0:
                terms[f"target_f_{level}"] = 0.5 * self.weights.target * missed(output, move)

            if self.weights.long > 0:
                code = self._corrupt(level, h[level] + move, moment)
                error = self._decoding_error(level, filled, self.stack.pairs[level - 1].g(code))
                terms[f"long_g_{level}"] = self.weights.long * error

        return terms

    def _top_displacement(self, codes: Tensor, filled: Filled) -> Tensor:
        """h^_J - h_J; inferred outputs teach by their weight."""
        with_inferred = self.hybrid(self.stack, codes, filled.there)
        if self.inferring.weight == 0:
            return with_inferred

        certainty = torch.where(filled.there, filled.certainty, 1.0)
        sure = certainty.amin(1, keepdim=True).clamp_max(1.0)
        observed = filled.there & (filled.certainty >= 1.0)
        without = self.hybrid(self.stack, codes, observed)
        return torch.lerp(without, with_inferred, sure)

    def _corrupt(self, level: int, h: Tensor, moment: Moment) -> Tensor:
        return self.corruption[level](h, moment.progress, moment.generator)

    def fit_residuals(self, x: Tensor) -> None:
        """The codes that the junction sees hold the noise of x too, and none of those between."""
        between = range(1, self.stack.level)
        noise = [None if level in between else c for level, c in enumerate(self.corruption)]

        self.stack.fit_residuals(x, noise, adds_up=True)

    # -- prior and validation ------------------------------------------------------------------

    def examples(self, batch: Sequence[Tensor]) -> Tensor:
        """x of the prior's examples: all their modalities are observed or inferred."""
        h = self.stack.lower(self.inputs(batch))
        now = Moment(generator=Generator(self.stack.device).manual_seed(0))
        filled = self._fill_in(h, self._there(batch), now)

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

        chosen = [self.stack.names[t] for t in self.outputs] or list(errors)
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
