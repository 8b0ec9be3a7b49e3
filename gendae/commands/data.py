"""The data set that a command works on: the model's own, or images of the user.

Apart from `common`, since data sets need Lightning, which a command without data need not import.
"""

from gendae import checks, registry
from gendae.commands.common import color_of
from gendae.data import identity
from gendae.data.base import Data, portable
from gendae.data.images import Images, Published
from gendae.models.stack import Stack


def data_of(
    stack: Stack, file: str | None = None, root: str | None = None, color: str | None = None
) -> Data:
    """The user's file as a data set, or the data set that the model was trained on.

    Args:
        stack: the model.
        file: the user's.
        root: folder of the model's data set.
        color: see `Images`, of the user's file; by default as in the model's training.

    Raises:
        FileNotFoundError: if the model's data set is not on this machine; says to name --data.
        ValueError: if the model's file names no data set, or its arrays are not those found here.
    """
    one_source(file, root)
    if file is None:
        data = _training_data(stack, root)
    else:
        path = checks.path("--data", file)
        data = Images(path, stack.facts.get("shape"), color=color_of(stack, color))

    checks.width(file or "the data set", data.split("test").x, stack.sizes[0])
    return data


def one_source(file: str | None, root: str | None) -> None:
    """Raise a ValueError where both images and the folder of a data set are named."""
    if file is not None and root is not None:
        raise ValueError(
            f"--root {root} is the folder of the model's own data set, in the place of which "
            f"--data {file} is read; give one"
        )


def _training_data(stack: Stack, root: str | None) -> Data:
    """The data set that the model was trained on, read."""
    spec = stack.facts.get("dataset")
    if spec is None:
        raise ValueError("the model does not say what it was trained on; name images with --data")

    try:
        data = checks.kind("dataset", registry.build(located(portable(spec), root)), Data)
    except ValueError as error:
        raise ValueError(
            f"the model's data set cannot be built: {error}; name images with --data"
        ) from None

    try:
        data.split("test")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or name your own images with --data") from None

    other = identity.difference(data.identity, stack.facts)
    if other is not None:
        raise ValueError(f"{other}; name their folder with --root, or other images with --data")
    return data


def located(spec: dict, root: str | None) -> dict:
    """A described data set that looks for its files in a folder, if one is named.

    Raises:
        ValueError: if a folder is named for a data set that has none.
    """
    if root is None:
        return spec
    kind = registry.registered(spec["type"]) if isinstance(spec["type"], str) else None
    if kind is not None and issubclass(kind, Published):
        return {**spec, "root": root}
    if isinstance(spec.get("source"), dict):
        return {**spec, "source": located(spec["source"], root)}

    raise ValueError(
        f"--root {root}: the model was trained on {spec['type']}, which has no folder"
    )
