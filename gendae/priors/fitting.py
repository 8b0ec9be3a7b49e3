"""How a denoiser learns: Adam on local denoising targets, one block of levels after the other.

Each block draws its own batches, levels and noise from its own seed, and changes its own network:
blocks can be trained in any order, or at once in several processes, to the same end.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import normal_like, uniform_like
from gendae.priors.autoencoder import Learning
from gendae.priors.denoiser import denoising_loss
from gendae.priors.levels import Levels
from gendae.registry import register

#: Epochs that a process of its own does at a time.
AT_A_TIME = 5


def nothing() -> None:
    """Nobody keeps anything."""


@register
@dataclass
class AveragedLearning(Learning):
    """How the networks of a `DenoisingPrior` are learned: by Adam, their weights averaged.

    The rate rises for some updates, then falls to 0 as half a cosine. The averages (EMA) take the
    place of the weights at the end.

    Args:
        epochs: passes over the codes.
        lr: highest learning rate.
        batch_size: codes in an update.
        seed: of weights, batches, levels and noise; the global random state is left alone.
        warm_up: updates on which the rate rises.
        average: share of an average that stays from one update to the next; less at the start.
        seconds: budget of time for each block, after which its rate has fallen to 0 though not all
            epochs are done; no limit if None. With it, results depend on the machine's speed.
        processes: how many blocks learn at once, each in a process of its own.

    Raises:
        ValueError: for numbers out of range.
    """

    epochs: int = 100
    lr: float = 2e-3
    batch_size: int = 500
    warm_up: int = 100
    average: float = 0.999
    seconds: float | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.warm_up = checks.whole("warm_up", self.warm_up, 0)
        self.average = checks.share("average", self.average)
        self.processes = checks.whole("processes", self.processes, 1)
        if self.seconds is not None:
            self.seconds = checks.at_least("seconds", self.seconds, 0.0, strict=True)

    def rate(self, update: int, share: float) -> float:
        """The learning rate of an update, after a share of the whole training."""
        rising = min(1.0, (update + 1) / max(1, self.warm_up))
        falling = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))

        return self.lr * rising * falling


def diverged(learning: AveragedLearning) -> ValueError:
    """What is raised where the loss, or a weight, is no longer a number."""
    return ValueError(f"lr={learning.lr}: training diverged; lower it")


class BlockFit:
    """The training of one network on one share of the levels.

    Args:
        network: F, which learns in place.
        levels: the law of levels.
        shares: the quantiles between which the block's levels lie.
        learning: epochs, rate, averages and so on.
        seed: of batches, levels and noise.
        dropout: chance that an update turns off what a code is conditioned on.

    Raises:
        ValueError: for a network without weights.

    Attributes:
        epoch: passes that are done.
        seconds: time spent.
        loss: mean of the last epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        levels: Levels,
        shares: tuple[float, float],
        learning: AveragedLearning,
        seed: int,
        dropout: float = 0.0,
    ) -> None:
        if next(network.parameters(), None) is None:
            raise ValueError(
                f"network: a {type(network).__name__} has no weights that could learn"
            )

        self.network = network.requires_grad_(True)
        self.averages = copy.deepcopy(network).requires_grad_(False)
        self.levels = levels
        self.shares = shares
        self.learning = learning
        self.seed = seed
        self.dropout = dropout

        self.optimizer = torch.optim.Adam(network.parameters(), learning.lr, betas=(0.9, 0.99))
        self.epoch = 0
        self.seconds = 0.0
        self.loss = math.nan

    @property
    def done(self) -> bool:
        """Whether epochs or time are spent."""
        learning = self.learning
        if learning.seconds is not None and self.seconds >= learning.seconds:
            return True

        return self.epoch >= learning.epochs

    def advance(self, z: Tensor, variances: Tensor, condition: Tensor | None = None) -> None:
        """One more epoch, or as much of it as there is time for.

        Args:
            z: standardised codes, (n, features).
            variances: v, (features,).
            condition: (n, width of conditions).

        Raises:
            ValueError: if training diverges.
        """
        self.network.train()
        began = time.monotonic() - self.seconds
        # each epoch draws from a seed of its own, so that training can go on after any of them
        generator = torch.Generator(z.device).manual_seed(self.seed + 7919 * self.epoch)

        batches = torch.randperm(len(z), generator=generator, device=z.device)
        batches = batches.split(self.learning.batch_size)
        total = z.new_zeros(())
        updates = 0
        for i, rows in enumerate(batches):
            self.seconds = time.monotonic() - began
            share = self._share(i / len(batches))
            if share >= 1.0:
                break

            update = self.epoch * len(batches) + i
            self.optimizer.param_groups[0]["lr"] = self.learning.rate(update, share)
            among = None if condition is None else condition[rows]
            total += self._update(z[rows], variances, among, generator)
            self._average(update)
            updates += 1

        self.epoch += 1
        self.seconds = time.monotonic() - began
        if updates:
            self.loss = (total / updates).item()
            if not math.isfinite(self.loss):
                raise diverged(self.learning)

    def _share(self, of_epoch: float) -> float:
        """How much of the training is done."""
        share = (self.epoch + of_epoch) / self.learning.epochs
        if self.learning.seconds is not None:
            share = max(share, self.seconds / self.learning.seconds)

        return share

    def _update(
        self,
        z: Tensor,
        variances: Tensor,
        condition: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        sigma = self.levels.draw(len(z), generator, self.shares).to(z)[:, None]
        noise = normal_like(z, generator)
        if condition is not None and self.dropout > 0.0:
            stays = uniform_like(condition[:, :1], generator) >= self.dropout
            condition = condition * stays

        self.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = denoising_loss(self.network, z, sigma, noise, variances, condition)
            loss.backward()
        self.optimizer.step()

        return loss.detach()

    @torch.no_grad()
    def _average(self, update: int) -> None:
        stays = min(self.learning.average, (1.0 + update) / (10.0 + update))
        averages = list(self.averages.parameters())
        torch._foreach_lerp_(averages, list(self.network.parameters()), 1.0 - stays)

        for average, buffer in zip(self.averages.buffers(), self.network.buffers(), strict=True):
            average.copy_(buffer)  # such as the statistics of a normalisation

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on after the last epoch; a copy."""
        state = {
            "network": self.network.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "loss": self.loss,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a training of the same arguments was."""
        self.network.load_state_dict(state["network"])
        self.averages.load_state_dict(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        self.seconds = state["seconds"]
        self.loss = state["loss"]


class Fitting:
    """The training of all blocks of a denoiser, epoch by epoch.

    Args:
        networks: of the blocks, which learn in place.
        levels: the law of levels, of which each block has an equal share.
        learning: epochs, rate, averages and so on.
        z: standardised codes, (n, features).
        variances: v, (features,).
        condition: (n, width of conditions).
        dropout: chance that an update turns off a code's condition, all of its numbers to 0.

    Example:
        >>> from gendae.priors.denoiser import LevelMLP, fresh
        >>> from gendae.priors.levels import LogNormalLevels
        >>> network = fresh(LevelMLP(8, 1), features=2, condition=0, seed=0)
        >>> z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> fitting = Fitting([network], LogNormalLevels(), AveragedLearning(3), z, torch.ones(2))
        >>> while not fitting.done:
        ...     fitting.advance()                               # state_dict() may be kept here
        >>> fitting.epoch, fitting.loss < 2.0
        (3, True)
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        levels: Levels,
        learning: AveragedLearning,
        z: Tensor,
        variances: Tensor,
        condition: Tensor | None = None,
        dropout: float = 0.0,
    ) -> None:
        self.learning = learning
        self.data = (z, variances, condition)
        #: What the networks are part of, if anything is.
        self.law: Any = None

        count = len(networks)
        self.blocks = []
        for i, network in enumerate(networks):
            shares = (i / count, (i + 1) / count)
            seed = checks.folded(learning.seed + 104_729 * i)
            self.blocks.append(BlockFit(network, levels, shares, learning, seed, dropout))

    @property
    def done(self) -> bool:
        """Whether all blocks are."""
        return all(block.done for block in self.blocks)

    @property
    def epoch(self) -> int:
        """Epochs that are done, over all blocks."""
        return sum(block.epoch for block in self.blocks)

    @property
    def loss(self) -> float:
        """Mean of the last epoch's loss over blocks that have begun; NaN before.

        1 is the denoiser of Gaussian codes.
        """
        losses = [block.loss for block in self.blocks if block.epoch]
        if not losses:
            return math.nan

        return sum(losses) / len(losses)

    def run(self, kept: Callable[[], None] = nothing) -> None:
        """All epochs, with a bar on a terminal; `kept` is called after each of them."""
        from tqdm import tqdm

        total = len(self.blocks) * self.learning.epochs
        with tqdm(total=total, unit="epoch", initial=self.epoch, leave=False, disable=None) as bar:
            while not self.done:
                self.advance()
                kept()
                bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
                bar.update(self.epoch - bar.n)

    def advance(self) -> None:
        """One more epoch of the first block that is not done; with processes, some of each."""
        waiting = [block for block in self.blocks if not block.done]
        if self.learning.processes > 1 and len(waiting) > 1:
            self._together(waiting)
        elif waiting:
            waiting[0].advance(*self.data)

    def _together(self, waiting: Sequence[BlockFit]) -> None:
        from joblib import Parallel, delayed

        processes = min(self.learning.processes, len(waiting))
        waiting = waiting[:processes]
        states = Parallel(processes)(delayed(_some_epochs)(block, self.data) for block in waiting)
        for block, state in zip(waiting, states, strict=True):
            block.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on; a copy."""
        return {"blocks": [block.state_dict() for block in self.blocks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a training of the same arguments was."""
        for block, own in zip(self.blocks, state["blocks"], strict=True):
            block.load_state_dict(own)

    def finish(self) -> list[nn.Module]:
        """The networks of the blocks, with the averages as their weights.

        Raises:
            ValueError: if the last update diverged.
        """
        networks = [block.averages.eval() for block in self.blocks]
        weights = [weight for network in networks for weight in network.parameters()]
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise diverged(self.learning)

        return networks


def _some_epochs(block: BlockFit, data: tuple) -> dict[str, Any]:
    """What a process of its own does: a few epochs of a block."""
    torch.set_num_threads(1)
    for _ in range(AT_A_TIME):
        if not block.done:
            block.advance(*data)

    return block.state_dict()
