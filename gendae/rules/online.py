"""Learning in continuous operation: synapses change at every tick, by what is there at that tick.

Two principles drive them (2014, section 8):

    prediction      match the future    dW^f_l ~ p^r_l bar(x_{l-1})' - bar(p^f_l x_{l-1}')
    reconstruction  match the past      dW^r_l ~ (bar(p^f_{l-1}) - p^r_{l-1}) x_l'

where bar(z) <- (1 - 1/tau) bar(z) + z / tau is a moving average of what was. Updates are linear
in these averages, so that those of several tau are added, and nothing of the past is stored: a
synapse holds one number for each tau.
"""

from collections.abc import Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.data.loader import Split
from gendae.layers.affine import Affine
from gendae.models.delay import Activity, DelayNetwork
from gendae.models.stack import Stack
from gendae.registry import built, register
from gendae.rules.base import Rule
from gendae.rules.moment import Moment
from gendae.rules.processes import log_means
from gendae.rules.rates import Rates
from gendae.rules.targets import with_gradient

#: Plain steps along the updates, without memory of earlier ones.
PLAIN = {"class_path": "torch.optim.SGD"}


class Change(NamedTuple):
    """What a tick does to the synapses of a map, mean over the streams.

    Args:
        weight: dW, (outputs, inputs).
        bias: db, (outputs,).
        error: half the squared difference that drives it, summed over the units.
    """

    weight: Tensor
    bias: Tensor
    error: Tensor

    def plus(self, other: "Change") -> "Change":
        """The sum of two changes of one map."""
        return Change(*(a + b for a, b in zip(self, other, strict=True)))


Changes = dict[str, Change]


class Average:
    """bar(z) <- (1 - 1/tau) bar(z) + z / tau, for several tau at once.

    What was before the first z was as that is.

    Args:
        taus: time constants, in ticks; 1 or more each.

    Example:
        >>> bar = Average([1.0, 4.0])
        >>> for value in (0.0, 8.0):
        ...     bar.take(torch.tensor([value]))
        >>> bar.each.flatten(), bar.sum
        (tensor([8., 2.]), tensor([10.]))
    """

    def __init__(self, taus: Sequence[float]) -> None:
        self.taus = taus
        self.each: Tensor | None = None

    def take(self, z: Tensor) -> None:
        """Go on by one tick."""
        if self.each is None:
            self.each = z.expand(len(self.taus), *z.shape).clone()
            return

        for bar, tau in zip(self.each, self.taus, strict=True):
            bar.lerp_(z, 1.0 / tau)

    @property
    def sum(self) -> Tensor:
        """Over the time constants."""
        return cast(Tensor, self.each).sum(0)


class Traces:
    """All averages that synapses and units keep of the past, of one network and its streams.

    Args:
        taus: time constants, in ticks.
    """

    def __init__(self, taus: Sequence[float]) -> None:
        self.taus = taus
        self.averages: dict[tuple[str, int], Average] = {}

    def bar(self, name: str, level: int) -> Tensor:
        """The average of a quantity of a layer, summed over the time constants."""
        return self.averages[name, level].sum

    def since(self, name: str, level: int, z: Tensor) -> Tensor:
        """How far its average is from what it is now, summed over the time constants."""
        return self.bar(name, level) - len(self.taus) * z

    def take(self, name: str, level: int, z: Tensor) -> None:
        """Go on with the average of a quantity of a layer."""
        if (name, level) not in self.averages:
            self.averages[name, level] = Average(self.taus)

        self.averages[name, level].take(z)


