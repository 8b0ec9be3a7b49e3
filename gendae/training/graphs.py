"""An update as one function of fixed shape, which a GPU can run from a recording.

At batches of 100 an update of the 2015 model is some five hundred small operations, and Python
needs more time to start them one by one than their arithmetic takes. Within a phase of training
(`Rule.phase`) the operations are always the same: batch, progress and noise lie in tensors that
stay in their place, and no operation asks the device for a value.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Generator, Tensor

from gendae.data.loader import Split
from gendae.inference import Inference, Representations
from gendae.models.stack import Stack
from gendae.rules.base import Rule
from gendae.rules.moment import Moment

WARM_UP = 3  # runs before a recording, in which libraries choose their algorithms and allocate


class CompiledLoop:
    """The loop of an inference as one compiled function for each number of steps.

    Args:
        inference: the inference; one without Langevin noise, whose generator compilers stop at.
        options: options of `torch.compile`.

    Raises:
        ValueError: for an inference with noise.
    """

    def __init__(self, inference: Inference, **options: Any) -> None:  # noqa: ANN401
        if inference.temperature > 0.0:
            raise ValueError(
                f"temperature={inference.temperature}: Langevin noise cannot be compiled; use 0"
            )

        self.inference = inference
        self.options = options
        self._loops: dict[int, Callable[[Stack, Tensor], Representations]] = {}

    def __call__(self, stack: Stack, x: Tensor, steps: int) -> Representations:
        if steps not in self._loops:
            self._loops[steps] = torch.compile(
                self._loop(steps), dynamic=False, fullgraph=True, **self.options
            )

        with torch.no_grad():
            return self._loops[steps](stack, x)

    def _loop(self, steps: int) -> Callable[[Stack, Tensor], Representations]:
        def loop(stack: Stack, x: Tensor) -> Representations:
            h = stack.feedforward(x)
            step = self.inference.begin(stack, h, None, None)
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
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.progress = torch.zeros((), device=rule.stack.device, dtype=rule.stack.dtype)
        self._recordings: dict[Hashable, Recording] = {}

    def __call__(self, batch: Sequence[Tensor], moment: Moment) -> dict[str, Tensor]:
        phase = self.rule.phase(moment)
        if phase is None:
            return self.rule.gradients(batch, moment)

        self.progress.fill_(moment.progress)

        batch = Split.of(batch)
        parts = [part for part in batch if part is not None]
        shapes = tuple((tuple(part.shape), part.dtype) for part in parts)
        key = (phase, shapes)
        if key not in self._recordings:
            static = replace(moment, progress=self.progress)
            operations = partial(self._operations, moment=static)
            self._recordings[key] = Recording(operations, batch, self.rule, moment.generator)

        return self._recordings[key](batch)

    def _operations(self, batch: Sequence[Tensor], moment: Moment) -> dict[str, Tensor]:
        losses = self.rule.gradients(batch, moment)
        return {name: loss.detach() for name, loss in losses.items()}


class Recording:
    """The operations of one phase on batches of one shape: a CUDA graph, or else the function.

    Args:
        function: batch -> losses; it leaves gradients in the rule's parameters.
        batch: an example of the batches to come.
        rule: the owner of the parameters.
        generator: source of the rule's noise.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Tensor]], dict[str, Tensor]],
        batch: Split,
        rule: Rule,
        generator: Generator | None,
    ) -> None:
        self.function = function
        self.rule = rule
        self.generator = generator
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
        generator = self.generator
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

        if trainer.accumulate_grad_batches > 1:
            raise ValueError(
                f"Graphs with accumulate_grad_batches={trainer.accumulate_grad_batches}: static "
                "updates are of one batch; accepted: 1"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: Rule) -> None:
        inference = getattr(pl_module, "inference", None)
        if self.compile and isinstance(inference, Inference) and inference.temperature == 0.0:
            inference.compiled = CompiledLoop(inference)

        pl_module.recorded = StaticUpdate(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: Rule) -> None:
        pl_module.recorded = None
        if getattr(pl_module, "inference", None) is not None:
            pl_module.inference.compiled = None

    def on_exception(self, trainer: Trainer, pl_module: Rule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)
