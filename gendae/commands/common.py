"""The commands of `gendae` as plain functions: they return what the command line prints."""

from pathlib import Path

from gendae import checks
from gendae.data.base import Data
from gendae.data.files import image_shape
from gendae.data.images import Images
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.registry import build
from gendae.storage import model_file

Table = list[str]


def data_of(stack: Stack, file: str | None = None, root: str | None = None) -> Data:
    """The user's file as a data set, or the data set that the model was trained on.

    Raises:
        FileNotFoundError: if the model's data set is not on this machine; says to name --data.
        ValueError: if the model's file names no data set.
    """
    if file is None:
        data = _training_data(stack, root)
    else:
        data = Images(file, shape=stack.facts.get("shape"))

    checks.width(file or "the data set", data.split("test").x, stack.sizes[0])
    return data


def _training_data(stack: Stack, root: str | None) -> Data:
    """The data set that the model was trained on, read."""
    spec = stack.facts.get("dataset")
    if spec is None:
        raise ValueError("the model does not say what it was trained on; name images with --data")

    data = build(located(spec, root))
    try:
        data.split("test")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or name your own images with --data") from None
    return data


def located(spec: dict, root: str | None) -> dict:
    """A described data set that looks for MNIST in a folder, if one is named."""
    if root and spec["type"] == "MNIST":
        return {**spec, "root": root}
    if "source" in spec:
        return {**spec, "source": located(spec["source"], root)}
    return spec


def shape_of(stack: Stack) -> tuple[int, int]:
    """Height and width of the model's images."""
    shapes = stack.facts.get("shapes", {})
    shape = next(iter(shapes.values()), stack.facts.get("shape"))
    return image_shape(stack.sizes[0], shape)


def load_generative(model: str, device: str = "cpu") -> Stack:
    """A trained model that images can be drawn from; see `only_generative`."""
    return only_generative(model_file.load(model, device), model)


def only_generative(stack: Stack, model: str) -> Stack:
    """The stack, if images can be drawn from it.

    Args:
        stack: a trained model.
        model: where it was loaded from, for the message.

    Raises:
        ValueError: for a classifier, whose layers were trained for labels, and a model of several
            modalities.
    """
    if _has_several_modalities(stack):
        raise ValueError(
            f"{model} has several modalities ({stack.described()}); use `gendae sample`, "
            "`gendae complete` and `gendae predict`"
        )
    if isinstance(stack, Classifier):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a classifier trained for labels, not a model of images; "
            "use `gendae predict` for labels of images and `gendae test` for its test error"
        )
    return stack


def _has_several_modalities(stack: Stack) -> bool:
    return isinstance(stack, JointStack) and len(stack.names) > 1


def checkpoint_of(run: str | Path, which: str = "best") -> Path:
    """The best or last checkpoint of a run folder, or the checkpoint file itself."""
    run = Path(run)
    if run.is_file():
        return run

    checks.one_of("--which", which, ("best", "last"))
    path = run / "checkpoints" / f"{which}.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint of a run at {run}: looked for {path}")
    return path


def config_folders() -> list[Path]:
    """Where gendae's configurations lie: installed, or in a source checkout."""
    package = Path(__file__).parents[1]
    return [package / "configs", package.parent / "configs"]
