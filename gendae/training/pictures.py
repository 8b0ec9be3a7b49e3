"""Pictures of what a model has learned, as it learns: numbered files, and in every logger.

A picture of one's own is a class with a name and a `draw`:

    class Weights(gendae.Picture):
        name = "weights"

        def draw(self, rule, x):
            return gendae.plots.filters(rule.stack.pairs[0].g.weight.T, (28, 28))

    Trainer(callbacks=[gendae.Pictures(which=["samples", Weights()])])
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from gendae import checks, plots
from gendae.completion.inpainting import inpaint, named_mask
from gendae.metrics import chains
from gendae.models.joint import JointStack, images_of, kind_of
from gendae.models.stack import Stack
from gendae.rules.base import Rule
from gendae.rules.processes import like_parameters
from gendae.sampling.level import LevelSampler, chain_states
from gendae.sampling.samplers import Sampler, generate, sampler_of, seeded
from gendae.training.validation import due, validation_batch

#: Validation examples that are shown, and those that a spectrum is measured on.
SHOWN = 20
EXAMPLES = 1000
#: Samples that are shown, and how many where each is a point of the plane.
SAMPLES = 100
POINTS = 2000
#: Chains of a picture, their states, and transitions between two of these.
CHAINS = 10
STATES = 20
STRIDE = 5


class Picture:
    """Base class: something to see of a model; a variant has a `name` and overrides `draw`.

    Example:
        >>> class Codes(Picture):
        ...     name = "codes"
        ...     def draw(self, rule, x):
        ...         return plots.curves(rule.stack.encode(x)[-1])
    """

    #: How its files begin, and its tag in loggers.
    name: ClassVar[str]

    def suits(self, rule: Rule) -> bool:
        """Whether a rule's model can be shown so."""
        return True

    def draw(self, rule: Rule, x: Tensor) -> Figure:
        """The figure, any of matplotlib's; in evaluation mode, without gradients.

        Args:
            rule: what is trained; its `stack` is the model.
            x: validation examples on the model's device, (at most 1,000, width).
        """
        raise NotImplementedError(f"{type(self).__name__} must define draw")


def has_shape(stack: Stack) -> bool:
    """Whether it is known how samples of a stack are drawn."""
    _, shape = images_of(stack, torch.zeros(1, stack.sizes[0]))
    return shape is not None


def shows_images(stack: Stack) -> bool:
    """Whether x of a stack holds images of a known shape."""
    return has_shape(stack) and kind_of(stack) == "image"


class Samples(Picture):
    """A hundred samples of the stack's own sampler, or 2,000 points, always of one seed."""

    name = "samples"

    def suits(self, rule: Rule) -> bool:
        return rule.generative and has_shape(rule.stack)

    def draw(self, rule: Rule, x: Tensor) -> Figure:
        stack = rule.stack
        kind = kind_of(stack)
        n = POINTS if kind == "points" else SAMPLES
        samples, shape = images_of(stack, generate(stack, n, seed=0))

        return plots.gallery(samples, kind, shape)


class Reconstructions(Picture):
    """Validation images beside their reconstructions through h_1 .. h_L."""

    name = "reconstructions"

    def suits(self, rule: Rule) -> bool:
        return rule.generative and shows_images(rule.stack)

    def draw(self, rule: Rule, x: Tensor) -> Figure:
        stack = rule.stack
        x = x[:SHOWN]
        columns = {"original": x}
        for level in range(1, stack.depth + 1):
            columns[f"$h_{{{level}}}$"] = stack.reconstruct(x, level)

        images = {name: images_of(stack, value)[0] for name, value in columns.items()}
        _, shape = images_of(stack, x)

        return plots.side_by_side(images, shape)


class Inpainting(Picture):
    """Validation images, their left halves, and what the model fills in."""

    name = "inpainting"

    def suits(self, rule: Rule) -> bool:
        several = isinstance(rule.stack, JointStack)
        return rule.generative and not several and shows_images(rule.stack)

    def draw(self, rule: Rule, x: Tensor) -> Figure:
        _, shape = images_of(rule.stack, x)
        mask = named_mask("left", shape)
        x = x[:SHOWN].cpu()

        return plots.inpainting(x, mask, inpaint(rule.stack, x, mask, seed=0), shape)


class Chains(Picture):
    """Ten chains, a row for each, every fifth of 100 states.

    They are those of the stack's own sampler where it has transitions, otherwise of encoding x
    and decoding it.
    """

    name = "chains"

    def suits(self, rule: Rule) -> bool:
        return rule.generative and shows_images(rule.stack)

    def draw(self, rule: Rule, x: Tensor) -> Figure:
        stack = rule.stack
        sampler = sampler_of(stack)
        if type(sampler).step is Sampler.step:
            sampler = LevelSampler(level=0)

        states = chain_states(stack, sampler, CHAINS, STRIDE * (STATES - 1), seeded(0))
        kept = [state.cpu() for i, state in enumerate(states) if i % STRIDE == 0]
        images, shape = images_of(stack, torch.stack(kept, 1).flatten(0, 1))

        return plots.image_grid(images, shape, STATES)


