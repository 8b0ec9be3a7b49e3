"""When P(h_L) is fitted, and on which codes: the last lines of TRAIN (2015, Algorithm 2).

A prior of p(h_L | c) is fitted on codes and what they are conditioned on. Both travel as one row,
(h_L, c), for each example.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendae.data.loader import Split
from gendae.priors.base import Prior
from gendae.rules import batches
from gendae.rules.moment import Moment
from gendae.rules.processes import like_parameters

if TYPE_CHECKING:
    from gendae.rules.shell import Shell

MEMORY = 5000  # latest codes on which a prior is fitted in the middle of training
WIDTHS = 5000  # most examples on which residuals are measured
EXAMPLES = 200_000  # most examples of each process on whose codes a prior is fitted after an epoch


class PriorFit:
    """Keeps a rule's priors in step with its codes.

    Args:
        every: updates between two fits on the latest codes, of a prior that the losses use; 0
            leaves such a prior as it is until the next validation.

    Attributes:
        recent: latest codes, with what they are conditioned on, (n, features).
        step: number of updates at the latest fit on all codes; -1 before it.
    """

    def __init__(self, every: int = 0) -> None:
        self.every = every
        self.begin()

    def begin(self, recent: Tensor | None = None, step: int = -1) -> None:
        """Start from nothing, or from where an earlier training was."""
        self.recent = recent
        self.step = step

    @torch.no_grad()
    def follow(self, rule: "Shell", batch: Sequence[Tensor], prior: Prior, moment: Moment) -> None:
        """Fit a prior on the latest codes where that is due; one that was never fitted, always."""
        if prior.fitted and (self.every == 0 or prior.fixed):
            return

        codes = rule.of_all_ranks(_rows(rule, prior, batch[0], batch))
        earlier = codes[:0]
        if self.recent is not None:
            earlier = self.recent.to(codes)
        self.recent = torch.cat([earlier, codes])[-MEMORY:]

        if self._due(moment) or not prior.fitted:
            _fit(rule, prior, self.recent)

    def _due(self, moment: Moment) -> bool:
        if self.every == 0 or moment.update is None:
            return False

        return moment.update % self.every == 0

    @torch.no_grad()
    def fit(self, rule: "Shell", batches: Iterable[Sequence[Tensor]]) -> None:
        """Fit P(h_L) on the codes of all batches, and residuals of P(h_l | h_L) on the first ones.

        Of very large data the first `EXAMPLES` of their (random) order are taken. Under DDP the
        codes are those of all processes.

        Raises:
            ValueError: where there are no batches, or no example has all of its modalities.
        """
        first, codes = self._encoded(rule, batches)
        if first is None:
            raise ValueError(
                "the training data gave no batches: the prior is fitted on the codes of one more "
                "pass through them"
            )

        first = rule.of_all_ranks(first)
        codes = rule.of_all_ranks(codes)
        if len(first) == 0:
            raise ValueError(
                "no training example is complete: the prior is fitted on codes of examples of "
                "which all modalities are observed"
            )

        _fit(rule, rule.stack.prior, codes)
        rule.fit_residuals(first[:WIDTHS])  # whose noise may be the prior's bandwidth

    def _encoded(
        self, rule: "Shell", batches: Iterable[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """x of the first batches, and all batches' codes; None without batches."""
        first: list[Tensor] = []
        codes: list[Tensor] = []
        for batch in batches:
            if sum(map(len, codes)) >= EXAMPLES:
                break

            x = rule.examples(like_parameters(rule.stack, batch))
            if sum(map(len, first)) < WIDTHS:
                first.append(x)
            if len(x) > 0:
                append_in_few(codes, _rows(rule, rule.stack.prior, x, batch))

        if not first:
            return None, None

        x = torch.cat(first)
        if not codes:  # a process may have none
            return x, x.new_empty(0, _width(rule, rule.stack.prior))

        return x, torch.cat(codes)


def _rows(rule: "Shell", prior: Prior, x: Tensor, batch: Sequence[Tensor]) -> Tensor:
    """Codes of x, with what the prior conditions them on, if it does, (n, features)."""
    codes = rule.codes(x)
    if prior.condition is None:
        return codes

    labels = Split.of(batch).y
    given = rule.stack.condition(prior.condition.name, x, labels)

    return torch.cat([codes, prior.condition.values(given).to(codes)], 1)


def _width(rule: "Shell", prior: Prior) -> int:
    """The width of `_rows`."""
    condition = 0 if prior.condition is None else prior.condition.width
    return rule.stack.sizes[-1] + condition


def _fit(rule: "Shell", prior: Prior, rows: Tensor) -> None:
    """Fit a prior; where its codes are of no use, the data are asked why."""
    width = rule.stack.sizes[-1]
    conditions = None if prior.condition is None else rows[:, width:]
    try:
        prior.fit(rows[:, :width], conditions)
    except ValueError as error:
        cause = batches.cause(rule)
        if cause is None:
            raise
        raise ValueError(f"{error}; {cause}") from None


def append_in_few(tensors: list[Tensor], new: Tensor) -> None:
    """Append rows to a list of tensors, joining the last ones so that few large tensors remain.

    Many small ones between those of the batches would keep freed memory from being used again.
    """
    tensors.append(new)
    while len(tensors) > 1 and len(tensors[-2]) <= len(tensors[-1]):
        tensors[-2:] = [torch.cat(tensors[-2:])]
