"""`gendae predict`."""

from pathlib import Path

import numpy as np
from torch import Tensor

from gendae import checks
from gendae.commands.common import usable
from gendae.data.files import labels_of, read_images, write_npz
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.storage import model_file


def predict(
    model: str,
    data: str,
    out: str = "predictions.npz",
    samples: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> list[str]:
    """Labels of images and their probabilities, from a classifier or a joint model with labels.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        data: images: an .npy, .npz or IDX file, or a folder of image files, in natural order;
            labels y in an .npz are compared.
        out: FILE.npz: arrays label, (n,), and probability, (n, classes).
        samples: draws of stochastic units; by default the model's own number.
        seed: the same seed gives the same result.
        device: cpu, cuda, cuda:0, mps.
    """
    path = Path(out)
    images = checks.path("DATA", data)
    checks.one_of("suffix of --out", path.suffix, (".npz",))
    if samples is not None:
        checks.whole("--samples", samples, 1, checks.REPEATS)

    x, _ = read_images(images)
    probability = probabilities(model, x, data, samples, seed, device).float().cpu()
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
            "a Classifier is needed, which rules such as DifferenceTargetPropRule train, or a "
            "JointStack with labels"
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
    model: str | Path, x: Tensor, name: str, samples: int | None, seed: int, device: str
) -> Tensor:
    """p(y | x), (batch, classes), from a classifier, or in one pass from a joint model.

    Source: Bengio 2014, Algorithm 4 (joint models).

    Args:
        model: file or name.
        x: images, (batch, width).
        name: what to call them in messages.
        samples, seed: of stochastic units.
        device: where to compute.
    """
    stack = model_file.load(model, device)
    if isinstance(stack, JointStack):
        if samples is not None:
            raise ValueError(
                f"--samples {samples}: {model} is a joint model, whose prediction has no draws; "
                "leave it out"
            )

        image, label = label_modalities(stack)
        checks.width(name, x, stack.modalities[image].width)
        return stack.predict({image: x}, label)

    classifier = as_classifier(stack, model)
    checks.width(name, x, classifier.sizes[0])
    return classifier.predict(x, samples, seed)


def error_rate(probability: Tensor, y: Tensor) -> float:
    """Fraction of images whose most probable label is wrong.

    Example:
        >>> import torch
        >>> error_rate(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
        0.5
    """
    wrong = probability.cpu().argmax(1) != y.cpu()
    return wrong.double().mean().item()
