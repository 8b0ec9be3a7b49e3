"""`gendae info`."""

import json
from typing import Any

from gendae.commands.common import Table, settings_of
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.labelled import LabelledStack
from gendae.models.stack import Stack
from gendae.storage import model_file


def info(model: str) -> Table:
    """What a model file holds: layers, prior, settings, and facts of its training.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
    """
    path = model_file.locate(model)
    stack = model_file.load(path)
    lines = [
        f"file        {path} ({path.stat().st_size / 1e6:.1f} MB)",
        f"layers      {layers_in_words(stack)}",
        f"parameters  {sum(p.numel() for p in stack.parameters()):,}",
    ]

    if isinstance(stack, Classifier):
        lines += _discrete_lines(stack)
    else:
        lines.append(f"prior       {stack.prior!r}")

    for name, value in settings_of(stack).items():
        lines.append(f"{name:<11} {json.dumps(value)}")
    for name, value in stack.facts.items():
        lines.append(f"{name:<11} {_fact_in_words(name, value)}")
    return lines


def _fact_in_words(name: str, value: Any) -> str:  # noqa: ANN401 - plain data
    """A fact in one line; of a data set, its name and what was chosen of it."""
    if name == "dataset":
        return _data_in_words(value)

    return value if isinstance(value, str) else json.dumps(value)


def _data_in_words(described: Any) -> str:  # noqa: ANN401 - plain data
    """A data set as the call that makes it, without what is off or not there.

    Example:
        >>> _data_in_words({"type": "Few", "data": {"type": "MNIST", "seed": 0}, "n": None})
        'Few(data=MNIST(seed=0))'
    """
    if not isinstance(described, dict) or "type" not in described:
        return json.dumps(described)

    chosen = {k: v for k, v in described.items() if v is not None and v is not False}
    kind = chosen.pop("type")
    arguments = ", ".join(f"{name}={_data_in_words(value)}" for name, value in chosen.items())
    return f"{kind}({arguments})"


def layers_in_words(stack: Stack) -> str:
    """Shapes and activations of all layers, from x upwards."""
    x, *shapes = [" x ".join(map(str, shape)) for shape in stack.shapes]
    pairs = zip(shapes, stack.pairs, strict=True)
    words = " - ".join([x, *(f"{shape} {pair.f.activation}" for shape, pair in pairs)])
    if isinstance(stack, Classifier | LabelledStack):
        words += f" - {stack.classes} classes"
    if isinstance(stack, JointStack):
        words += f" (level {stack.level} holds the codes of {stack.described()})"
    return words


def _discrete_lines(stack: Classifier) -> Table:
    """The levels whose units send bits or draws, if there are any."""
    kinds = []
    for level in stack.discrete_levels:
        law = stack.pairs[level - 1].recognition
        kinds.append(f"h_{level} {'drawn' if law.hard and law.drawn else 'as bits'}")

    if not kinds:
        return []
    return [f"discrete    {', '.join(kinds)}"]
