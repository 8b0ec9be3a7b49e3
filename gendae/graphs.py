"""An update as one function of fixed shape: what a GPU can run from a recording, without waiting for Python.

At batches of 100 an update of the 2015 model is some five hundred small operations, and starting them one by one costs
more than their arithmetic. Within a phase of training (`Rule.phase`) they are the same ones each time: batch, progress
and noise lie in tensors that stay where they are, and nothing asks the device for a value.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Generator, Tensor

from gendae.inference import Inference, Representations
from gendae.rules import Rule
from gendae.stack import Stack

WARM_UP = 3  # runs before a recording, in which libraries choose their algorithms and allocate


class CompiledInference(Inference):
    """An inference whose whole loop is one compiled function, for batches of which nothing is missing.

    Args:
        inference: what to compile; one without Langevin noise, others run as they are.
        options: those of `torch.compile`.
    """

    def __init__(self, inference: Inference, **options: Any) -> None:  # noqa: ANN401 - of torch.compile
        super().__init__(inference.steps, inference.delta, inference.temperature)
        self.plain, self.options = inference, options
        self._loops: dict[int, Callable[[Stack, Tensor], Representations]] = {}

    def __call__(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor | None = None,
        generator: Generator | None = None,
        steps: int | None = None,
    ) -> Representations:
        if mask is not None or self.temperature > 0.0:
            return self.plain(stack, x, mask, generator, steps)
        steps = self.steps if steps is None else steps
        if steps not in self._loops:
            self._loops[steps] = torch.compile(
                self._loop(steps), dynamic=False, fullgraph=True, **self.options
            )
        with torch.no_grad():
            return self._loops[steps](stack, x)

    def _loop(self, steps: int) -> Callable[[Stack, Tensor], Representations]:
        """The plain loop without its generator, at which compilers stop."""

        def loop(stack: Stack, x: Tensor) -> Representations:
            h = stack.feedforward(x)
            step = self.plain.begin(stack, h, None, None)
            for _ in range(steps):
                h = step(h)
            return h

        return loop


class StaticUpdate:
    """Losses and gradients of a rule for batches of one shape, in memory that stays where it is.

    Called with a batch it does what `Rule.gradients` does, within rounding. On a CUDA device the operations of a phase are
    recorded once and replayed; elsewhere they are run, so that the same code is tested everywhere.

    Args:
        rule: a rule that trains in one process and full precision.
        compile: compile the loop of its inference, if it has one.
    """

    def __init__(self, rule: Rule, compile: bool = False) -> None:
        self.rule = rule
        self.inference = getattr(rule, "inference", None)
        if compile and isinstance(self.inference, Inference):
            self.inference = CompiledInference(self.inference)
        self.progress = torch.zeros((), device=rule.stack.device, dtype=rule.stack.dtype)
        self._recordings: dict[Hashable, Recording] = {}

    def __call__(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        phase = self.rule.phase()
        if phase is None:
            return Rule.gradients(self.rule, batch)
        key = (phase, *((tuple(part.shape), part.dtype) for part in batch))
        self.progress.fill_(self.rule.progress)
        if key not in self._recordings:
            self._recordings[key] = Recording(self.losses_and_gradients, batch, self.rule)
        return self._recordings[key](batch)

    def losses_and_gradients(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """The operations themselves: progress is a tensor here, and inference the compiled one."""
        number, self.rule.progress = self.rule.progress, self.progress
        plain = getattr(self.rule, "inference", None)
        if isinstance(self.inference, Inference):
            self.rule.inference = self.inference
        try:
            losses = Rule.gradients(self.rule, batch)
        finally:
            self.rule.progress = number
            if isinstance(self.inference, Inference):
                self.rule.inference = plain
        return {name: loss.detach() for name, loss in losses.items()}


class Recording:
    """The operations of one phase on batches of one shape: a CUDA graph, or where there is no such thing the function.

    Args:
        function: batch -> losses; leaves gradients in the rule's parameters.
        batch: an example of the batches to come.
        rule: owns parameters and generator.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Tensor]], dict[str, Tensor]],
        batch: Sequence[Tensor],
        rule: Rule,
    ) -> None:
        self.function, self.rule = function, rule
        self.batch = [part.clone() for part in batch]
        self.graph = self.losses = None
        self.gradients: list[tuple[torch.nn.Parameter, Tensor | None]] = []
        if batch[0].is_cuda:
            self._record()

    def __call__(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        for own, given in zip(self.batch, batch, strict=True):
            own.copy_(given, non_blocking=True)
        if self.graph is None:
            return self.function(self.batch)
        self.graph.replay()
        for (
            parameter,
            gradient,
        ) in self.gradients:  # an update of another phase may have put its own there
            parameter.grad = gradient
        return self.losses

    def _record(self) -> None:
        generator = self.rule.generator
        state = generator.get_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.function(self.batch)
        torch.cuda.current_stream().wait_stream(stream)
        generator.set_state(state)  # so that the noise is that of a run without warming up
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.losses = self.function(self.batch)
        self.gradients = [(p, p.grad) for p in self.rule.parameters()]


class Graphs(Callback):
    """Runs every update of a fit as one static function: recorded as a CUDA graph on a GPU.

    `gendae fit --config .. --trainer.callbacks gendae.graphs.Graphs`. Without a GPU only `compile` makes a difference.

    Args:
        compile: also compile the loop of inference, for rules that have one; needs what `torch.compile` needs (a C++
            compiler on the CPU, Triton on a GPU), and half a minute at the start.

    Raises:
        ValueError: at the start of a fit, for several processes or mixed precision, which a recording cannot hold.
    """

    def __init__(self, compile: bool = False) -> None:
        self.compile = compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before anything is written."""
        if stage != "fit":
            return
        if trainer.world_size > 1 or trainer.precision not in ("32-true", "64-true"):
            raise ValueError(
                f"Graphs with {trainer.world_size} processes and precision={trainer.precision!r}: static "
                "updates are for one process and precision 32-true or 64-true"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: Rule) -> None:
        pl_module.gradients = StaticUpdate(pl_module, self.compile)

    def on_fit_end(self, trainer: Trainer, pl_module: Rule) -> None:
        pl_module.__dict__.pop("gradients", None)

    def on_exception(self, trainer: Trainer, pl_module: Rule, exception: BaseException) -> None:
        pl_module.__dict__.pop("gradients", None)
