"""The loop of differences: what x^ lacks travels around the loop, and every map has a target.

Up:     h_l = f_l(h_{l-1}),  z = corrupt(h_L),  d_L = z,  d_{l-1} = g_l(d_l),  x^ = d_0
Lack:   delta_0 = step * (-dE/da),  what x^ lacks                   (x - x^ for cross-entropy)
Up:     delta_l = b_l(delta_{l-1}), with the feedback b_l of g_l    (2015, Eq. 12, by layers)
Top:    eps_L = delta_L + step * pull of the prior
Down:   eps_{l-1} = c_l(eps_l), with the feedback c_l of f_l        (Lee 2018, Eq. 3.15)
Learn:  g_1 by the energy of x;  g_l towards d_{l-1} + delta_{l-1};  f_l towards h_l + eps_l

Where the law of h_L is a `LearnedGaussian`, z is a draw of it: see `rules.learned_noise`.

Where x^ lacks nothing, no map is asked to move: nothing contracts. In Algorithm 2 as printed every
target of an encoder is a reconstruction of its own code, and nothing that the output lacks reaches
f_l.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, GaussianNoise, RelativeNoise
from gendae.laws import Law
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.models.widths import Noise
from gendae.priors.base import Prior
from gendae.registry import Plain, built, register
from gendae.rules.chain import Chain, Corrupt, State
from gendae.rules.feedback import Feedback
from gendae.rules.learned_noise import DrawnTop, check_noise, learned_noise
from gendae.rules.loops import Loop, PairLoops, need_fixed_widths
from gendae.rules.moment import Moment
from gendae.rules.targets import missed
from gendae.rules.transposes import LocalDifference

PULLS = ("normal", "prior")


def around(
    chain: Chain,
    states: Sequence[State],
    energies: Tensor,
    feedback: Feedback,
    step: float,
    moment: Moment,
    pull: Tensor | None = None,
) -> list[Tensor]:
    """Displacements of the outputs of all maps of a chain: what is lacking, sent along the chain.

    Args:
        chain: the maps.
        states: what went through them.
        energies: of each example, (batch,), or their sum: a function of the last map's output
            alone, so that nothing but its head is differentiated.
        feedback: of the maps.
        step: of the first displacement, -step dE/da.
        moment: of the update.
        pull: displacement that the prior adds at h_L.
    """
    (slope,) = torch.autograd.grad(energies.sum(), states[-1].output, retain_graph=True)

    with torch.no_grad():
        return feedback.displacements(chain, states, -step * slope, moment, pull)


def losses_of(
    chain: Chain,
    states: Sequence[State],
    moves: Sequence[Tensor],
    step: float,
    losses: dict[str, Tensor],
) -> dict[str, Tensor]:
    """|output - target|^2 / (2 step) of the maps that learn, without the last, added by name."""
    for link, state, move in zip(chain.links[:-1], states[:-1], moves[:-1], strict=True):
        if link.fixed:
            continue

        term = missed(state.output, move) / (2.0 * step)

        name = f"lack_{link.name}"
        losses[name] = losses.get(name, 0.0) + term

    return losses


def need_codes_of_encoders(level: int, pair: Pair, accepted: str) -> None:
    """Raise a ValueError for a pair whose codes are not what its encoder gives."""
    if type(pair).encode is not Pair.encode:
        raise ValueError(
            f"pair {level} is a {type(pair).__name__}, whose codes are not what f_{level} gives: "
            f"differences cannot travel through it; accepted: {accepted}"
        )


def need_widths_of_no_input(pair: Pair) -> None:
    """Raise a ValueError where the width of x depends on h_1, from which no link ever has it."""
    if pair.observation.follows_input:
        raise ValueError(
            "observation of pair 1: its width depends on h_1, which the differences do not know; "
            "accepted: a law without `given`, or KLRule"
        )


def blocks_of_top(stack: Stack) -> list[tuple[Law, int]]:
    """The laws of the top's blocks of units, and their widths."""
    return stack.pairs[-1].recognition.blocks(stack.sizes[-1])


def real_units(stack: Stack, code: Tensor) -> Tensor:
    """The top's code with 0 in the place of discrete units, which N(0, I) says nothing of."""
    blocks = blocks_of_top(stack)
    if not any(law.hard for law, _ in blocks):
        return code

    parts = code.split([width for _, width in blocks], -1)
    kept = [
        torch.zeros_like(part) if law.hard else part
        for (law, _), part in zip(blocks, parts, strict=True)
    ]
    return torch.cat(kept, -1)


