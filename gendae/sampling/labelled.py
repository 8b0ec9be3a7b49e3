"""Samples of one class: GENERATE with the label clamped."""

from typing import cast

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.inference import Inference, Representations
from gendae.models.labelled import LabelledStack
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.sampling.samplers import GenerateSampler


@register
class LabelledSampler(GenerateSampler):
    """GENERATE of a `LabelledStack` with y clamped: K rounds of INFERENCE(x, y) and x = g_1(h_1).

    The start is a draw from p(h_L) p(y | h_L): each sample is chosen, by p(y | h_L), among several
    of the prior.
    Source: Bengio et al. 2015, Algorithm 2, GENERATE, with the label of section 9.

    Args:
        label: the class.
        rounds: K.
        inference: INFERENCE with the alpha of generation; TargetPropInference(alpha=0.3) if None.
        candidates: samples of the prior among which a start is chosen.

    Raises:
        ValueError: when called, for a stack without labels, or a class that it does not have.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder, with_labels
        >>> stack = with_labels(deep_autoencoder([8, 6, 4]), classes=3)
        >>> _ = stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
        >>> LabelledSampler(label=2)(stack, 5).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        label: int = 0,
        rounds: int = 3,
        inference: Inference | None = None,
        candidates: int = 50,
    ) -> None:
        super().__init__(rounds, inference)
        self.label = checks.whole("label", label, 0)
        self.candidates = checks.whole("candidates", candidates, 1, checks.REPEATS)

    def check(self, stack: Stack) -> None:
        super().check(stack)
        if not isinstance(stack, LabelledStack):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"sampler=LabelledSampler: {type(stack).__name__} has no labels; accepted: a "
                "LabelledStack"
            )
        checks.labels("label", torch.tensor([self.label]), 1, stack.classes)

    def start(self, stack: Stack, codes: Tensor, generator: Generator | None) -> Representations:
        pool = [codes]
        while len(pool) < self.candidates:
            pool.append(stack.prior.sample(len(codes), generator).to(codes))

        several = torch.stack(pool, 1)
        fit = (
            cast(LabelledStack, stack)
            .label.g(several)[..., self.label]
            .clamp_min(torch.finfo(codes.dtype).tiny)
        )
        chosen = torch.multinomial(fit.cpu(), 1, generator=generator).to(codes.device)

        rows = torch.arange(len(codes), device=codes.device)
        return super().start(stack, several[rows, chosen[:, 0]], generator)

    def step(
        self, stack: Stack, h: Representations, generator: Generator | None
    ) -> Representations:
        classes = torch.full((len(h[0]),), self.label, device=h[0].device)
        y = cast(LabelledStack, stack).label_rows(classes)
        h = self.inference(stack, h[0], generator=generator, y=y)

        return (stack.pairs[0].g(h[1]), *h[1:])
