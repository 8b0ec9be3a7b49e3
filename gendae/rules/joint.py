"""Target propagation for joint stacks: Algorithm 5 (2014), with several modalities (section 4)."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.clamping import Completer
from gendae.conditionals import Discrete
from gendae.corruption import Corruption, uniform_like
from gendae.joint import JointStack, noise_of_all_but_labels
from gendae.rules import missing
from gendae.rules.core import PerLayer, Rule
from gendae.rules.processes import log_means
from gendae.sampling import AncestralSampler, Sampler, corruption_of_each
from gendae.spec import build, register
from gendae.targets import DISCRIMINANT, displacements, hybrid

REACHES = ("pair", "full")


@register
class JointTargetPropRule(Rule):
    """The top learns to reconstruct codes of modalities that it does not see; its reconstructions teach the stacks below.

    Below the junction, with h~_l = f_l(h~_{l-1}) from a corrupted x, l = 1 .. J:
           pair_l:     h_{l-1} is a target for g_l(corrupt(f_l(h~_{l-1}))), the pair as an auto-encoder
           short_f_l:  h_l is a target for f_l(g_l(corrupt(h_l)))                             (recirculation)
           target_f_l: h^_l is a target for f_l(h~_{l-1})
    Junction, with a random part of the observed modalities hidden from it:
           joint_{J+1}: h_J^(t), observed, is a target for g(corrupt(f(m * corrupt(h~_J), m)))
    Above it, further pairs make the top stack one deep denoising auto-encoder, trained as such (3.2).

    The target of h~_J is what the top makes of it, r(h, m) = g(f(m * h, m)) without noise, with all that is observed (h^)
    and with the outputs y hidden (h-):
           joint        h^                              the score of P(h^x, y) moves h                    (Eq. 16)
           discriminant h + h^ - h-                     the score of P(y | h^x) does                      (Eq. 18)
           hybrid       h^ + (1 - joint_weight) (h - h-)                                                  (Eq. 19)
    Where no output is observed, h^ = h- gives joint_weight h^ + (1 - joint_weight) h; Algorithm 5 takes h^ there, which is
    unlabelled=1. Targets come down by target propagation, with the correction of difference target propagation unless
    `difference` is False (the paper's).

    All inputs and targets are detached: no gradient leaves the pair that it is computed in (reach "pair"). A pair here is
    an auto-encoder trained as one: its decoder's error reaches its encoder, as in section 2.2.4. With reach "full" the
    joint criterion is back-propagated through all encoders instead of being turned into targets: the reference.
    Source: Bengio 2014, Algorithm 5 and sections 3.1, 3.3 and 4.

    Args:
        stack: the model, with a top stack of at least one pair.
        corruption: of h_0 .. h_L; noise of a quarter of each representation's own spread, but for labels, if None.
        hide: probability that an observed modality is hidden from the junction; a number, or one for each modality by
            name. One modality always stays.
        weights: of each modality's reconstruction by the junction, by name; 1 where not named.
        outputs: y, the modalities that others are to predict (all labels if None; none, if there are none).
        joint_weight: 1 models the joint law, 0 the law of the outputs alone.
        unlabelled: the joint weight of examples without outputs; joint_weight if None.
        discriminant: how h- is found: r(h, m) with y "missing" from its input (Eq. 17), or with y "inferred", that is
            replaced by its prediction: the score of P(h) is the mean of those of P(h, y) under P(y | h), so that h^ - h-
            vanishes where y is certain. Or, without reconstructions, by the "gradient" of log P(y | h~_J) within the top
            stack; above a single pair that is back-propagation: the reference.
        target, pair, recirculation: weights of target_f, pair and short_f.
        difference: see above.
        walkback: further rounds of the junction in training, each from the last one's end with what was hidden filled in,
            all with the clean codes as target: chains and ascent then do not run into spurious modes (7.5).
        inferred: weight of outputs that are not observed but inferred (MAP, without noise) from the rest: labels with at
            least `confidence` count as observed ones with this weight (semi-supervised learning by inferring what is
            missing); it grows linearly from 0 over the first `ramp` of training.
        confidence: least probability of an inferred label.
        ramp: fraction of training.
        reach: "pair" or "full".
        completer: how missing parts are inferred from given ones; Completer.annealed() if None.
        sampler: what the trained stack is sampled with; AncestralSampler() if None.
        lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every: see `Rule`.

    Raises:
        ValueError: for a stack without modalities or without a top, unknown names, numbers out of range.

    Example:
        >>> from gendae.models import joint_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> stack = joint_autoencoder({"image": {"sizes": [8, 6]}, "label": {"sizes": [3], "kind": "onehot"}}, top=[5])
        >>> x, observed = stack.join({"image": torch.rand(4, 8), "label": torch.tensor([0, 2, -1, 1])})
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
        if not isinstance(stack, JointStack) or stack.junction is None:
            raise ValueError(
                f"stack={type(stack).__name__}: JointTargetPropRule trains a JointStack of several modalities "
                "under a top stack; accepted for others: TargetPropRule, KLRule, VariationalEMRule"
            )
        if any(
            isinstance(pair.recognition, Discrete)
            for m in stack.modalities.values()
            for pair in m.pairs
        ):
            raise ValueError(
                "the modalities' codes are discrete units, which JointTargetPropRule does not train; accepted: "
                "real ones, or TargetPropRule"
            )
        super().__init__(stack, lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every)
        self.corruption = corruption_of_each(
            stack, noise_of_all_but_labels(stack) if corruption is None else build(corruption)
        )
        self.hide, self.weights, self.outputs = hide, weights, outputs
        self._hide = self._by_name("hide", hide, 1.0)
        self._weights = self._by_name("weights", weights or {}, None)
        self._outputs = [
            stack.index(name) for name in (stack.labels if outputs is None else outputs)
        ]
        self.joint_weight, self.unlabelled = joint_weight, unlabelled
        for name, value in {
            "joint_weight": joint_weight,
            "unlabelled": unlabelled,
            "confidence": confidence,
        }.items():
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}={value}: a number in [0, 1] is needed")
        self.discriminant = checks.one_of("discriminant", discriminant, DISCRIMINANT)
        self.target, self.pair = (
            checks.at_least("target", target, 0.0),
            checks.at_least("pair", pair, 0.0),
        )
        self.recirculation = checks.at_least("recirculation", recirculation, 0.0)
        self.difference, self.walkback = (
            bool(difference),
            int(checks.at_least("walkback", walkback, 0)),
        )
        names = [stack.names[t] for t in self._outputs]
        if set(names) & set(stack.latents) or (
            inferred and (not names or set(names) - set(stack.labels))
        ):
            raise ValueError(
                f"outputs={names}, inferred={inferred}: latents are no outputs, and only labels are inferred"
            )
        self.inferred = checks.at_least("inferred", inferred, 0.0)
        self.confidence = confidence
        self.ramp = checks.at_least("ramp", ramp, 0.0)
        self.reach = checks.one_of("reach", reach, REACHES)
        self.completer: Completer = build(completer) or Completer.annealed()
        self.sampler: Sampler = build(sampler) or AncestralSampler()
        self.stack.settings = {"sampler": self.sampler, "completer": self.completer}

    def _by_name(
        self, argument: str, value: float | Mapping[str, float], most: float | None
    ) -> list[float]:
        """One number for each modality."""
        if not isinstance(value, Mapping):
            value = dict.fromkeys(self.stack.names, value)
        for name, number in value.items():
            self.stack.index(name)
            checks.at_least(f"{argument}[{name!r}]", number, 0.0)
            if most is not None and number > most:
                raise ValueError(
                    f"{argument}[{name!r}]={number}: a number in [0, {most:g}] is needed"
                )
        default = 1.0 if argument == "weights" else 0.0
        return [float(value.get(name, default)) for name in self.stack.names]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = getattr(self.trainer, "datamodule", None)
        there = data.split("train").y if hasattr(data, "modalities") else None
        if there is None or bool(there.all()):
            return
        if self.inferred == 0 and int(there.all(1).sum()) < 2:
            raise ValueError(
                "no two training examples have all modalities: the prior is fitted on codes of those that do"
            )

    def _training_batches(self) -> Iterable[Sequence[Tensor]]:
        """Every distinct example once: copies would be their own neighbours where a Parzen window is chosen."""
        left = getattr(getattr(self.trainer, "datamodule", None), "distinct", None)
        if left is not None:  # of these, this process's share
            left = len(range(self.trainer.global_rank, left, self.trainer.world_size))
        for batch in super()._training_batches():
            if left is None:
                yield batch
            elif left > 0:
                yield [part[:left] for part in batch]
                left -= len(batch[0])

    # -- the loop ----------------------------------------------------------------------------------------

    def _there(self, batch: Sequence[Tensor]) -> Tensor:
        """Which modalities are observed, (batch, N) boolean: all of them, where a batch does not say."""
        found = next((part for part in batch[1:] if part.dtype == torch.bool), None)
        seen = len(self.stack.names) - len(self.stack.latents)
        if found is None:
            found = torch.ones(len(batch[0]), seen, dtype=torch.bool, device=batch[0].device)
        if found.shape != (len(batch[0]), seen):
            raise ValueError(
                f"the mask has shape {tuple(found.shape)}; one column for each modality is needed, "
                f"({len(batch[0])}, {seen})"
            )
        return torch.nn.functional.pad(found, (0, len(self.stack.latents)))

    def inputs(self, batch: Sequence[Tensor]) -> Tensor:
        """x with 0 in the slices of latents, of which data know nothing."""
        unseen = sum(self.stack.modalities[name].width for name in self.stack.latents)
        width = self.stack.sizes[0] - unseen
        if batch[0].ndim != 2 or batch[0].shape[1] != width:
            raise ValueError(
                f"x has shape {tuple(batch[0].shape)}; the modalities ({self.stack.described()}) need rows of "
                f"{width} values, side by side: use Multimodal or Arrays, or JointStack.join"
            )
        return torch.nn.functional.pad(checks.rows("x", batch[0]), (0, unseen))

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weighted terms in nats, mean over the batch; batch[0] is x, and a boolean (batch, N) tells what is observed."""
        x, there = self.inputs(batch), self._there(batch)
        with torch.no_grad():
            h = self.stack.lower(x)
        h, there, certainty, seen = self._fill_in(h, there)
        noisy, outputs = self._climb(h[0])
        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs[: self.stack.level], 1):
            terms |= self.own_penalty(pair, level)
            terms |= self._pair(level, h, outputs[level - 1], there)
        terms |= self._joint(h[-1], noisy[-1], there, seen, certainty)
        if self.reach == "pair" and self.target > 0 and self.stack.level > 0:
            terms |= self._targets(noisy, outputs, there, certainty)
        return terms

    def _climb(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h~_0 .. h~_J, and the outputs f_l(h~_{l-1}) through which gradients reach f_l."""
        noisy, outputs = [self._corrupt(0, x)], []
        for pair in self.stack.pairs[: self.stack.level]:
            outputs.append(pair.f(noisy[-1]))
            sent = outputs[-1] if self.reach == "full" else outputs[-1].detach()
            noisy.append(pair.recognition.transmit(sent))
        return noisy, outputs

    def _pair(
        self, level: int, h: Sequence[Tensor], output: Tensor, there: Tensor
    ) -> dict[str, Tensor]:
        """The pair as a denoising auto-encoder, and its decoder as an input of its encoder."""
        pair, terms = self.stack.pairs[level - 1], {}
        law = pair.observation
        if self.pair > 0:
            mean = pair.g(self._corrupt(level, pair.recognition.transmit(output)))
            terms[f"pair_{level}"] = (
                self.pair * (law.energies(h[level - 1], mean) * there).sum(1).mean()
            )
        if self.recirculation > 0:
            with torch.no_grad():
                again = law.transmit(pair.g(self._corrupt(level, h[level])))
            energies = pair.recognition.energies(h[level], pair.f(again)) * there
            terms[f"short_f_{level}"] = self.recirculation * energies.sum(1).mean()
        return terms

    @torch.no_grad()
    def _fill_in(
        self, h: tuple[Tensor, ...], there: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
        """E-step: h_0 .. h_J and the mask with what is inferred in the place of what is missing, the weights of the terms,
        and what the junction is to see."""
        values, certainty = {}, there.to(h[0].dtype)
        share = (
            1.0 if self.ramp == 0 or self.updates is None else min(1.0, self.progress / self.ramp)
        )
        weight = self.inferred * share
        if weight > 0.0:
            values, new = missing.labels(self.stack, h[-1], there, self._outputs, self.confidence)
            there, certainty = there | new, torch.where(new, weight, certainty)
        seen = missing.hidden(there, self._hide, self.generator)
        if self.stack.latents:
            codes = self.stack.replace(h[-1], self.stack.level, values)
            values |= missing.latents(
                self.stack, codes, there, seen, self._weights, self.generator
            )
            phi = torch.tensor(
                [name in self.stack.latents for name in self.stack.names], device=there.device
            )
            there, certainty = there | phi, torch.where(phi, 1.0, certainty)
            seen = seen | (
                phi & (uniform_like(certainty, self.generator) >= certainty.new_tensor(self._hide))
            )
        if values:  # one-hot rows pass up unchanged: all levels hold the same
            h = tuple(self.stack.replace(layer, level, values) for level, layer in enumerate(h))
        return h, there, certainty, seen

    # -- the junction ------------------------------------------------------------------------------------

    def _joint(
        self, codes: Tensor, noisy: Tensor, there: Tensor, seen: Tensor, certainty: Tensor
    ) -> dict[str, Tensor]:
        """Reconstruction of each observed modality's code from those that are not hidden; again after each walk back."""
        level, law = self.stack.level, self.stack.junction.observation
        h = self._corrupt(level, noisy) if level > 0 else noisy  # x is corrupted already
        energies = 0.0
        for walk in range(1 + self.walkback):
            mean = self._top(h, there if walk else seen)
            energies = energies + law.energies(codes, mean) * certainty / (1 + self.walkback)
            if walk < self.walkback:  # what was hidden is filled in, as a chain would do
                known = codes if level == 0 else noisy
                h = self._corrupt(
                    level,
                    torch.where(
                        self.stack.spread(seen, level), known, law.transmit(mean.detach())
                    ),
                )
        return {
            f"joint_{name}_{level + 1}": weight * energies[:, t].mean()
            for t, (name, weight) in enumerate(zip(self.stack.names, self._weights, strict=True))
            if weight > 0
        }

    def _top(self, h: Tensor, seen: Tensor) -> Tensor:
        """Means of h_J from the top stack as one denoising auto-encoder, with noise on each of its representations."""
        first = self.stack.level
        for level, pair in enumerate(self.stack.pairs[first:], first + 1):
            mean = pair.f(h, seen) if level == first + 1 else pair.f(h)
            h = self._corrupt(level, pair.recognition.transmit(mean))
        for pair in reversed(self.stack.pairs[first + 1 :]):
            h = pair.decode(h)
        return self.stack.junction.g(h)

    # -- targets for the stacks below --------------------------------------------------------------------

    def _targets(
        self, noisy: list[Tensor], outputs: list[Tensor], there: Tensor, certainty: Tensor
    ) -> dict[str, Tensor]:
        """Squared distance of every f_l's output to its target, 1/2 |f_l(h~_{l-1}) - h^_l|^2."""
        h = [layer.detach() for layer in noisy]
        top = self.hybrid(h[-1], there)
        if self.inferred > 0:  # inferred outputs teach by their weight
            sure = torch.where(there, certainty, 1.0).amin(1, keepdim=True).clamp_max(1.0)
            top = torch.lerp(self.hybrid(h[-1], there & (certainty >= 1.0)), top, sure)
        d, terms = displacements(self.stack.pairs[: self.stack.level], h, top, self.difference), {}
        for level, (output, move) in enumerate(zip(outputs, d, strict=True), 1):
            move = move * self.stack.spread(there, level)
            error = (
                output - output.detach() - move
            )  # the first two cancel: the error is the displacement, exactly
            terms[f"target_f_{level}"] = 0.5 * self.target * error.square().sum(-1).mean()
        return terms

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

    # -- prior and validation ------------------------------------------------------------------------------

    def examples(self, batch: Sequence[Tensor]) -> Tensor:
        """x of the examples of which all modalities are observed or inferred: the prior's."""
        own, self.generator = (
            self.generator,
            Generator(self.stack.device).manual_seed(0),
        )  # training's draws stay as they are
        try:
            h, there, *_ = self._fill_in(self.stack.lower(self.inputs(batch)), self._there(batch))
        finally:
            self.generator = own
        return h[0][there.all(1)]

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_prediction("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_prediction("test", batch)

    def _log_prediction(self, split: str, batch: Sequence[Tensor]) -> None:
        """Each modality predicted from all others; SPLIT/error is the mean over outputs (over all, where there are none)."""
        x, there = self.inputs(batch), self._there(batch)
        found, counts = (
            self.stack.prediction_errors(x, there),
            dict(zip(self.stack.names, there.sum(0), strict=True)),
        )
        values = {f"{split}/error_{name}": (value, counts[name]) for name, value in found.items()}
        chosen = [self.stack.names[t] for t in self._outputs] or list(found)
        values[f"{split}/error"] = (
            sum(found[name] for name in chosen) / len(chosen),
            min(counts[name] for name in chosen),
        )
        errors = (self.stack.down(self.stack.lower(x)[-1]) - x).square() * self.stack.spread(there)
        values[f"{split}/reconstruction"] = (errors.sum(-1).mean(), len(x))
        for name, (value, n) in values.items():
            if n > 0 or (
                self._trainer is not None and self.trainer.world_size > 1
            ):  # they wait for each other's values
                log_means(self, {name: value}, int(n))
