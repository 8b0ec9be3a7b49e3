"""Inpainting: completion of x whose rounds call INFERENCE (2015, section 8, Figure 5).

x^v are the observed pixels, x^m the missing ones.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from gendae import checks
from gendae.completion.chain import ClampedChain, Completion
from gendae.completion.moves import likeliest_draws
from gendae.corruption import uniform_like
from gendae.inference import Inference, Representations, TargetPropInference, fill
from gendae.models.joint import channels_of, kind_of
from gendae.models.stack import Stack
from gendae.registry import Plain, build, register
from gendae.sampling.samplers import BATCH, seeded

BEGIN = ("auto", "prior", "noise")
#: Draws of the model, at the likeliest of which a chain starts.
DRAWS = 200


@register
class Inpainter(checks.TakesArrays):
    """Filling in missing pixels by clamped inference.

    Each of K rounds calls INFERENCE, in which x presses on h_1 by f_1(x^v, g_1^m(h_1)) -
    f_1(g_1(h_1)), and then sets the missing pixels to those of g_1(h_1).
    Source: Bengio et al. 2015, section 8, Figure 5 (K = 20).

    The paper runs one chain, whose missing pixels start as noise: it ends in one way to complete
    the image. The mean of several chains estimates E[x^m | x^v], which is closer in squared error.
    Chains differ by where they start: from noise, or each from a draw of the model, h_L ~ p(h_L)
    decoded to x, the likeliest given x^v among draws of its own. The latter are spread as
    P(x^m | x^v) is from the beginning, so that few steps without noise do; that is the default,
    its numbers chosen on validation images of MNIST. Neither is a sample: x^m is set to the mean
    of P(x | h_1), and inference climbs under a flat P(h_L), so that chains differ by less than
    images do. `Completer.mcmc` draws samples of P(x^m | x^v).

    `Inpainter(20, TargetPropInference(15, 0.3, 0.3), chains=1)` is the paper's.

    Args:
        rounds: K.
        inference: INFERENCE; TargetPropInference(4, 1.8, 0.3) if None.
        chains: number of chains averaged; the time is proportional to it.
        level: representation from which missing pixels are decoded; None is the top.
        begin: where missing pixels start: "prior", at a draw of the model; "noise", uniform in
            [0, 1]; "auto": at the prior where it is fitted, as noise elsewhere. None: "auto" with
            the default `inference`, made for it, and "noise", as in Figure 5, with one given.

    Raises:
        ValueError: for a negative number of rounds, no chain or an unknown start; when called, for
            a start at a prior that is not fitted.
    """

    ARRAYS = ("__call__",)

    def __init__(
        self,
        rounds: int = 1,
        inference: Inference | None = None,
        chains: int = 16,
        level: int | None = 1,
        begin: str | None = None,
    ) -> None:
        self.rounds = checks.whole("rounds", rounds, 0, checks.REPEATS)
        self.inference = build(inference) or TargetPropInference(4, 1.8, 0.3)
        self.chains = checks.whole("chains", chains, 1, checks.REPEATS)
        self.level = level

        if begin is None:
            begin = "auto" if inference is None else "noise"
        self.begin = checks.one_of("begin", begin, BEGIN)

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        """Arguments of earlier versions, whose chains all started as noise."""
        return {"begin": "noise", **arguments}

    @classmethod
    def encode_decode(cls, rounds: int = 20, chains: int = 8) -> "Inpainter":
        """Rounds of encoding to the top and decoding, without inference.

        Source: Bengio 2014, section 7.5 (deterministic MAP).
        """
        return cls(rounds, TargetPropInference(steps=0), chains, level=None)

    @property
    def effort(self) -> list[tuple[int, str]]:
        """How much of what an image takes; its time is proportional to the product."""
        steps = self.inference.steps
        return [(self.chains, "chain"), (self.rounds, "round"), (steps, "step of inference")]

    @property
    def states(self) -> int:
        """How many states `trajectory` gives."""
        return 1 + self.rounds * (self.inference.steps + 1)

    def check(self, stack: Stack) -> None:
        """Raise a ValueError for a stack whose representations inference cannot move."""
        if self.rounds > 0:
            self.inference.check(stack, "inpainter.inference")

    def clamped_level(self, stack: Stack) -> int:
        """0: x is clamped, whatever level it is decoded from."""
        return 0

    def __call__(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        observed: Tensor | None = None,
        generator: Generator | None = None,
        draws: Tensor | None = None,
    ) -> Completion:
        """The mean of the chains, (batch, width); observed elements are returned as given.

        Args:
            stack: the model.
            x: (batch, width); the values of missing elements are ignored.
            mask: True where an element is observed, broadcast against x.
            observed: not used; completers take it, whose start depends on it.
            generator: source of noise.
            draws: those of the model at which chains may start, see `draws`; new ones if None.
        """
        start, given, clamped = self._clamped(stack, x, mask, generator, draws)

        def step(x: Tensor, temperature: float) -> Tensor:
            return self.step(stack, x, clamped, generator)

        chain = ClampedChain(step, temperatures=[0.0] * self.rounds)
        ends = chain(start, given, clamped)
        mean = ends.mean_over(self.chains)

        return mean._replace(h=fill(x, mask, mean.h))

    @torch.no_grad()
    def trajectory(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
        draws: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The mean of the chains at the start and after each step of INFERENCE, (batch, width).

        A round has N + 1 of them, the first from the feed-forward guess. The last is what a call
        with the same arguments gives.
        """
        state, given, clamped = self._clamped(stack, x, mask, generator, draws)
        state = fill(given, clamped, state)
        yield self._mean(state, x, mask)

        for _ in range(self.rounds):
            for h in self.inference.trajectory(stack, state, clamped, generator):
                new = fill(given, clamped, self._decoded(stack, h))
                yield self._mean(new, x, mask)

            state = new

    def _mean(self, chains: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """The mean of the chains, with observed elements as given."""
        return fill(x, mask, chains.view(self.chains, *x.shape).mean(0))

    def _clamped(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        generator: Generator | None,
        draws: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of all chains: the start, what is given, and where; see `__call__`."""
        if draws is None:
            draws = self.draws(stack, generator)

        given, clamped = self._repeated(x, mask)
        if draws is None:
            start = uniform_like(given, generator)
        else:
            start = likeliest_draws(stack, given, clamped, draws, self.chains)

        return start, given, clamped

    def _repeated(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What is given, and where, of all chains."""
        mask = mask.expand_as(x)
        given = x.masked_fill(~mask, 0.0)

        return given.repeat(self.chains, 1), mask.repeat(self.chains, 1)

    @torch.no_grad()
    def draws(self, stack: Stack, generator: Generator | None = None) -> Tensor | None:
        """Draws of the model at which chains may start, (chains * DRAWS, width); None for noise.

        They take the time of a few images, and serve any number of them.
        """
        begin = self.begin
        if begin == "auto":
            begin = "prior" if stack.prior.fitted else "noise"

        if begin == "noise":
            return None

        stack.prior.require_fitted()
        return stack.decode(stack.prior.sample(self.chains * DRAWS, generator))

    def step(self, stack: Stack, x: Tensor, mask: Tensor, generator: Generator | None) -> Tensor:
        """INFERENCE under the clamp, and x decoded from its h_level."""
        return self._decoded(stack, self.inference(stack, x, mask=mask, generator=generator))

    def _decoded(self, stack: Stack, h: Representations) -> Tensor:
        """x from h_level."""
        level = stack.depth if self.level is None else self.level
        return stack.decode(h[level], level)


def inpainter_of(stack: Stack) -> Inpainter:
    """The stack's own inpainter; `Inpainter` where it has none, without steps if discrete."""
    if stack.settings.inpainter is not None:
        return stack.settings.inpainter

    return Inpainter.encode_decode() if stack.hard_levels else Inpainter()


@checks.takes_arrays
def inpaint(
    stack: Stack,
    x: Tensor,
    mask: Tensor,
    inpainter: Inpainter | None = None,
    seed: int | None = None,
    batch_size: int = BATCH,
    progress: bool = False,
) -> Tensor:
    """Images with their missing pixels filled in by clamped inference (2015, Figure 5).

    Args:
        stack: a trained stack.
        x: images, (n, features) in [0, 1], or other data; the values of missing pixels are
            ignored.
        mask: True, or 1, where a pixel is observed, (pixels,) or (n, pixels), or where a channel
            of it is, (features,) or (n, features); or with height and width in the place of
            pixels, behind the channels.
        inpainter: rounds and inference; the stack's own if None, see `inpainter_of`.
        seed: of the noise in which missing pixels start.
        batch_size: images times chains computed at a time.
        progress: show a bar on standard error, where that is a terminal.

    Returns:
        (n, features), in CPU memory; observed pixels exactly as given.

    Raises:
        ValueError: for a wrong width, pixels that are not finite or not in [0, 1], numbers of
            sequences that are not finite, or a mask that holds more than 0 and 1 or does not fit
            x.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> x, left = torch.rand(3, 8), torch.arange(8) < 4
        >>> y = inpaint(deep_autoencoder([8, 6, 4]), x, left, seed=0)
        >>> torch.equal(y[:, :4], x[:, :4]), y.shape
        (True, torch.Size([3, 8]))
    """
    x, mask = _masked(stack, x, mask)
    inpainter = inpainter or inpainter_of(stack)
    generator = seeded(checks.seed("seed", seed))
    draws = inpainter.draws(stack, generator)

    filled = []
    bar = tqdm(total=len(x), unit=" images", leave=False, disable=None if progress else True)
    rows = max(1, batch_size // inpainter.chains)
    for images, seen in zip(x.split(rows), mask.split(rows), strict=True):
        images = images.to(stack.device)
        seen = seen.to(stack.device)
        completion = inpainter(stack, images, seen, generator=generator, draws=draws)
        filled.append(completion.h.cpu())
        bar.update(len(images))

    bar.close()
    return torch.cat(filled)


def inpainting_steps(
    stack: Stack,
    x: Tensor,
    mask: Tensor,
    inpainter: Inpainter,
    seed: int | None = None,
    batch_size: int = BATCH,
) -> Tensor:
    """`inpaint` step by step, (steps + 1, n, pixels): what it gives is the last.

    Raises:
        ValueError: see `inpaint`; for more states than memory may hold.
    """
    x, mask = _masked(stack, x, mask)
    generator = seeded(seed)
    checks.fits("n", len(x), inpainter.states * x.numel())
    draws = inpainter.draws(stack, generator)

    batches = []
    rows = max(1, batch_size // inpainter.chains)
    for images, seen in zip(x.split(rows), mask.split(rows), strict=True):
        images = images.to(stack.device)
        states = inpainter.trajectory(stack, images, seen.to(stack.device), generator, draws)
        batches.append(torch.stack([state.cpu() for state in states]))

    return torch.cat(batches, 1)


def _masked(stack: Stack, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """x with 0 where it is missing, and the mask in its shape, both checked; see `inpaint`."""
    x = checks.width("x", x, stack.sizes[0])
    mask = checks.mask("mask", mask, len(x), x.shape[1], channels_of(stack)).expand_as(x)
    x = x.masked_fill(~mask, 0.0)
    check = checks.finite if kind_of(stack) in ("sequence", "whitened") else checks.pixels
    check("x", x)

    return x, mask


MASKS = ("left", "right", "top", "bottom", "random")


def named_mask(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Which elements are observed, (features,) boolean: one half of an image, or a random half.

    All channels of a pixel are, or none.

    Args:
        name: left, right, top, bottom: the half that is *given*; random: every second pixel on
            average.
        shape: of an image, see `checks.ImageShape`.
        seed: of the random mask.

    Raises:
        ValueError: for another name, and what is no shape or seed.

    Example:
        >>> named_mask("left", (2, 4)).view(2, 4).int().tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    channels, height, width = checks.ImageShape.of(shape)
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    noise = torch.rand(height, width, generator=seeded(checks.seed("seed", seed)))

    observed = {
        "left": columns < width // 2,
        "right": columns >= width // 2,
        "top": rows < height // 2,
        "bottom": rows >= height // 2,
        "random": noise < 0.5,
    }

    return observed[checks.one_of("mask", name, MASKS)].flatten().repeat(channels)
