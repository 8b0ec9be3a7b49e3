"""p(h_L | c): a denoiser of codes that is told what they are conditioned on.

c is a label, or the code of a given modality. The networks see (m c, m), where the bit m says
whether c is given, as a junction's missingness input does. Training hides c now and then, so that
one network knows p(h | c) and p(h); between and beyond them leads guidance w:

    D_w(z; s, c) = D(z; s, c) + w (D(z; s, c) - D(z; s))

w = 0 samples p(h | c). w > 0 leaves the law for likelier codes of c, of less spread: its scores
are those of p_s(h | c) (p_s(c | h))^w, whose levels belong to no one law.
Source: Ho and Salimans 2022, Eq. 6; Bengio 2014, section 3 (conditionals of a joint model).
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.priors.denoising import DenoisingPrior
from gendae.priors.descents import Descent
from gendae.priors.fitting import AveragedLearning, Fitting
from gendae.priors.flow import Flow
from gendae.priors.levels import Levels
from gendae.registry import built, register

#: Most different conditions that are kept, of which samples of P(h) are drawn.
MET = 500


@register
@dataclass(frozen=True)
class Condition:
    """What codes are conditioned on, and how training and sampling use it.

    Args:
        width: number of classes of a label, or of units of a modality's code, whose values are to
            be of order 1.
        name: the label of a data set ("label"), or the modality of a joint stack.
        dropout: chance that an update of training hides c.
        guidance: w, how far samples go beyond p(h | c); 0 is p(h | c).

    Raises:
        ValueError: for a width below 1, a dropout outside [0, 1], or a guidance below -1.

    Example:
        >>> condition = Condition(3)
        >>> condition.rows(condition.values(torch.tensor([2, -1])))
        tensor([[0., 0., 1., 1.],
                [0., 0., 0., 0.]])
    """

    width: int = 10
    name: str = "label"
    dropout: float = 0.1
    guidance: float = 0.0

    def __post_init__(self) -> None:
        checks.whole("width", self.width, 1)
        checks.kind("name", self.name, str)
        checks.share("dropout", self.dropout)
        checks.at_least("guidance", self.guidance, -1.0)

    def values(self, given: Tensor) -> Tensor:
        """c of each example, (n, width); a row of NaN where it is missing.

        Args:
            given: class indices, (n,), -1 where there is none, or numbers, (n, width).

        Raises:
            ValueError: for other classes and widths, and values that are infinite.
        """
        if given.ndim != 1 or given.is_floating_point():
            values = checks.width(self.name, given, self.width)
            checks.finite(self.name, values.nan_to_num())
            return values

        labels = checks.labels(self.name, given, len(given), self.width, missing=True)
        rows = nn.functional.one_hot(labels.clamp_min(0), self.width)
        missing = labels[:, None] == -1

        return rows.to(torch.get_default_dtype()).masked_fill(missing, torch.nan)

    def rows(self, values: Tensor) -> Tensor:
        """(m c, m) of each example, (n, width + 1)."""
        there = ~values.isnan().any(1, keepdim=True)
        return torch.cat([torch.where(there, values, 0.0), there.to(values)], 1)


@register
class ConditionalDenoisingPrior(DenoisingPrior):
    """P(h | c) by a denoiser of codes at every level of noise, and P(h) by the same networks.

    `given(c)` is the law given c, with all that a prior does. The prior itself is P(h): it draws
    samples given draws of c, from what training met, and to denoise a code its networks are told
    nothing. A rule's fit hands over the labels of the data, or of a joint stack the modality that
    `condition` names; `fit(codes, conditions)` takes them by hand.

    Args:
        condition: c; a label of ten classes if None.
        network, levels, learning, descent, flow, coordinates, blocks, noise: see `DenoisingPrior`;
            a network is called as F(z, ln s / 4, (m c, m)).

    Raises:
        ValueError: see `DenoisingPrior`; from `fit`, without conditions, or for others than
            `condition` says.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> label = torch.arange(600) % 2
        >>> codes = 6.0 * label[:, None] - 3.0 + torch.randn(600, 2, generator=g)
        >>> learning = AveragedLearning(20, lr=3e-3, batch_size=100, average=0.9)
        >>> prior = ConditionalDenoisingPrior(Condition(2), learning=learning)
        >>> ones = prior.fit(codes, label).given(1).sample(100, g)
        >>> (ones > 0).float().mean() > 0.95
        tensor(True)
    """

    condition: Condition
    met: Tensor
    shares: Tensor

    def __init__(
        self,
        condition: Condition | None = None,
        network: nn.Module | None = None,
        levels: Levels | None = None,
        learning: AveragedLearning | None = None,
        descent: Descent | None = None,
        flow: Flow | None = None,
        coordinates: str = "units",
        blocks: int = 1,
        noise: float | None = None,
    ) -> None:
        super().__init__(network, levels, learning, descent, flow, coordinates, blocks, noise)
        self.condition = built("condition", condition or Condition(), Condition)
        self.known: Tensor | None = None

        self.register_buffer("met", torch.empty(0))
        self.register_buffer("shares", torch.empty(0))

    @property
    def condition_width(self) -> int:
        """Width of (m c, m)."""
        return self.condition.width + 1

    @property
    def dropout(self) -> float:
        """Chance that an update of training hides c."""
        return self.condition.dropout

    def given(self, c: int | Tensor, guidance: float | None = None) -> "ConditionalDenoisingPrior":
        """The law of h given c, with the same networks.

        Args:
            c: a class, or one row of numbers for all codes, (1, width), or one for each of the
                codes that are asked of it, (n, width); class indices, (n,).
            guidance: w; that of `condition` if None.

        Raises:
            ValueError: before `fit`; for an unknown class, another width, or a guidance below -1.
        """
        self.require_fitted()
        values = self.condition.values(c if isinstance(c, Tensor) else torch.tensor([c]))

        law = copy.copy(self)
        law.known = self.condition.rows(values).to(self.center)
        if guidance is not None:
            law.condition = replace(self.condition, guidance=guidance)

        return law

    def told_of(self, codes: Tensor, conditions: Tensor | None = None) -> Tensor:
        """(m c, m) of each code, (n, width + 1): of those of a fit, or of what is known."""
        if conditions is not None:
            values = self.condition.values(conditions)
            if len(values) != len(codes):
                raise ValueError(
                    f"conditions has {len(values)} rows, and codes {len(codes)}: one for each"
                )
            return self.condition.rows(values).to(codes)

        if self.known is None:
            return codes.new_zeros(len(codes), self.condition_width)

        if len(self.known) not in (1, len(codes)):
            raise ValueError(
                f"{self.condition.name} is given in {len(self.known)} rows, and the codes are "
                f"{len(codes)}: one row is needed, or one for each"
            )
        return self.known.to(codes).expand(len(codes), -1)

    def begin(self, codes: Tensor, conditions: Tensor | None = None) -> Fitting:
        """See `DenoisingPrior.begin`.

        Raises:
            ValueError: as from `fit`.
        """
        if conditions is None:
            raise ValueError(
                f"ConditionalDenoisingPrior learns from codes and conditions: fit(codes, "
                f"{self.condition.name})"
            )

        return super().begin(codes, conditions)

    def measure(self, codes: Tensor, told: Tensor) -> None:
        """The same, and which conditions there are."""
        super().measure(codes, told)

        self.met, counts = told.unique(dim=0, return_counts=True)
        if len(self.met) > MET:
            generator = torch.Generator().manual_seed(self.learning.seed)
            rows = torch.randperm(len(told), generator=generator)[:MET]
            self.met = told[rows.to(told.device)]
            counts = torch.ones(MET, device=told.device)
        self.shares = (counts / counts.sum()).to(codes)

    def estimate_given(self, codes: Tensor, conditions: Tensor) -> None:
        self.estimate(codes, conditions)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features): given what is known, or else draws of what training met."""
        if self.known is not None:
            return super().sample(n, generator)

        self.require_fitted()
        rows = torch.multinomial(self.shares.cpu(), n, replacement=True, generator=generator)
        law = copy.copy(self)
        law.known = self.met[rows.to(self.met.device)]

        return law.sample(n, generator)

    def denoise(self, z: Tensor, level: float) -> Tensor:
        """D_w(z; s, c), standardised as z is, (batch, features)."""
        clean = super().denoise(z, level)
        if self.known is None or self.condition.guidance == 0.0:
            return clean

        nothing = z.new_zeros(len(z), self.condition_width)
        return clean + self.condition.guidance * (clean - self.denoiser(z, level, nothing))