@register
class DifferenceLoop(Loop):
    """Differences around the loop: every affine map has a regression target of its own.

    lack_g_1: the energy of x around x^
    lack_g_l: |g_l(d_l) - (d_{l-1} + delta_{l-1})|^2 / (2 step)
    lack_f_l: |f_l(h_{l-1}) - (h_l + eps_l)|^2 / (2 step)

    and the losses of the feedback. All inputs and targets are detached. Divided by the step, the
    gradients have the scale of those of the loop's loss

    E(x, x^) + prior_weight * (-log P(h_L)),

    whose exact gradient they would be with the feedback `Exact`. An MLP is taken as the affine
    maps that it is made of, if the feedback does so; any other module back-propagates inside.
    Targets of discrete units move what they send; their means learn.

    At the start each pair learns as a denoising auto-encoder of its own (`PairLoops`), while the
    feedback aligns itself: from a random start it fails at five pairs (docs/results.md). Where the
    user names no noise, that of the top stands on the code of every pair then.

    A top whose law is a `LearnedGaussian` draws z, and its width learns, by `width_f_L`. The
    loop's loss is then that of a variational auto-encoder, with `prior_weight` as its beta: 1 for
    the bound on log P(x).
    Source: Bengio 2014, Algorithm 2; Bengio et al. 2015, Eq. 12; Lee 2018, Eq. 3.15.

    Args:
        feedback: the b_l and c_l; `LocalDifference` if None.
        step: length of a displacement, in squared units of h per nat; it matters for feedback that
            is not linear only.
        prior_weight: weight of the prior's pull, which holds codes in scale.
        pull: what pulls: "normal", N(0, I), at the units that are real numbers; or "prior", the
            stack's own, which follows the codes: by its score, or where it has no density by its
            reconstruction minus the code.
        start: updates at the beginning in which pairs learn by themselves; five pairs of drawn
            bits need so many.
        align: updates before those, in which the feedback alone learns.

    Raises:
        ValueError: for numbers out of range, an unknown pull, or `align` with feedback that does
            not learn; for pairs whose codes are found by optimisation, and for laws of codes that
            are to be learned.

    Example:
        >>> from gendae import TargetPropRule, deep_autoencoder
        >>> loop = DifferenceLoop(start=0)
        >>> sorted(TargetPropRule(deep_autoencoder([8, 6, 4]), loop).losses((torch.rand(10, 8),)))
        ['feedback_f_2', 'feedback_g_1', ..., 'lack_f_1', 'lack_f_2', 'lack_g_1', 'lack_g_2']
    """

    adds_up = True

    def __init__(
        self,
        feedback: Feedback | None = None,
        step: float = 0.1,
        prior_weight: float = 0.01,
        pull: str = "normal",
        start: int = 1000,
        align: int = 0,
    ) -> None:
        super().__init__()
        if feedback is None:
            feedback = LocalDifference()
        self.feedback: Feedback = built("feedback", feedback, Feedback)

        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.prior_weight = checks.at_least("prior_weight", prior_weight, 0.0)
        self.pull = checks.one_of("pull", pull, PULLS)
        self.noise_is_own = True

        self.start = checks.whole("start", start, 0)
        self.align = checks.whole("align", align, 0)
        if self.align > 0 and not self.feedback.learns:
            raise ValueError(
                f"align={align}: feedback={type(self.feedback).__name__} does not learn, so that "
                "it has nothing to align; accepted: align=0"
            )

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        """The weight of the prior was once called kl."""
        return {"prior_weight" if name == "kl" else name: v for name, v in arguments.items()}

    @property
    def has_phases(self) -> bool:
        return self.align > 0 or self.feedback.has_phases

    def prepare(self, stack: Stack, corruption: Sequence[Corruption] | None = None) -> None:
        accepted = "Gaussian() there, KLRule, or loop=ShortAndLongLoops()"
        drawn = learned_noise(stack) is not None
        for level, pair in enumerate(stack.pairs, 1):
            need_codes_of_encoders(level, pair, "loop=ShortAndLongLoops()")
            free = drawn and level == stack.depth
            need_fixed_widths(level, pair, level == 1, accepted, free)
        need_widths_of_no_input(stack.pairs[0])
        if drawn:
            check_noise(corruption is not None, self.pull)

        self.noise_is_own = corruption is None
        self.feedback.prepare(self.chain(stack), stack)

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        return self.feedback.learners()

    def noise_of(self, stack: Stack, x: Tensor, corruption: Sequence[Corruption]) -> list[Noise]:
        """The corruption, and the width of the top's own draws where they are its noise."""
        law = learned_noise(stack)
        if law is None:
            return list(corruption)

        *_, below, top = stack.encode(x)
        return [*corruption[:-1], law.variance(top, below).mean(0).sqrt()]

    def corruption(self, stack: Stack) -> list[Corruption]:
        """Noise on the top code alone, of 0.3 of its spread."""
        below: list[Corruption] = [GaussianNoise(0.0) for _ in stack.pairs]
        return [*below, RelativeNoise(0.3)]

    def prior(self, stack: Stack) -> Prior | None:
        if self.pull == "prior" and self.prior_weight > 0:
            return stack.prior

        return None

    def chain(self, stack: Stack) -> Chain:
        """The maps of the loop."""
        return Chain.of(stack, unfolded=self.feedback.unfolds)

    def phase(self, moment: Moment) -> Hashable | None:
        return self._stage(moment), self._feedback_learns(moment)

    def turns(self, update: int) -> bool:
        return update == self.align + self.start

    def _stage(self, moment: Moment) -> str:
        """What learns at this moment; outside a Trainer the start is over."""
        if moment.update is None:
            return "loop"
        if moment.update < self.align:
            return "feedback"
        if moment.update < self.align + self.start:
            return "pairs"

        return "loop"

    def _feedback_learns(self, moment: Moment) -> bool:
        """At every update of the start, in which it aligns itself, and when it is due later."""
        return self._stage(moment) != "loop" or self.feedback.due(moment)

    # -- the losses ----------------------------------------------------------------------------

    def losses(
        self, stack: Stack, x: Tensor, corrupt: Corrupt, moment: Moment
    ) -> dict[str, Tensor]:
        chain = self.chain(stack)
        stage = self._stage(moment)
        drawn = self._drawn(stack, corrupt)
        noise = drawn or corrupt

        with torch.set_grad_enabled(stage == "loop"):
            states = chain.run(noise(0, x, moment), noise, moment)

        losses: dict[str, Tensor] = {}
        if stage == "loop":
            losses = self._lacks(stack, chain, x, states, moment, drawn)
        if stage == "pairs":
            losses = PairLoops().losses(stack, x, self._at_start(stack, corrupt), moment)
        if self._feedback_learns(moment):
            losses |= self.feedback.losses(chain, states, moment)

        return losses

    def _at_start(self, stack: Stack, corrupt: Corrupt) -> Corrupt:
        """The user's noise of each level; without one, that of the top on the code of every pair.

        The loop's own noise leaves the codes below the top as they are, but a pair by itself is
        a denoising auto-encoder.
        """
        if not self.noise_is_own:
            return corrupt

        def noise(level: int, h: Tensor, moment: Moment) -> Tensor:
            return corrupt(level if level == 0 else stack.depth, h, moment)

        return noise

    def _drawn(self, stack: Stack, corrupt: Corrupt) -> DrawnTop | None:
        """The noise of a top whose law is learned."""
        law = learned_noise(stack)
        return None if law is None else DrawnTop(law, stack.depth, corrupt)

    def _lacks(
        self,
        stack: Stack,
        chain: Chain,
        x: Tensor,
        states: Sequence[State],
        moment: Moment,
        drawn: DrawnTop | None,
    ) -> dict[str, Tensor]:
        """lack_f_l and lack_g_l, and width_f_L where the top's law is learned."""
        energies = chain.links[-1].energy(x, states[-1].output)
        last = chain.links[-1].name
        losses = {f"lack_{last}": energies.mean()}

        moves = self.displacements(stack, chain, energies, states, moment)
        if drawn is not None:
            delta = moves[chain.climb - 1] - self._pull_of(stack, chain, states)
            losses[f"width_f_{stack.depth}"] = drawn.loss(delta, self.step, self.prior_weight)

        return losses_of(chain, states, moves, self.step, losses)

    def displacements(
        self,
        stack: Stack,
        chain: Chain,
        energies: Tensor,
        states: Sequence[State],
        moment: Moment = Moment(),
    ) -> list[Tensor]:
        """The displacement of every map's output, in the order of the chain.

        Args:
            stack: the model.
            chain: its maps.
            energies: -log P(x | h_1) of each example, a function of the last map's output.
            states: what went through the maps.
            moment: of the update.
        """
        pull = None
        if self._pulls(stack):
            pull = self._pull_of(stack, chain, states)

        return around(chain, states, energies, self.feedback, self.step, moment, pull)

    def _pull_of(self, stack: Stack, chain: Chain, states: Sequence[State]) -> Tensor:
        """The displacement of h_L by the prior."""
        code = states[chain.climb - 1].sent
        return self.step * self.prior_weight * self._pull(stack, code)

    def _pulls(self, stack: Stack) -> bool:
        """Whether anything pulls at the top; N(0, I) does not at discrete codes."""
        if self.pull == "normal" and all(law.hard for law, _ in blocks_of_top(stack)):
            return False

        return self.prior_weight > 0.0

    def _pull(self, stack: Stack, code: Tensor) -> Tensor:
        """d log P(h_L) / dh_L."""
        if self.pull == "normal":
            return -real_units(stack, code)
        if stack.prior.has_density:
            return stack.prior.score(code)

        return stack.prior.reconstruct(code) - code

    def loss(self, stack: Stack, x: Tensor, corrupt: Corrupt, moment: Moment) -> Tensor:
        """The loss whose gradient the displacements stand for, through all maps.

        The noise is that of `losses` at the same moment. A prior without density has no loss: its
        pull is left out.
        """
        chain = self.chain(stack)
        drawn = self._drawn(stack, corrupt)
        noise = drawn or corrupt
        top, output = chain.through(noise(0, x, moment), noise, moment)
        loss = chain.links[-1].energy(x, output).mean()
        if drawn is not None:
            loss = loss + self.prior_weight * drawn.divergence()

        if not self._pulls(stack):
            return loss
        if self.pull == "normal":
            return loss + self.prior_weight * real_units(stack, top).square().sum(-1).mean() / 2.0
        if stack.prior.has_density:
            return loss - self.prior_weight * stack.prior.log_prob(top).mean()

        return loss
