"""`gendae predict`."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.commands.common import color_of, usable
from gendae.commands.sequences import reads_sequences, series_of
from gendae.data.files import write_npz
from gendae.data.series import Series
from gendae.data.sources import read_pictures
from gendae.errors import shortened
from gendae.inference import TargetPropInference
from gendae.models.classifier import Classifier, error_of
from gendae.models.joint import JointStack, label_modalities
from gendae.models.labelled import LabelledStack
from gendae.models.stack import Stack
from gendae.storage import model_file


def predict(
    model: str,
    data: str,
    out: str = "predictions.npz",
    samples: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    steps: int | None = None,
    color: str | None = None,
) -> list[str]:
    """Labels of images or sequences and their probabilities, from a model with labels.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        data: images: an .npy, .npz, IDX, .csv or .parquet file, or a folder of image files, in
            natural order; of a model of sequences an .npz of x, (n, steps, channels), and lengths,
            an .npy or a .ts; labels y beside them are compared, by name where they have names.
        out: FILE.npz: arrays label, (n,), and probability, (n, classes), or value, (n, k), of a
            model that predicts values; at every step (n, steps) and (n, steps, ..); name, (n,),
            where the classes of images have names.
        samples: draws of stochastic units; by default the model's own number.
        seed: the same seed gives the same result.
        device: cpu, cuda, cuda:0, mps.
        steps: of inference, in which the label is free, before it is read off the top; by default
            none, but for the feed-forward pass; only of a model whose top has a label.
        color: of coloured images, grey: the luma, rgb: all channels; by default as in training.
    """
    path = Path(out)
    file = checks.path("DATA", data)
    checks.one_of("suffix of --out", path.suffix, (".npz",))
    if samples is not None:
        checks.whole("--samples", samples, 1, checks.REPEATS)
    if steps is not None:
        checks.whole("--steps", steps, 0, checks.REPEATS)

    stack = model_file.load(model, device)
    options = Options(samples, seed, steps)
    options.check(stack, model)

    read = examples(stack, file, color)
    answer = told(stack, model, read.x, data, options).float().cpu()
    y = None if read.y is None else expected(stack, f"{data}: y", read.y, answer)
    usable("the predictions", answer)
    arrays = arrays_told(answer, read, predicts_values(stack))
    names = class_names(stack)
    if names and read.series is None and "label" in arrays:
        arrays["name"] = named(arrays["label"], names)
    write_npz(path, **arrays)

    lines = [f"{read.what(stack)}: {path}"]
    if "name" in arrays:
        lines.append(counted(arrays["name"]))
    if y is not None:
        lines.append(score(answer, y))
    return lines


class Examples(NamedTuple):
    """What is predicted from.

    Args:
        x: (n, width).
        y: what is known of them, as the file has it.
        series: the sequences that x was made of; None for images.
    """

    x: Tensor
    y: Tensor | None
    series: Series | None = None

    def what(self, stack: Stack) -> str:
        """What was predicted, in words."""
        told = "values" if predicts_values(stack) else "labels"
        of = "images" if self.series is None else "sequences"

        return f"{told} of {len(self.x):,} {of}"


def examples(stack: Stack, file: Path, color: str | None = None) -> Examples:
    """The images of a file or folder, or the sequences, as the model reads them."""
    if reads_sequences(stack):
        series = series_of(stack, file)
        return Examples(series.rows(stack.pairs[0].masked), series.y, series)

    modality = label_modalities(stack)[0] if isinstance(stack, JointStack) else None
    color = color_of(stack, color, modality)
    x, y, _ = read_pictures(file, color, strict=True, classes=known_classes(stack)).rows
    return Examples(x, y)


def known_classes(stack: Stack) -> list[str]:
    """What labels of images may be called: the names of the classes, or else their numbers."""
    names = class_names(stack)
    if names:
        return names

    n = getattr(stack, "classes", 0)
    if isinstance(stack, JointStack):
        _, label = label_modalities(stack)
        n = stack.modalities[label].width

    return [str(index) for index in range(n)]


def class_names(stack: Stack) -> list[str]:
    """Names of the classes 0, 1, .. that the model was trained on, where they have names."""
    return [str(name) for name in stack.facts.get("classes", ())]


def named(labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Labels by their names; a class that no example of the training had keeps its number.

    Example:
        >>> named(np.array([1, 2]), ["ant", "cat"]).tolist()
        ['cat', '2']
    """
    return np.array([names[label] if label < len(names) else str(label) for label in labels])


