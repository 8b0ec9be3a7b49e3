"""The importance-weighted auto-encoder: the bound of K draws, by back-propagation through them.

L_K = E log (1/K) sum_k p(x, h^k) / q(h^k | x),    h^k ~ q(h | x)

L_1 is the bound of the variational auto-encoder, L_K <= L_{K+1} <= log p(x), and L_K -> log p(x).
Source: Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", Eq. 8.
"""

import math

from torch import Generator, Tensor

from gendae.metrics.bounds import draw_q
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.rates import Rates
from gendae.rules.wake_sleep import DirectedRule


@register
class ImportanceWeightedRule(DirectedRule):
    """A reference that is not local: -L_K of the whole stack, by back-propagation.

    bound_L: -log (1/K) sum_k p(x, h^k) / q(h^k | x),  h^k_l = f_l(h^k_{l-1}) + sigma_l e^k_l

    Gradients reach all layers, through the draws. K = 1 is the variational auto-encoder, with the
    divergence of q and prior taken at the draw; `KLRule` of one pair with alpha=1, under a fixed
    prior, is the same in expectation, and has that term in closed form. For units whose draws have
    no derivative, `ReweightedWakeSleepRule` weighs the same draws.
    Source: Burda et al. 2016, Eq. 8 and 13; Kingma and Welling 2014 for K = 1.

    Args:
        stack: the model; its codes are Gaussian, such as `noise=0.5` of `deep_autoencoder`. Under
            GaussianPrior("identity", 1) it is the usual model; any other prior with a density is
            fitted on draws.
        samples: number K of draws for each example.
        rates, log_every, prior_every: see `Rule`.

    Raises:
        ValueError: for layers of deterministic or discrete units, and a prior without a density.

    Example:
        >>> import torch
        >>> from gendae.models.architectures import deep_autoencoder
        >>> from gendae.priors.gaussian import GaussianPrior
        >>> stack = deep_autoencoder([8, 4], ["linear"], noise=0.5, observation="bernoulli",
        ...                          prior=GaussianPrior("identity", 1.0))
        >>> list(ImportanceWeightedRule(stack).losses((torch.rand(10, 8),)))
        ['bound_1']
    """

    def __init__(
        self,
        stack: Stack,
        samples: int = 5,
        rates: Rates = Rates(),
        log_every: int = 50,
        prior_every: int = 500,
    ) -> None:
        super().__init__(stack, samples, rates, log_every, prior_every)

        for level, pair in enumerate(self.stack.pairs, 1):
            laws = [law for law, _ in pair.recognition.blocks(pair.f.out_features)]
            if any(law.discrete for law in laws):
                raise ValueError(
                    f"recognition={type(pair.recognition).__name__} of pair {level}: draws of "
                    "discrete units have no derivative; accepted: Gaussian laws, or "
                    "ReweightedWakeSleepRule"
                )

    def terms(self, x: Tensor, generator: Generator | None) -> dict[str, Tensor]:
        h, log_q = draw_q(self.stack, x, self.samples, generator)
        log_weights = (self.stack.log_joint(h) - log_q).view(-1, self.samples)
        bound = log_weights.logsumexp(1) - math.log(self.samples)

        return {f"bound_{self.stack.depth}": -bound.mean()}