class Plasticity:
    """Base class: what synapses do at a tick. A variant defines `changes` and `remember`.

    Args:
        taus: time constants of the averages, in ticks; updates of several are added.
    """

    taus: Sequence[float]

    def _check_taus(self) -> None:
        for tau in checks.several("plasticity.taus", self.taus):
            checks.at_least("plasticity.taus", tau, 1.0)
        if len(self.taus) == 0:
            raise ValueError("plasticity.taus=[]: one time constant or more is needed, in ticks")

    def start(self) -> Traces:
        """The averages before anything has been."""
        return Traces(self.taus)

    @torch.no_grad()
    def tick(
        self,
        traces: Traces,
        before: Activity,
        now: Activity,
        stimulus: bool = True,
        label: bool = False,
    ) -> Changes:
        """Changes by what happens at a tick; then the averages go on.

        Args:
            traces: the averages of what was before this tick.
            before: the tick before, whose values the units have received.
            now: this tick.
            stimulus: whether the sensors are held at a stimulus.
            label: whether the top is held at a label.

        Returns:
            By name, as of losses: term_f_l and term_g_l. Nothing at the first tick, before which
            nothing was.
        """
        changes = {}
        if traces.averages:
            changes = self.changes(traces, before, now, stimulus, label)
        self.remember(traces, before, now)

        return changes

    def changes(
        self, traces: Traces, before: Activity, now: Activity, stimulus: bool, label: bool
    ) -> Changes:
        """See `tick`."""
        raise NotImplementedError(f"{type(self).__name__} must define changes")

    def remember(self, traces: Traces, before: Activity, now: Activity) -> None:
        """Let the averages take what there is at a tick."""
        raise NotImplementedError(f"{type(self).__name__} must define remember")

    def teaches_top(self, blanks: bool) -> bool:
        """Whether f_L learns without labels, where there are ticks without a stimulus or none."""
        return True


@register
@dataclass(frozen=True)
class DeltaPlasticity(Plasticity):
    """The two rules of section 8, and the second one for forward synapses too.

    predict_f_l:      p^r_l bar(x_{l-1})' - bar(p^f_l x_{l-1}')         l < L, and L under a label
    reconstruct_g_l:  (bar(p^f_{l-1}) - p^r_{l-1}) x_l'
    recirculate_f_l:  (bar(p^f_l) - p^f_l) x_{l-1}'              while there is no stimulus

    The last is what the section says of sensors that nothing holds: "by the reconstruction
    principle these up-going connections into a neuron n must learn to invert the down-going
    connections". At the top nothing comes back but a label. A bias is a synapse whose input is 1.

    What comes back is what layers above can tell of a layer, which is less than it says:
    prediction alone contracts the codes, until they are constant. So it has a small weight.

    Args:
        taus: time constants of the averages, in ticks; updates of several are added.
        prediction: weight of predict_f_l below the top.
        recirculation: weight of recirculate_f_l.

    Raises:
        ValueError: for a time constant below 1 or none, and weights below 0.

    Example:
        >>> from gendae import DelayNetwork, deep_autoencoder
        >>> network = DelayNetwork(deep_autoencoder([8, 6, 4]).pairs)
        >>> plasticity, x = DeltaPlasticity(taus=[2.0]), torch.rand(3, 8)
        >>> now, traces = network.rest(3), plasticity.start()
        >>> for _ in range(4):
        ...     before, now = now, network.tick(now, x)
        ...     changes = plasticity.tick(traces, before, now)
        >>> sorted(changes), changes["predict_f_1"].weight.shape
        (['predict_f_1', 'reconstruct_g_1', 'reconstruct_g_2'], torch.Size([6, 8]))
    """

    taus: Sequence[float] = (2.0,)
    prediction: float = 0.003
    recirculation: float = 1.0

    def __post_init__(self) -> None:
        self._check_taus()
        checks.at_least("plasticity.prediction", self.prediction, 0.0)
        checks.at_least("plasticity.recirculation", self.recirculation, 0.0)

    def teaches_top(self, blanks: bool) -> bool:
        return blanks and self.recirculation > 0.0

    def changes(
        self, traces: Traces, before: Activity, now: Activity, stimulus: bool, label: bool
    ) -> Changes:
        top = len(now.x) - 1

        changes = {}
        for level in range(1, top + 1):
            if level < top and self.prediction > 0.0:
                changes[f"predict_f_{level}"] = self._predict(traces, level, now, self.prediction)

            past = traces.since("up", level - 1, now.down[level - 1])
            changes[f"reconstruct_g_{level}"] = hebbian(past, before.x[level])

            if not stimulus and self.recirculation > 0.0:
                past = traces.since("up", level, now.up[level])
                error = self.recirculation * past
                changes[f"recirculate_f_{level}"] = hebbian(error, before.x[level - 1])

        if label:
            changes[f"predict_f_{top}"] = self._predict(traces, top, now, 1.0)

        return changes

    def _predict(self, traces: Traces, level: int, now: Activity, scale: float) -> Change:
        future = now.down[level]
        past = traces.bar("pre", level)
        weight = future.T @ past / len(future) - traces.bar("synapse", level)
        error = -traces.since("up", level, future)

        return Change(scale * weight, scale * error.mean(0), scale * half_square(error))

    def remember(self, traces: Traces, before: Activity, now: Activity) -> None:
        traces.take("up", 0, now.up[0])
        for level in range(1, len(now.x)):
            pre = before.x[level - 1]
            traces.take("up", level, now.up[level])
            traces.take("pre", level, pre)
            traces.take("synapse", level, now.up[level].T @ pre / len(pre))


