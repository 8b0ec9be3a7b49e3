"""Inference x -> h: from the feed-forward guess towards more probable representations.

`TargetPropInference` is INFERENCE of Algorithm 2 (2015): its moves are made of activations going
up and down only. `GradientInference` is Algorithm 1, the gradient of
J = log p(x, h) + q_weight log q(h | x) by autograd: the reference that target propagation
estimates. Both handle missing pixels inside their step: the pull of x on h_1 is computed from x
with its missing pixels filled in by g_1(h_1) (2015, Figure 5). Of a `LabelledStack`, labels y pull
on h_L as x does on h_1; where there are none, that pull is 0 (2015, section 9).
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.layers.activations import IN_PLACE
from gendae.layers.affine import Affine
from gendae.layers.onednn import packed, product
from gendae.layers.wrapped import Layer
from gendae.models.labelled import LabelledStack, present
from gendae.models.stack import Stack
from gendae.registry import register

Representations = tuple[Tensor, ...]
Map = Callable[[Tensor], Tensor]
Move = Callable[[int, Tensor, Tensor, Generator | None], Tensor]
CodesOfX = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@checks.takes_arrays
def targetprop_gradient(f: Map, g: Map, x: Tensor, h: Tensor, variance: float = 1.0) -> Tensor:
    """Estimate of d log p(x | h) / dh without derivatives: (f(x) - f(g(h))) / sigma_h^2.

    For a linear-Gaussian pair whose f is the posterior mean,
    f(x) - f(g(h)) = S d log p(x | h) / dh with S the posterior covariance, so that the scalar form
    is exact where S = variance * I.
    Source: Bengio et al. 2015, Eq. 12.

    Args:
        f, g: encoder and decoder means.
        x: observation, (batch, width of x).
        h: representation where the gradient is wanted, (batch, width of h).
        variance: sigma_h^2, variance of the noise injected in q(h | x), in squared units of h.

    Example:
        >>> f, g = (lambda x: 0.5 * x), (lambda h: h)     # p(h) = N(0, 1), p(x | h) = N(h, 1)
        >>> targetprop_gradient(f, g, torch.tensor([[3.0]]), torch.tensor([[1.0]]), variance=0.5)
        tensor([[2.]])
    """
    return (f(x) - f(g(h))) / variance


def fill(x: Tensor, mask: Tensor | None, reconstruction: Tensor) -> Tensor:
    """x where the mask is True, the reconstruction elsewhere; x itself without a mask."""
    if mask is None:
        return x

    return torch.where(mask, x, reconstruction)


def check_label(stack: Stack, y: Tensor, n: int) -> Tensor:
    """`y` if it has a row for each of n examples of a stack with labels, else a ValueError."""
    if not isinstance(stack, LabelledStack):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"y was given, and {type(stack).__name__} has no labels; accepted: a LabelledStack"
        )
    if y.shape != (n, stack.classes) or not y.is_floating_point():
        raise ValueError(
            f"y has shape {tuple(y.shape)} and type {y.dtype}; rows of real numbers, "
            f"({n}, {stack.classes}), are needed, as stack.label_rows(y) gives them"
        )

    return y


def label_pull(stack: LabelledStack, y: Tensor) -> Map:
    """Eq. 12 of the label: h_L -> r_y(y) - r_y(o(h_L)), and 0 in rows where y is missing."""
    there = present(y)
    partner, decoder = packed(stack.label, y)
    from_y = partner(y.nan_to_num())

    return lambda h: (from_y - partner(decoder(h))) * there


def label_log_prob(stack: LabelledStack, y: Tensor, h: Tensor) -> Tensor:
    """log p(y | h_L) in nats, (batch,); 0 where y is missing."""
    label = stack.label
    log_p = label.observation.log_prob(y.nan_to_num(), label.g(h))

    return log_p * present(y)[:, 0]


class Inference(checks.TakesArrays):
    """Base class: owns the loop h <- step(h); a variant's `begin` gives the step.

    Args:
        steps: number N of updates.
        delta: step size.
        temperature: T of the Langevin noise sqrt(2 delta T) N(0, I) added at each update (2015,
            section 3, "optional: add noise for MCMC"); 0 is deterministic.

    Raises:
        ValueError: for negative numbers; when called, for a stack of discrete units, which no
            small step moves.

    Example:
        >>> class UpAndDown(Inference):                        # h <- h + delta (f(x) - h)
        ...     def begin(self, stack, h, mask, generator):
        ...         def step(h):
        ...             up = stack.feedforward(fill(h[0], mask, stack.down(h[-1])[0]))
        ...             return tuple(torch.lerp(a, b, self.delta) for a, b in zip(h, up))
        ...         return step
        >>> from gendae.models.architectures import deep_autoencoder
        >>> [len(h) for h in UpAndDown(steps=3)(deep_autoencoder([8, 6, 4]), torch.rand(2, 8))]
        [2, 2, 2]
    """

    ARRAYS = ("__call__", "trajectory")

    #: Runs the loop of batches without masks: `gendae.Graphs` sets it, files do not keep it.
    compiled: Callable[[Stack, Tensor, int], Representations] | None = None
    #: Whether p(h_L), the stack's prior, takes part.
    use_prior: bool = False
    #: Weight of y, which `begin` takes where it is not 0.
    label_weight: float = 0.0

    def __init__(self, steps: int = 15, delta: float = 0.1, temperature: float = 0.0) -> None:
        self.steps = checks.whole("steps", steps, 0, checks.REPEATS)
        self.delta = checks.at_least("delta", delta, 0.0)
        self.temperature = checks.at_least("temperature", temperature, 0.0)

    def __call__(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor | None = None,
        generator: Generator | None = None,
        steps: int | None = None,
        y: Tensor | None = None,
    ) -> Representations:
        """Representations h_0 .. h_L after the last update.

        Args:
            stack: the model.
            x: observation, (batch, width of x).
            mask: True where x is observed, broadcast against x; None if all of it is.
            generator: source of the Langevin noise.
            steps: N, where it shall differ from the constructor's (the rule's warm-up).
            y: what is observed beside x, of a `LabelledStack`, (batch, classes), see its
                `label_rows`: a row of NaN is missing. None leaves y free.
        """
        if self.compiled is not None and mask is None and y is None:
            return self.compiled(stack, x, self.steps if steps is None else steps)

        for h in self.trajectory(stack, x, mask, generator, steps, y):  # noqa: B007
            pass

        return h

    @torch.no_grad()
    def trajectory(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor | None = None,
        generator: Generator | None = None,
        steps: int | None = None,
        y: Tensor | None = None,
    ) -> Iterator[Representations]:
        """The representations at the feed-forward start and after every update: N + 1 of them."""
        if steps is None:
            steps = self.steps

        self.check(stack, steps=steps)

        h = stack.feedforward(checks.width("x", x, stack.sizes[0]))
        yield h

        if steps == 0:
            return

        if y is None or self.label_weight == 0.0:
            step = self.begin(stack, h, mask, generator)
        else:
            with_label = cast(Any, self.begin)
            step = with_label(stack, h, mask, generator, check_label(stack, y, len(x)))

        for _ in range(steps):
            h = step(h)
            yield h

    def check(self, stack: Stack, name: str = "inference", steps: int | None = None) -> None:
        """Raise a ValueError for a stack that this cannot move; without steps it moves nothing.

        Args:
            stack: the model.
            name: of the argument that holds this, for the message.
            steps: N, where it shall differ from the constructor's.
        """
        if steps is None:
            steps = self.steps

        if steps > 0 and stack.hard_levels:
            levels = ", ".join(f"h_{level}" for level in stack.hard_levels)
            raise ValueError(
                f"{name}={type(self).__name__} moves real units, but {levels} of this stack "
                "are discrete; accepted: steps=0, or for such stacks TargetPropRule, "
                "AncestralSampler, LevelSampler and Inpainter.encode_decode"
            )

    def begin(
        self, stack: Stack, h: Representations, mask: Tensor | None, generator: Generator | None
    ) -> Callable[[Representations], Representations]:
        """The update h -> h; quantities that the loop does not change are computed here, once.

        A variant with a `label_weight` takes y as one more argument, None by default.
        """
        raise NotImplementedError(f"{type(self).__name__} must define begin")

    def _diffuse(
        self, h: Tensor, generator: Generator | None, variance: Tensor | float = 1.0
    ) -> Tensor:
        """h with Langevin noise, of a variance in units of 2 delta T."""
        if self.temperature == 0.0:
            return h

        scale = (2.0 * self.delta * self.temperature * variance) ** 0.5
        return h + scale * normal_like(h, generator)


@register
class TargetPropInference(Inference):
    """INFERENCE of Algorithm 2, for any depth: target propagation moves, top layer first.

    h_L <- h_L + delta (f_L(h_{L-1}) - f_L(g_L(h_L)))
    h_l <- h_l + delta (f_l(h_{l-1}) - f_l(g_l(h_l)))
               + alpha (g_{l+1}(h_{l+1}) - h_l),        l = L-1 .. 1

    h_{l+1} is updated already, h_{l-1} not yet. Alpha is not multiplied by delta, as printed. The
    bracket with delta is Eq. 12, that with alpha the gradient of log p(h_l | h_{l+1}).

    The label y of a `LabelledStack` adds its own Eq. 12 to the top, where it is observed, with the
    partner r_y of the label decoder o:

        h_L <- .. + label_weight delta (r_y(y) - r_y(o(h_L)))

    Eq. 12's bracket is not the gradient of log p(h_{l-1} | h_l), but S_l times it, S_l being the
    covariance of h_l given h_{l-1}. So the prior's gradient and the Langevin noise of h_l, which
    join it as options, are multiplied by S_l and sqrt(S_l):

        h_L <- .. + delta S_L dlog p(h_L) / dh_L,       h_l <- .. + sqrt(2 delta T S_l) N(0, I)

    S_l is the variance of Q(h_l | h_{l-1}), sigma_h^2 of Eq. 12, as the pair's recognition law has
    it; 1 for laws of several modalities and others without one. Where f_l is a posterior mean
    under that S_l, T = 1, `use_prior` and alpha = delta S_l / sigma_{l+1}^2 give samples of
    p(h | x), in the limit of a small delta, with sigma_{l+1} of the law of h_l around g_{l+1}.
    Where Q's variance was never learned, as under VariationalEMRule, which takes 1, T is no more
    than a scale of the noise.

    The coupling also pulls h_l towards what g_{l+1} fails to reconstruct. In the form of
    difference target propagation (`difference`) that error cancels, and what comes down is no more
    than the displacement of h_{l+1}, such as a label's:

        h_l <- .. + alpha (g_{l+1}(h_{l+1}) - g_{l+1}(f_{l+1}(h_l)))

    It mirrors Eq. 12: where f_{l+1} is a posterior mean, the bracket is sigma_{l+1}^2 times the
    gradient of log p(h_{l+1} | h_l) for h_l, whatever the covariance of h_{l+1} given h_l.
    Source: Bengio et al. 2015, Algorithm 2, INFERENCE; section 8 for clamped pixels, section 9 for
    labels; Eq. 8 and 12. The difference is that of Lee et al. 2014, section 2.2.

    Args:
        steps: N; the paper's 15.
        delta: step along Eq. 12; the paper's 0.1.
        alpha: coupling to the layer above; the paper's 0.001 in training and 0.3 in GENERATE.
        temperature: T of optional Langevin noise, in units of S_l.
        use_prior: include log p(h_L), the stack's prior; Algorithm 2 leaves it out.
        label_weight: of y beside x, where the stack has labels; 0 leaves y free.
        difference: of the coupling, see above; Algorithm 2 is without.

    Raises:
        ValueError: for negative numbers; when called, for discrete units, or a prior that is not
            fitted or has no density, under `use_prior`.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> [tuple(h.shape) for h in TargetPropInference(steps=3)(stack, torch.rand(2, 8))]
        [(2, 8), (2, 6), (2, 4)]
    """

    def __init__(
        self,
        steps: int = 15,
        delta: float = 0.1,
        alpha: float = 0.001,
        temperature: float = 0.0,
        use_prior: bool = False,
        label_weight: float = 1.0,
        difference: bool = False,
    ) -> None:
        super().__init__(steps, delta, temperature)
        self.alpha = checks.at_least("alpha", alpha, 0.0)
        self.use_prior = use_prior
        self.label_weight = checks.at_least("label_weight", label_weight, 0.0)
        self.difference = bool(difference)

    def begin(
        self,
        stack: Stack,
        h: Representations,
        mask: Tensor | None,
        generator: Generator | None,
        y: Tensor | None = None,
    ) -> Callable[[Representations], Representations]:
        x = h[0]
        maps = [packed(pair, x) for pair in stack.pairs]
        codes_of_x = _codes_of_x(stack.pairs[0].f, maps[0][0], x, mask)

        # g_l(h_l) for l > 1 serves twice: as top-down input of h_{l-1}, and in the next step's
        # f_l(g_l(h_l))
        down = {level: maps[level - 1][1](h[level]) for level in range(2, len(h))}

        of_label = None
        if y is not None:
            of_label = label_pull(cast(LabelledStack, stack), y)

        def step(h: Representations) -> Representations:
            new = list(h)
            expected = None  # g_{l+1}(f_{l+1}(h_l)), of the difference

            for level in range(stack.depth, 0, -1):
                f, g = maps[level - 1]

                if level > 1:
                    below = down[level]
                    seen = h[level - 1]
                    up = f(seen)
                    around = f(below)
                else:
                    below = g(h[1])
                    seen = fill(x, mask, below)
                    up, around = codes_of_x(seen, below)

                raised = self._raise(h[level], up, down.get(level + 1), expected)
                moved = raised.sub_(around, alpha=self.delta)
                if of_label is not None and level == stack.depth:
                    moved.add_(of_label(h[level]), alpha=self.label_weight * self.delta)
                new[level] = self._langevin(stack, level, h[level], seen, moved, generator)

                if level > 1:
                    down[level] = g(new[level])
                    expected = g(up) if self.difference else None

            return tuple(new)

        return step

    def _raise(
        self, h: Tensor, up: Tensor, from_above: Tensor | None, expected: Tensor | None
    ) -> Tensor:
        """h_l + delta f_l(h_{l-1}), and below the top the coupling.

        Args:
            h: h_l.
            up: f_l(h_{l-1}).
            from_above: g_{l+1}(h_{l+1}); None at the top.
            expected: what of it is no displacement, g_{l+1}(f_{l+1}(h_l)); h_l itself if None.
        """
        if from_above is None:
            return torch.add(h, up, alpha=self.delta)
        if expected is None:
            return torch.lerp(h, from_above, self.alpha).add_(up, alpha=self.delta)

        coupled = torch.add(h, from_above - expected, alpha=self.alpha)
        return coupled.add_(up, alpha=self.delta)

    def _langevin(
        self,
        stack: Stack,
        level: int,
        h: Tensor,
        seen: Tensor,
        moved: Tensor,
        generator: Generator | None,
    ) -> Tensor:
        """What moved, with the pull of p(h_L) at the top, and with noise."""
        pull = self.use_prior and level == stack.depth
        if self.temperature == 0.0 and not pull:
            return moved

        variance = stack.pairs[level - 1].recognition.variance(h, seen)
        if variance is None:
            variance = torch.ones_like(h)
        if pull:
            moved = torch.addcmul(moved, variance, stack.prior.score(h), value=self.delta)

        return self._diffuse(moved, generator, variance)


def _codes_of_x(layer: Layer, f: Map, x: Tensor, mask: Tensor | None) -> CodesOfX:
    """(x filled in by g_1(h_1), g_1(h_1)) -> f_1 of both, what never changes computed once.

    That is f_1(x) while all of x is clamped, and W^v x^v where the same pixels are in all rows and
    the layer is affine: of x filled in and g_1(h_1), W^m g_1^m(h_1) is the same.

    Args:
        layer: f_1.
        f: its function, of packed products perhaps.
        x: observation, (batch, width).
        mask: True where x is observed; None if all of it is.
    """
    if mask is None:
        from_x = f(x)  # h_1 may be another code
        return lambda seen, below: (from_x, f(below))

    common = _common_row(mask)
    if common is None or type(layer) is not Affine or layer.receives != "real":
        return lambda seen, below: (f(seen), f(below))

    observed = common.nonzero().squeeze(1)
    missing = (~common).nonzero().squeeze(1)
    x_observed = x[:, observed]
    of_observed = product(layer.weight[:, observed], layer.bias, x_observed)
    of_missing = product(layer.weight[:, missing], None, x[:, missing])
    s = IN_PLACE[layer.activation]
    from_x = of_observed(x_observed)

    def codes(seen: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        from_missing = of_missing(below[:, missing])
        around = of_observed(below[:, observed]).add_(from_missing)
        up = from_missing.add_(from_x)

        return s(up), s(around)

    return codes


def _common_row(mask: Tensor) -> Tensor | None:
    """The row that all rows of a mask are equal to; None if they differ."""
    if mask.ndim == 1:
        return mask
    if len(mask) > 0 and bool((mask == mask[0]).all()):
        return mask[0]
    return None


@register
class GradientInference(Inference):
    """Algorithm 1: all layers move along the exact gradient of J.

    J = log p(x, h) + q_weight log q(h | x), so that

    h_l <- h_l + delta d/dh_l [ log p(h_{l-1} | h_l) p(h_l | h_{l+1})
                                + q_weight log q(h_l | h_{l-1}) q(h_{l+1} | h_l) ]

    Where laws are Gaussian and q_weight is 0 this is predictive coding: an error of prediction
    pulls at each code, and the errors of what the code predicts push it back through g_l,

        h_l <- h_l + delta (J_l' e_{l-1} - e_l),   e_l = (h_l - g_{l+1}(h_{l+1})) / sigma_{l+1}^2

    with J_l = dg_l/dh_l, and e_L = 0 without the prior. With temperature 1 and `use_prior` it is
    its Monte Carlo form, whose noise makes codes draws of p(h | x). `VariationalEMRule(stack,
    inference=GradientInference())` then learns from the same errors, each layer from its own.

    With `every_q`, log q becomes the mean over the iterates' laws q_0 .. q_t, where q_t (t > 0) is
    the product of N(h_l; h_l after t updates, I): h is kept where inference can reach it. The
    paper only says that "a reasonable variant" encourages all q_t to generate h; this reading is
    ours.
    Source: Bengio et al. 2015, Algorithm 1, Eq. 6 and 8 (alpha there is `q_weight` here); Rao and
    Ballard 1999 for predictive coding; Oliviers, Bogacz and Meulemans 2024 for its Monte Carlo
    form.

    Args:
        steps: number T of updates.
        delta: step size.
        q_weight: weight of log q; 0 climbs the joint likelihood (MAP).
        every_q: reward all q_t, not only q_0.
        use_prior: include log p(h_L); training and Figure 4 leave it out.
        temperature: T of optional Langevin noise; 1 samples the law that log p(x, h) is of.
        label_weight: of log p(y | h_L), which joins J where the stack has labels; 0 leaves y free.

    Raises:
        ValueError: for negative numbers; when called, for discrete units, or a prior that is not
            fitted or has no density, under `use_prior`.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> stack, x = deep_autoencoder([8, 6, 4]), torch.rand(2, 8)
        >>> steps = list(GradientInference(steps=5).trajectory(stack, x))
        >>> first, last = (stack.log_joint(steps[i], prior=False) for i in (0, 5))
        >>> bool((last > first).all())
        True
    """

    def __init__(
        self,
        steps: int = 15,
        delta: float = 0.1,
        q_weight: float = 0.0,
        every_q: bool = False,
        use_prior: bool = False,
        temperature: float = 0.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(steps, delta, temperature)
        self.label_weight = checks.at_least("label_weight", label_weight, 0.0)
        self.q_weight = checks.at_least("q_weight", q_weight, 0.0)
        self.every_q = every_q
        self.use_prior = use_prior

    def objective(
        self, stack: Stack, h: Representations, iterates: list[Representations]
    ) -> Tensor:
        """J of Eq. 6 for each example, in nats, (batch,)."""
        j = stack.log_joint(h, prior=self.use_prior)
        if self.q_weight == 0.0:
            return j

        log_q = [stack.log_q(h)]
        if self.every_q:
            log_q += [_log_near(h, past) for past in iterates]

        return j + self.q_weight * torch.stack(log_q).mean(0)

    def begin(
        self,
        stack: Stack,
        h: Representations,
        mask: Tensor | None,
        generator: Generator | None,
        y: Tensor | None = None,
    ) -> Callable[[Representations], Representations]:
        x = h[0]
        iterates: list[Representations] = []
        move = self._mover()

        def step(h: Representations) -> Representations:
            # inference_mode(False): Trainer.test runs in inference mode, where autograd is off
            with torch.inference_mode(False), torch.enable_grad():
                free = [layer.detach().clone().requires_grad_() for layer in h[1:]]
                seen = fill(x, mask, stack.pairs[0].g(free[0]).detach()).clone()

                total = self.objective(stack, (seen, *free), iterates).sum()
                if y is not None:
                    log_p = label_log_prob(cast(LabelledStack, stack), y, free[-1])
                    total = total + self.label_weight * log_p.sum()
                gradients = torch.autograd.grad(total, free)

            new = [x]
            for level, (layer, gradient) in enumerate(zip(free, gradients, strict=True), 1):
                new.append(move(level, layer.detach(), gradient, generator))

            if self.every_q:
                iterates.append(tuple(new))

            return tuple(new)

        return step

    def _mover(self) -> Move:
        """(l, h_l, dJ/dh_l, generator) -> h_l after an update; it may remember what it saw."""

        def move(level: int, h: Tensor, gradient: Tensor, generator: Generator | None) -> Tensor:
            return self._diffuse(h + self.delta * gradient, generator)

        return move


@register
class LangevinInference(GradientInference):
    """Draws of p(h | x) by Langevin steps, each unit's as long as its slopes allow.

    h_l <- h_l + delta P_l dlog p(x, h) / dh_l + sqrt(2 delta T P_l) N(0, I)
    P_l = 1 / (floor + rms of dlog p / dh_l over the first `adapt` steps), unit by unit

    Where P stays, the steps leave exp(log p(x, h) / T) as it is, but for the step: of a linear
    Gaussian stack, whose posterior has the precision A, the covariance in the end is the inverse
    of A - (delta / 2) A P A at T = 1, and the mean is exact. So P is learned for `adapt` steps and
    kept for the others, where the sources keep a moving mean of squares and drop the term that
    this calls for.
    Source: Zahid, Guo and Fountas 2024, "Sample as you infer", for predictive coding with noise
    and such a P, after Li et al. 2016; Oliviers, Bogacz and Meulemans 2024 without P.

    Args:
        steps: number of updates.
        delta: step size; with P, in units of h, the length of a step along a typical slope.
        adapt: steps over which P is learned; 0 for P = 1, which is `GradientInference`.
        floor: least slope that P is made of, in nats per unit of h.
        use_prior: include log p(h_L), without which the law of h is another.
        temperature: T; 0 climbs to the nearest maximum.
        label_weight: see `GradientInference`.

    Raises:
        ValueError: for negative numbers, a floor of 0, and steps that end before P stays; see
            `GradientInference`.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> stack, x = deep_autoencoder([8, 6, 4]), torch.rand(2, 8)
        >>> h = LangevinInference(steps=5, adapt=2, use_prior=False)(stack, x)
        >>> [tuple(layer.shape) for layer in h]
        [(2, 8), (2, 6), (2, 4)]
    """

    def __init__(
        self,
        steps: int = 30,
        delta: float = 0.1,
        adapt: int = 10,
        floor: float = 0.1,
        use_prior: bool = True,
        temperature: float = 1.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(
            steps,
            delta,
            use_prior=use_prior,
            temperature=temperature,
            label_weight=label_weight,
        )

        self.adapt = checks.whole("adapt", adapt, 0, checks.REPEATS)
        if 0 < self.adapt >= self.steps:
            raise ValueError(
                f"adapt={adapt}, steps={steps}: P never stays, and the draws have another law; "
                "accepted: steps > adapt, or adapt=0"
            )

        self.floor = checks.at_least("floor", floor, 0.0, strict=True)

    def _mover(self) -> Move:
        squares: dict[int, Tensor] = {}
        seen: dict[int, int] = {}

        def move(level: int, h: Tensor, gradient: Tensor, generator: Generator | None) -> Tensor:
            if self.adapt == 0:
                return self._diffuse(h + self.delta * gradient, generator)

            times = seen.get(level, 0)
            if times < self.adapt:
                squares[level] = squares.get(level, torch.zeros_like(h)) + gradient.square()
                seen[level] = times + 1

            rms = (squares[level] / seen[level]).sqrt()
            p = 1.0 / (self.floor + rms)
            return self._diffuse(h + self.delta * p * gradient, generator, p)

        return move


def _log_near(h: Representations, past: Representations) -> Tensor:
    """log N(h_1 .. h_L; h_1 .. h_L of the past, I) in nats, (batch,)."""
    terms = (
        torch.distributions.Normal(centre, 1.0).log_prob(layer).sum(-1)
        for layer, centre in zip(h[1:], past[1:], strict=True)
    )
    return cast(Tensor, sum(terms))