class Filters(Picture):
    """Incoming weights of the first hundred units of h_1 as images."""

    name = "filters"

    def suits(self, rule: Rule) -> bool:
        weight = self._weight(rule.stack)
        affine = isinstance(weight, Tensor) and weight.ndim == 2

        of_x = affine and weight.shape[1] == rule.stack.sizes[0]
        of_images = kind_of(rule.stack) in ("image", "whitened")

        return of_x and of_images and has_shape(rule.stack)

    def draw(self, rule: Rule, x: Tensor) -> Figure:
        images, shape = images_of(rule.stack, self._weight(rule.stack)[:100])
        return plots.filters(images, shape)

    @staticmethod
    def _weight(stack: Stack) -> Tensor | None:
        return getattr(stack.pairs[0].f, "weight", None)


class Spectrum(Picture):
    """Learned noise of the dimensions of h_L: which of them carry signal (2014, 7.4)."""

    name = "spectrum"

    def suits(self, rule: Rule) -> bool:
        x = torch.zeros(1, rule.stack.sizes[0], device=rule.device)
        return rule.generative and chains.noise_of_top(rule.stack, x) is not None

    def draw(self, rule: Rule, x: Tensor) -> Figure:
        signal = chains.signal_dimensions(*chains.noise_of_top(rule.stack, x))
        return plots.spectrum(signal.sigma, signal.count)


#: Pictures by name.
PICTURES: dict[str, type[Picture]] = {
    picture.name: picture
    for picture in (Samples, Reconstructions, Inpainting, Chains, Filters, Spectrum)
}
#: What is shown unless the user says: the cheap ones.
USUAL = ("samples", "reconstructions", "inpainting")


class Pictures(Callback):
    """Shows what a model has learned, every so many epochs, after a validation.

    Files are pictures/NAME_0010.png in the run folder, numbered by the epoch. TensorBoard's
    logger, and others that have a `log_image`, such as wandb's, get them too. Weights and random
    numbers of the training are those of a run without this callback.

    Args:
        every: epochs between two showings, in epochs with a validation; the last epoch always has
            one, but where a fit stops early by what this validation shows. 0: none, of
            `CreditMonitor` neither.
        which: names among samples, reconstructions, inpainting, chains, filters and spectrum, and
            pictures of one's own, or a single one; None: the first three, where they suit the
            model.

    Raises:
        ValueError: for every < 0, or an unknown name; at the start of a fit, for a picture that
            does not suit the model.
    """

    def __init__(
        self, every: int = 10, which: str | Picture | Sequence[str | Picture] | None = None
    ) -> None:
        self.every = checks.whole("every", every, 0)
        self.which = which
        self.pictures = [_picture(each) for each in _listed(which)]

    def on_train_start(self, trainer: Trainer, pl_module: Rule) -> None:
        """Refuse before anything is trained."""
        if not self.every or self.which is None:
            return

        for picture in self.pictures:
            if not picture.suits(pl_module):
                raise ValueError(
                    f"which={picture.name!r}: a {type(pl_module.stack).__name__} under "
                    f"{type(pl_module).__name__} cannot be shown so; accepted: "
                    + ", ".join(name for name in PICTURES if PICTURES[name]().suits(pl_module))
                )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Rule) -> None:
        if not self.every or trainer.state.fn != "fit" or not due(trainer, self.every):
            return

        pictures = [picture for picture in self.pictures if picture.suits(pl_module)]
        if not pictures or trainer.fast_dev_run:
            return

        batch = like_parameters(pl_module.stack, validation_batch(trainer, EXAMPLES))
        if not trainer.is_global_zero:
            return

        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            x = pl_module.examples(batch)
            for picture in pictures:
                show(trainer, picture.name, picture.draw(pl_module, x))


def _listed(which: str | Picture | Sequence[str | Picture] | None) -> Sequence[str | Picture]:
    """The pictures that are asked for, of which there may be a single one."""
    if which is None:
        return USUAL
    if isinstance(which, str | Picture):
        return [which]
    if not isinstance(which, Sequence):
        names = ", ".join(PICTURES)
        raise ValueError(f"which={which!r}: names are needed, of {names}")  # noqa: TRY004

    return which


def _picture(given: str | Picture) -> Picture:
    """A picture, or the one of a name."""
    if isinstance(given, Picture):
        return given

    return PICTURES[checks.one_of("which", given, PICTURES)]()


def show(trainer: Trainer, name: str, figure: Figure) -> None:
    """Keep a figure as numbered file of the run, and give it to loggers that take images.

    Nothing is kept where the trainer has `Pictures` that say none.
    """
    if not all(each.every for each in trainer.callbacks if isinstance(each, Pictures)):
        return

    folder = Path(trainer.default_root_dir) / "pictures"
    plots.save(figure, folder / f"{name}_{trainer.current_epoch + 1:04d}.png")

    image = Image.open(io.BytesIO(plots.png_of(figure))).convert("RGB")
    tag = f"pictures/{name}"
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(image)
            logger.experiment.add_image(tag, pixels, trainer.global_step, dataformats="HWC")
        elif hasattr(logger, "log_image"):
            logger.log_image(tag, [image], trainer.global_step)