def counted(names: np.ndarray) -> str:
    """How often each name was predicted, the most frequent first."""
    counts = Counter(names.tolist()).most_common()

    return shortened(", ".join(f"{name} {count:,}" for name, count in counts), 200)


def predicts_values(stack: Stack) -> bool:
    """Whether the model predicts real numbers, and not classes."""
    return getattr(stack, "predicts", "classes") == "values"


def expected(stack: Stack, name: str, y: Tensor, answer: Tensor) -> Tensor:
    """What the answers are compared with, checked; `name` is for messages."""
    if isinstance(stack, Classifier):
        return stack.answers(name, y, len(answer))

    return checks.labels(name, y, len(answer), answer.shape[1])


def arrays_told(answer: Tensor, read: Examples, values: bool) -> dict[str, np.ndarray]:
    """What is written; the label of a step that is not there is -1."""
    if values:
        return {"value": answer.numpy()}

    labels = answer.argmax(-1)
    if labels.ndim == 2 and read.series is not None:
        labels = torch.where(read.series.there, labels, -1)

    return {"label": labels.numpy().astype(np.int64), "probability": answer.numpy()}


def score(answer: Tensor, y: Tensor) -> str:
    """How far answers are from what they should be, in words."""
    error = error_of(answer, y).item()
    if y.is_floating_point():
        return f"mean squared error {error:.4g}"

    labels = int((y >= 0).sum())
    wrong = round(error * labels)
    return f"error rate {100 * error:.2f} % ({wrong:,} of {labels:,} labels are wrong)"


class Options(NamedTuple):
    """What is done for a prediction beside the feed-forward pass.

    Args:
        samples, seed: of stochastic units.
        steps: of inference.
    """

    samples: int | None
    seed: int
    steps: int | None

    @property
    def inference(self) -> TargetPropInference:
        """INFERENCE with the label free."""
        return TargetPropInference(self.steps or 0)

    def check(self, stack: Stack, model: str | Path) -> None:
        """Raise a ValueError for what a model's prediction has not."""
        if self.samples is not None and isinstance(stack, JointStack | LabelledStack):
            raise ValueError(
                f"--samples {self.samples}: {model} is a {type(stack).__name__}, whose prediction "
                "has no draws; leave it out"
            )
        if self.steps is not None and not isinstance(stack, LabelledStack):
            raise ValueError(
                f"--steps {self.steps}: {model} is a {type(stack).__name__}, whose prediction has "
                "no steps; leave it out"
            )


def load_classifier(model: str | Path, device: str = "cpu") -> Classifier:
    """A trained model that gives labels.

    Raises:
        FileNotFoundError, CheckpointError: see `persistence.load`.
        ValueError: if the model has no output layer.
    """
    return as_classifier(model_file.load(model, device), model)


def as_classifier(stack: Stack, model: str | Path) -> Classifier:
    """The stack, if it has an output layer; `model` names it in the message."""
    if not isinstance(stack, Classifier):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a {type(stack).__name__} without output layer, which gives no labels; "
            "a Classifier is needed, which rules such as DifferenceTargetPropRule train, a "
            "LabelledStack, or a JointStack with labels"
        )
    return stack


def told(stack: Stack, model: str | Path, x: Tensor, name: str, options: Options) -> Tensor:
    """p(y | x), (batch, .., classes), from a classifier, or in one pass from a joint model.

    From a network that predicts values: these.
    Source: Bengio 2014, Algorithm 4 (joint models); Bengio et al. 2015, section 9 (labels of a
    top).

    Args:
        stack: the model.
        model: where it was loaded from, for messages.
        x: images or sequences, (batch, width).
        name: what to call them in messages.
        options: what is done for a prediction beside the feed-forward pass.
    """
    if isinstance(stack, JointStack):
        image, label = label_modalities(stack)
        checks.width(name, x, stack.modalities[image].width)
        return stack.predict({image: x}, label)

    if isinstance(stack, LabelledStack):
        checks.width(name, x, stack.sizes[0])
        return stack.predict(x, options.inference)

    classifier = as_classifier(stack, model)
    checks.width(name, x, classifier.sizes[0])
    return classifier.predict(x, options.samples, options.seed)
