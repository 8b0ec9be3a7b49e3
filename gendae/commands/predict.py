"""`gendae predict`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gendae import checks
from gendae.commands.common import usable
from gendae.data.files import labels_of, read_images, write_npz
from gendae.inference import TargetPropInference
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
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
) -> list[str]:
    """Labels of images and their probabilities, from a classifier or another model with labels.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        data: images: an .npy, .npz or IDX file, or a folder of image files, in natural order;
            labels y in an .npz are compared.
        out: FILE.npz: arrays label, (n,), and probability, (n, classes).
        samples: draws of stochastic units; by default the model's own number.
        seed: the same seed gives the same result.
        device: cpu, cuda, cuda:0, mps.
        steps: of inference, in which the label is free, before it is read off the top; by default
            none, but for the feed-forward pass; only of a model whose top has a label.
    """
    path = Path(out)
    images = checks.path("DATA", data)
    checks.one_of("suffix of --out", path.suffix, (".npz",))
    if samples is not None:
        checks.whole("--samples", samples, 1, checks.REPEATS)
    if steps is not None:
        checks.whole("--steps", steps, 0, checks.REPEATS)

    x, _ = read_images(images)
    options = Options(samples, seed, steps)
    probability = probabilities(model, x, data, options, device).float().cpu()
    usable("the probabilities", probability)
    y = labels_of(data, len(x))
    if y is not None:
        checks.labels(f"{data}: y", y, len(x), probability.shape[1])

    labels = probability.argmax(1).numpy().astype(np.int64)
    write_npz(path, label=labels, probability=probability.numpy())

    lines = [f"labels of {len(x):,} images: {path}"]
    if y is not None:
        error = error_rate(probability, y)
        wrong = round(error * len(x))
        lines.append(f"error rate {100 * error:.2f} % ({wrong:,} of {len(x):,} labels are wrong)")
    return lines


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


def label_modalities(stack: JointStack) -> tuple[str, str]:
    """Names of the modality that labels are predicted from, and of the labels.

    Raises:
        ValueError: unless there is one modality of labels, and another.
    """
    others = [name for name in stack.names if name not in stack.labels]
    if len(stack.labels) != 1 or not others:
        raise ValueError(
            f"the model has the modalities {stack.described()}; labels are predicted where one "
            "of several is onehot; use `gendae complete` for others"
        )
    return others[0], stack.labels[0]


def probabilities(
    model: str | Path, x: Tensor, name: str, options: Options, device: str
) -> Tensor:
    """p(y | x), (batch, classes), from a classifier, or in one pass from a joint model.

    Source: Bengio 2014, Algorithm 4 (joint models); Bengio et al. 2015, section 9 (labels of a
    top).

    Args:
        model: file or name.
        x: images, (batch, width).
        name: what to call them in messages.
        options: what is done for a prediction beside the feed-forward pass.
        device: where to compute.
    """
    stack = model_file.load(model, device)
    options.check(stack, model)
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


def error_rate(probability: Tensor, y: Tensor) -> float:
    """Fraction of images whose most probable label is wrong.

    Example:
        >>> import torch
        >>> error_rate(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
        0.5
    """
    wrong = probability.cpu().argmax(1) != y.cpu()
    return wrong.double().mean().item()