@register
@dataclass(frozen=True)
class TemporalPlasticity(Plasticity):
    """Spike-timing dependent plasticity in rates: dW ~ (x_post - bar(x_post)) x_pre', up and down.

    The difference from the average of the past is the rate of change, as Hinton 2007 takes it for
    the derivative of a loss.

    Args:
        taus: time constants of the averages, in ticks; updates of several are added.

    Raises:
        ValueError: for a time constant below 1, or none.
    """

    taus: Sequence[float] = (2.0,)

    def __post_init__(self) -> None:
        self._check_taus()

    def changes(
        self, traces: Traces, before: Activity, now: Activity, stimulus: bool, label: bool
    ) -> Changes:
        changes = {}
        rises = [-traces.since("x", level, x) for level, x in enumerate(now.x)]
        for level in range(1, len(now.x)):
            changes[f"predict_f_{level}"] = hebbian(rises[level], before.x[level - 1])
            changes[f"predict_g_{level}"] = hebbian(rises[level - 1], before.x[level])

        return changes

    def remember(self, traces: Traces, before: Activity, now: Activity) -> None:
        for level, x in enumerate(now.x):
            traces.take("x", level, x)


def hebbian(post: Tensor, pre: Tensor) -> Change:
    """post pre', mean over the streams; for each of them both are rows."""
    return Change(post.T @ pre / len(pre), post.mean(0), half_square(post))


def half_square(error: Tensor) -> Tensor:
    """Half the squared error, summed over units, mean over the streams."""
    return error.square().sum() / (2.0 * len(error))


def map_of(pairs: Sequence, name: str) -> Affine:
    """The map that a term of this name is of: predict_f_2 is one of f_2.

    Example:
        >>> from gendae import deep_autoencoder
        >>> pairs = deep_autoencoder([8, 6, 4]).pairs
        >>> map_of(pairs, "reconstruct_g_2") is pairs[1].g
        True
    """
    _, direction, level = name.split("_")
    return getattr(pairs[int(level) - 1], direction)


# -- the rule ------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Presentation:
    """How an example comes and goes in a stream.

    Args:
        ticks: how long it is there.
        blank: how long nothing is, after it.
        noise: standard deviation of noise on all values at the first tick, in units of h; it falls
            linearly to 0 at the last one, so that the later values are the better targets.

    Raises:
        ValueError: for ticks < 1, blank < 0 or noise < 0, and for a single tick in all.

    Example:
        >>> shown = Presentation(ticks=3, blank=1, noise=0.2)
        >>> [shown.noise_at(tick) for tick in range(4)]
        [0.2, 0.1, 0.0, 0.0]
    """

    ticks: int = 15
    blank: int = 5
    noise: float = 0.0

    def __post_init__(self) -> None:
        checks.whole("presentation.ticks", self.ticks, 1, checks.REPEATS)
        checks.whole("presentation.blank", self.blank, 0, checks.REPEATS)
        checks.at_least("presentation.noise", self.noise, 0.0)
        if len(self) < 2:
            raise ValueError(
                f"presentation.blank={self.blank}: nothing changes within the one tick of a "
                "presentation; 1 or more is needed, or presentation.ticks of 2 or more"
            )

    def __len__(self) -> int:
        return self.ticks + self.blank

    def noise_at(self, tick: int) -> float:
        """Standard deviation at a tick, 0 .. ticks + blank - 1."""
        last = max(1, self.ticks - 1)
        return self.noise * max(0.0, 1.0 - tick / last)


