"""An update as one function of fixed shape, which a GPU can run from a recording.

At batches of 100 an update of the 2015 model is some five hundred small operations, and Python
needs more time to start them one by one than their arithmetic takes. Within a phase of training
(`Rule.phase`) the operations are always the same: batch, progress and noise lie in tensors that
stay in their place, and no operation asks the device for a value.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Generator, Tensor

from gendae.data.loader import Split
from gendae.inference import Inference, Representations
from gendae.models.stack import Stack
from gendae.rules.base import Rule

WARM_UP = 3  # runs before a recording, in which libraries choose their algorithms and allocate


class CompiledInference(Inference):
    """An inference whose whole loop is one compiled function, for batches without masks.

    Args:
        inference: the inference to compile; with Langevin noise it runs as it is.
        options: options of `torch.compile`.
    """

    def __init__(self, inference: Inference, **options: Any) -> None:  # noqa: ANN401
        super().__init__(inference.steps, inference.delta, inference.temperature)
        self.plain = inference
        self.options = options
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

        if steps is None:
            steps = self.steps

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
    """Losses and gradients of a rule for batches of one shape, in memory that stays in its place.

    A call does what `Rule.gradients` does, within rounding. On a CUDA device the operations of a
    phase are recorded once and replayed. On other devices they are run, so that the same code is
    tested everywhere.

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

        self.progress.fill_(self.rule.progress)

        batch = Split.of(batch)
        parts = [part for part in batch if part is not None]
        shapes = tuple((tuple(part.shape), part.dtype) for part in parts)
        key = (phase, shapes)
        if key not in self._recordings:
            self._recordings[key] = Recording(self.losses_and_gradients, batch, self.rule)

        return self._recordings[key](batch)

    def losses_and_gradients(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """The operations themselves: progress is a tensor here, and inference the compiled one."""
        number = self.rule.progress
        plain = getattr(self.rule, "inference", None)

        self.rule.progress = self.progress
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
    """The operations of one phase on batches of one shape: a CUDA graph, or else the function.

    Args:
        function: batch -> losses; it leaves gradients in the rule's parameters.
        batch: an example of the batches to come.
        rule: the owner of parameters and generator.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Tensor]], dict[str, Tensor]],
        batch: Split,
        rule: Rule,
    ) -> None:
        self.function = function
        self.rule = rule
        self.batch = batch.map(Tensor.clone)

        self.graph: torch.cuda.CUDAGraph | None = None
        self.losses: dict[str, Tensor] | None = None
        self.gradients: list[tuple[torch.nn.Parameter, Tensor | None]] = []
        if batch.x.is_cuda:
            self._record()

    def __call__(self, batch: Split) -> dict[str, Tensor]:
        for own, given in zip(self.batch, batch, strict=True):
            if own is not None:
                own.copy_(given, non_blocking=True)

        if self.graph is None:
            return self.function(self.batch)

        self.graph.replay()

        # an update of another phase may have left its own gradients
        for parameter, gradient in self.gradients:
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

        generator.set_state(state)  # the noise is that of a run without warming up
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.losses = self.function(self.batch)

        self.gradients = [(p, p.grad) for p in self.rule.parameters()]


class Graphs(Callback):
    """Runs every update of a fit as one static function: recorded as a CUDA graph on a GPU.

    `gendae fit --config .. --trainer.callbacks gendae.Graphs` uses it. Without a GPU only
    `compile` makes a difference.

    Args:
        compile: also compile the loop of inference, for rules that have one. This needs what
            `torch.compile` needs (a C++ compiler on the CPU, Triton on a GPU), and half a minute
            at the start.

    Raises:
        ValueError: at the start of a fit, for several processes or mixed precision, which a
            recording cannot hold.
    """

    def __init__(self, compile: bool = False) -> None:
        self.compile = compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before anything is written."""
        if stage != "fit":
            return

        if trainer.world_size > 1 or trainer.precision not in ("32-true", "64-true"):
            raise ValueError(
                f"Graphs with {trainer.world_size} processes and precision={trainer.precision!r}: "
                "static updates are for one process and precision 32-true or 64-true"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: Rule) -> None:
        pl_module.gradients = StaticUpdate(pl_module, self.compile)

    def on_fit_end(self, trainer: Trainer, pl_module: Rule) -> None:
        pl_module.__dict__.pop("gradients", None)

    def on_exception(self, trainer: Trainer, pl_module: Rule, exception: BaseException) -> None:
        pl_module.__dict__.pop("gradients", None)
