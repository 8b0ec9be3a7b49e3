"""The noise of a training: one generator for all of a rule's draws, on its device.

Lightning saves the state of no generator, so that the rule keeps it in its checkpoints. Each
process has noise of its own.
"""

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Generator, Tensor

#: A prime: seeds of the processes' noise must differ, and not meet other small seeds.
RANK_STRIDE = 7919


class Noise:
    """Owns the generator from the start of a fit on; before, `generator` is None."""

    def __init__(self) -> None:
        self.generator: Generator | None = None

    def begin(self, rule: LightningModule, states: Tensor | None = None) -> None:
        """Start from the seed of this training, or go on from the states of an earlier one.

        Args:
            rule: tells device and rank.
            states: (bytes,), or (processes, bytes); a process without one keeps its own seed.
        """
        self.generator = Generator(rule.device)
        self.generator.manual_seed(torch.initial_seed() + RANK_STRIDE * rule.global_rank)
        if states is None:
            return

        states = states.reshape(-1, states.shape[-1])
        if rule.global_rank >= len(states):
            return
        if states.shape[-1] != self.generator.get_state().numel():
            rank_zero_warn(
                "the training was begun on another kind of device, whose noise cannot go on here: "
                "it starts anew"
            )
            return

        # set_state reads a view from the start of its storage, and crashes
        self.generator.set_state(states[rule.global_rank].cpu().clone())

    def states(self, rule: LightningModule) -> Tensor | None:
        """The states of the processes' generators: (bytes,), or (processes, bytes) of several."""
        if self.generator is None:
            return None

        state = self.generator.get_state()
        if rule.trainer.world_size == 1:
            return state

        return rule.all_gather(state.to(rule.device)).cpu()
