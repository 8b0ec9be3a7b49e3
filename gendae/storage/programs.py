"""Parts of a model as graphs that other programs run: ONNX, and torch.export's .pt2.

| what | takes | gives |
|---|---|---|
| encode | x | h_1 .. h_L |
| decode | h_L | x |
| predict | x; of a joint model, the modality beside the labels | p(y given x), or values |

The number of rows is free; numbers are of single precision, on the CPU. What is drawn at random,
such as samples, is in no graph.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.errors import shortened
from gendae.layers.optimized import OptimizingPair
from gendae.models.classifier import Classifier, mean_log_probability
from gendae.models.joint import JointStack, label_modalities
from gendae.models.labelled import LabelledStack
from gendae.models.stack import Stack
from gendae.models.trees import TreePair
from gendae.storage.atomic import write_whole

WHAT = ("encode", "decode", "predict")
SUFFIXES = (".onnx", ".pt2")
#: Rows of the example that is traced: one would stay one, as a broadcast axis.
ROWS = 2


def check_pairs(what: str, stack: Stack) -> None:
    """Raise a ValueError for pairs that no graph holds."""
    for level, pair in enumerate(stack.pairs, 1):
        why = None
        if isinstance(pair, OptimizingPair) and what != "decode":
            why = "an OptimizingPair, whose code is found by steps of an optimisation"
        if isinstance(pair, TreePair):
            why = "a TreePair, which walks each example's own tree"
        if why is not None:
            raise ValueError(f"{what}: pair {level} is {why}; no graph holds that")


class Encode(nn.Module):
    """x -> h_1 .. h_L."""

    takes = "x"

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.width = stack.sizes[0]
        self.gives = [f"h{level}" for level in range(1, stack.depth + 1)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.stack.feedforward(x)[1:]


class Decode(nn.Module):
    """h_L -> x."""

    takes = "h"
    gives = ("x",)

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        if isinstance(stack, Classifier):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                "decode: the decoders of a classifier are feedback paths, which give no x; "
                "accepted: encode, predict"
            )
        self.stack = stack
        self.width = stack.sizes[-1]

    def forward(self, h: Tensor) -> tuple[Tensor]:
        return (self.stack.down(h)[0],)


class Predict(nn.Module):
    """x -> p(y | x), or values."""

    takes = "x"

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.width = stack.sizes[0]
        self.gives = ("probability",)
        self.answer = self._answer_of(stack)

    def _answer_of(self, stack: Stack) -> Callable[[Tensor], Tensor]:
        """What gives the answer of this kind of model."""
        if isinstance(stack, JointStack):
            self.given, self.label = label_modalities(stack)
            self.width = stack.modalities[self.given].width
            return self._of_joint
        if isinstance(stack, LabelledStack):
            return self._of_top
        if not isinstance(stack, Classifier):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"predict: a {type(stack).__name__} gives no labels; accepted: encode, decode"
            )
        if stack.stochastic:
            raise ValueError("predict: units of this classifier are drawn, which no graph does")
        if stack.predicts == "values":
            self.gives = ("value",)
            return self._values

        return self._probabilities

    def _probabilities(self, x: Tensor) -> Tensor:
        return mean_log_probability(self.stack(x)).exp()

    def _values(self, x: Tensor) -> Tensor:
        return self.stack(x)[0]

    def _of_top(self, x: Tensor) -> Tensor:
        return self.stack.label.g(self.stack.feedforward(x)[-1])

    def _of_joint(self, x: Tensor) -> Tensor:
        """Algorithm 4, all other modalities missing."""
        stack = self.stack
        values = []
        for name, modality in stack.modalities.items():
            values.append(x if name == self.given else x.new_zeros(x.shape[0], modality.width))

        there = torch.tensor([name == self.given for name in stack.names])
        codes = stack.lower(torch.cat(values, 1))[-1]
        told = stack.loop(codes, there.expand(x.shape[0], -1))
        return stack.separate(stack.x_of(told))[self.label]

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.answer(x),)


PARTS = {"encode": Encode, "decode": Decode, "predict": Predict}


def save_program(stack: Stack, path: str | Path, what: str) -> Path:
    """Write a part of a model as a graph, whole or not at all.

    Args:
        stack: a trained model.
        path: FILE.onnx, or FILE.pt2, which `torch.export.load` reads.
        what: encode, decode or predict.

    Raises:
        ValueError: for another suffix or part; for a model that has no such part, or one that no
            graph holds, such as encoding by optimisation; without onnx and onnxscript.
    """
    path = Path(path)
    checks.one_of("suffix", path.suffix, SUFFIXES)
    checks.one_of("what", what, WHAT)
    if path.suffix == ".onnx":
        for name in ("onnx", "onnxscript"):
            checks.library(name, "onnx", "an export to .onnx")

    check_pairs(what, stack)
    part = PARTS[what](copy.deepcopy(stack).cpu().float().eval())
    try:
        with _quiet():
            content = _graph(part, path.suffix)
    except Exception as error:  # noqa: BLE001 - torch's tracers raise dozens of kinds
        other = "" if path.suffix == ".pt2" else "; a .pt2 may"
        raise ValueError(
            f"{what}: {path.suffix} cannot hold this model{other} ({_cause(error)})"
        ) from None

    return write_whole(path, content)


def _cause(error: BaseException) -> str:
    """What is behind the errors that tracers wrap around each other, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__

    first, *_ = str(error).splitlines() or [type(error).__name__]
    return shortened(first, 160)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what tracers tell of their work, and of graphs that they gave up."""
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@torch.enable_grad()  # without, layers overwrite their own results, which autograd refuses
def _graph(part: Encode | Decode | Predict, suffix: str) -> bytes:
    """A part as the bytes of a file."""
    example = torch.zeros(ROWS, part.width)
    rows = torch.export.Dim("batch")
    program = torch.export.export(part, (example,), dynamic_shapes=({0: rows},), strict=False)

    if suffix == ".pt2":
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        return buffer.getvalue()

    graph = torch.onnx.export(
        program,
        input_names=[part.takes],
        output_names=list(part.gives),
        dynamo=True,
        verbose=False,
    )
    return graph.model_proto.SerializeToString()