@register
class OnlineDeltaRule(Rule):
    """Local delta rules in continuous operation: no phases, no history, nothing but synapses.

    The examples of a batch are streams that run side by side, from rest: each is shown for some
    ticks and is then gone for some. All maps learn at every tick, see `DeltaPlasticity`. Their
    mean over the ticks is the gradient of one step of the optimizer, a deviation from the section;
    with `every_tick` weights move at each tick, as there. A stream that never rests is
    `DelayNetwork.tick` and `DeltaPlasticity.tick` in a loop.

    The delta rule is the gradient of cross-entropy for sigmoid units, and of squared error for
    linear ones; it is the same for others.
    Source: Bengio 2014, section 8.

    Args:
        stack: the model, of affine layers.
        presentation: how an example comes and goes; `Presentation()` if None.
        feedback: weight a of what a unit gets from above, in [0, 1].
        plasticity: what synapses do at a tick: `DeltaPlasticity()`, the rules of the section, if
            None, or `TemporalPlasticity`.
        labels: hold the top, as wide as there are classes, at the label of each example.
        every_tick: move the weights at every tick of a presentation, by plain steps of the rates;
            the optimizer's step, of torch.optim.SGD, then leaves them there.
        rates: see `Rates`. Plain steps suit few inputs; with "adam", for which a synapse keeps two
            averages of its own changes, read-outs of the layers are better.
        log_every: see `Rule`.

    Raises:
        ValueError: see `Rule` and `DelayNetwork`; for numbers out of range, layers with laws that
            are to be learned, or every_tick with another optimizer or in several processes; in
            training, for labels that are missing or out of range.

    Example:
        >>> from gendae import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> rule = OnlineDeltaRule(deep_autoencoder([8, 6, 4]))
        >>> sorted(rule.losses((torch.rand(10, 8),)))[:3]
        ['predict_f_1', 'recirculate_f_1', 'recirculate_f_2']
    """

    ARRAYS = (*Rule.ARRAYS, "predict")

    def __init__(
        self,
        stack: Stack,
        presentation: Presentation | None = None,
        feedback: float = 0.1,
        plasticity: Plasticity | None = None,
        labels: bool = False,
        every_tick: bool = False,
        rates: Rates = Rates(f=0.3, g=0.3, hold=0.5, optimizer=PLAIN),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, rates, log_every)

        if presentation is None:
            presentation = Presentation()
        self.presentation = built("presentation", presentation, Presentation)
        if plasticity is None:
            plasticity = DeltaPlasticity()
        self.plasticity: Plasticity = built("plasticity", plasticity, Plasticity)
        self.feedback = feedback
        self.labels = bool(labels)
        self.every_tick = bool(every_tick)

        self._check_laws()
        if self.every_tick and self.rates.optimizer != PLAIN:
            raise ValueError(
                f"rates.optimizer={self.rates.optimizer!r}: every_tick makes plain steps; "
                f"accepted with it: {PLAIN}"
            )
        self.network()  # what cannot run is refused now

    def _check_laws(self) -> None:
        for level, pair in enumerate(self.stack.pairs, 1):
            if pair.recognition.learnable or pair.observation.learnable:
                raise ValueError(
                    f"pair {level} has a law that is to be learned, which delta rules do not do; "
                    "accepted: laws without parameters"
                )

    def network(self) -> DelayNetwork:
        """The stack in continuous operation."""
        return DelayNetwork(list(self.stack.pairs), self.feedback)

    @property
    def has_phases(self) -> bool:
        """Whether f_L never learns, since nothing comes back to the top."""
        return not (self.labels or self.plasticity.teaches_top(self.presentation.blank > 0))

    def phase(self, moment: Moment) -> Hashable | None:
        """None where labels are looked at, or weights move within an update."""
        if self.labels or self.every_tick:
            return None

        return super().phase(moment)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.every_tick and self.trainer.world_size > 1:
            raise ValueError(
                "every_tick=True: each process would move weights of its own; accepted in several "
                "processes: every_tick=False"
            )

    # -- a presentation ------------------------------------------------------------------------

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Mean over streams and ticks of what each rule has left to do; their gradients are known.

        batch is (x,), or (x, y) with labels y.
        """
        x, y = self.shown(batch)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            changes = self.present(x, y, moment)

        terms = {}
        for name, change in changes.items():
            layer = map_of(self.stack.pairs, name)
            of_weight = with_gradient(layer.weight, change.error, -change.weight)
            of_bias = with_gradient(layer.bias, torch.zeros_like(change.error), -change.bias)
            terms[name] = of_weight + of_bias

        return terms

    def shown(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """x, and the values that labels hold the top at."""
        x, y, _ = Split.of(batch)
        x = checks.rows("x", checks.width("x", x, self.stack.sizes[0]))
        if not self.labels:
            return x, None

        if y is None:
            raise ValueError("the batch has no labels; labels=True learns from (x, y)")
        y = checks.labels("y", y, len(x), self.stack.sizes[-1])

        return x, F.one_hot(y, self.stack.sizes[-1]).to(x)

    def present(self, x: Tensor, y: Tensor | None, moment: Moment) -> Changes:
        """Mean changes over the ticks of a presentation.

        Args:
            x: the stimuli, (streams, width of x).
            y: values that the top is held at, (streams, width of h_L); None where it is free.
            moment: of the update.
        """
        network = self.network()
        if self.every_tick:
            network = DelayNetwork(deepcopy(network.pairs), self.feedback)

        total: Changes = {}
        now = network.rest(len(x))
        traces = self.plasticity.start()
        for tick in range(len(self.presentation)):
            there = tick < self.presentation.ticks
            before = now
            noise = self.presentation.noise_at(tick)
            stimuli = (x, y) if there else (None, None)
            now = network.tick(before, *stimuli, noise, moment.generator)

            changes = self.plasticity.tick(traces, before, now, there, there and y is not None)
            share = self._shares(changes)
            for name, change in share.items():
                total[name] = total[name].plus(change) if name in total else change
            if self.every_tick:
                self._move(network, share, moment)

        return total

    def _shares(self, changes: Changes) -> Changes:
        """The part of each change in the mean over the ticks."""
        n = len(self.presentation)
        return {name: Change(*(part / n for part in c)) for name, c in changes.items()}

    def _move(self, network: DelayNetwork, changes: Changes, moment: Moment) -> None:
        """A plain step of every map."""
        factor = self.rates.factor(float(moment.progress))
        for name, change in changes.items():
            _, direction, level = name.split("_")
            of_layers = getattr(self.rates, direction)
            rates = checks.per_layer(f"rates.{direction}", of_layers, network.depth)
            rate = factor * rates[int(level) - 1]

            layer = map_of(network.pairs, name)
            layer.weight.add_(change.weight, alpha=rate)
            layer.bias.add_(change.bias, alpha=rate)

    # -- what it has learned -------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Values of the top after a presentation of x without labels, (batch, width of h_L)."""
        network = self.network()
        x = checks.rows("x", checks.width("x", x, self.stack.sizes[0]))

        return network.show(network.rest(len(x)), self.presentation.ticks, x).x[-1]

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self._log_error("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        self._log_error("test", batch)

    def _log_error(self, split: str, batch: Sequence[Tensor]) -> None:
        """Fraction of wrong labels where the network has seen the images alone."""
        x, y, _ = Split.of(batch)
        if not self.labels or y is None:
            return

        wrong = x.new_zeros(())
        if len(x) > 0:  # a process may have none of the images
            wrong = (self.predict(x).argmax(1) != y).float().mean()
        log_means(self, {f"{split}/error": wrong}, len(x), prog_bar=True)
