"""Images of your own as pixels and labels, in the forms that they come in.

| source | what is read |
|---|---|
| `.npy`, `.npz`, an IDX file | an array; in a `.npz` labels and test images beside it |
| an image file, a folder or a list of them | pictures, see `gendae.data.pictures` |
| a folder of folders of images | pictures, whose folders are their classes |
| `.csv` | rows of numbers; a column of labels |
| `.parquet`, a table of pandas' | the same, or a column of pictures in the place of numbers |
| an array, a tensor | images |
| a mapping of names to arrays | as in a `.npz`; or the sources `train`, `valid` and `test` |
| a data set of torch, or whatever has a length and items | x, (x, y), or mappings with names |
| a data set of Hugging Face's | its columns |

Names are those of `IMAGE_ARRAYS`, `LABEL_ARRAYS`, and with the end `_test` those of images kept
for testing. Bytes (uint8) are grey levels 0 .. 255, booleans 0 and 1, and other numbers lie in
[0, 1]; in the columns of a table, which has no bytes, whole numbers up to 255 are bytes too, if
some are above 127. Images are (n, pixels), (n, height, width), or either way round with channels,
of which three are coloured unless they are equal. With `color="rgb"` all have three: rows are red,
then green, then blue, and grey images have three equal ones.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.data.files import (
    IMAGE_ARRAYS,
    IMAGE_SUFFIXES,
    LABEL_ARRAYS,
    check_pairing,
    class_indices,
    image_files,
    in_order,
    natural,
    read_array,
    read_idx,
    read_labels,
    read_numpy,
)
from gendae.data.loader import Split
from gendae.data.pictures import (
    Coloured,
    decode_image,
    equal_channels,
    held_image,
    luma,
    read_image,
    rgb,
)
from gendae.data.tables import Column, as_bytes, label_name, matrix, read_csv, read_parquet
from gendae.errors import shortened
from gendae.registry import register

TEST_IMAGES = ("x_test", "images_test")
TEST_LABELS = ("y_test", "labels_test")
#: Names of the parts of a data set, no classes, and what they are here.
PARTS = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
}
ACCEPTED = (
    ".npy, .npz, IDX, .csv, .parquet, an image, a folder of images or of folders of them, one for "
    "each class"
)


class Indexed(Protocol):
    """What has a length and items: an array, a tensor, a list, a data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...  # noqa: ANN401


#: What images and their labels are read from. Configurations name files: their parser sees these.
if TYPE_CHECKING:
    Source = str | list[str] | Path | Indexed
    Labels = str | Path | Indexed
else:
    Source = str | list[str]
    Labels = str


@register
class InMemory:
    """Images that were in memory: what a file keeps of them.

    Args:
        sha256: of their pixels and labels, see `gendae.data.identity`.
        shape: number, height and width.

    Example:
        >>> print(InMemory("0123456789abcdef" * 4, [5, 8, 8]))
        5 images of 8 x 8 pixels that were in memory (sha256:0123456789ab)
    """

    def __init__(self, sha256: str, shape: Sequence[int]) -> None:
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"sha256={sha256!r:.80}: 64 hexadecimal digits are needed")
        self.sha256 = sha256
        self.shape = checks.wholes("shape", shape, 0)

    def __str__(self) -> str:
        n, *sides = self.shape
        size = " x ".join(map(str, sides))

        return f"{n} images of {size} pixels that were in memory (sha256:{self.sha256[:12]})"


class Held(NamedTuple):
    """What a source holds, before its numbers are looked at.

    Attributes:
        images: (n, ..) numbers of any kind.
        labels: one of each image, as the source has them; None if it has none.
        classes: names of the classes 0, 1, .. where the source says them.
        kept: images that are kept from training, "valid" and "test", and their labels.
    """

    images: np.ndarray
    labels: Any = None
    classes: Sequence[str] = ()
    kept: Mapping[str, "Held"] = MappingProxyType({})

    def named(self, classes: Sequence[str]) -> np.ndarray | None:
        """The labels as an array: as names, where they are numbers of these classes."""
        if self.labels is None:
            return None

        labels = _flat(self.labels)
        unique = len(set(classes)) == len(classes)
        if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu" or not unique:
            return labels
        if labels.min() < 0 or labels.max() >= len(classes):
            return labels

        return np.array(classes, str)[labels]


class OwnImages(NamedTuple):
    """Images with values in [0, 1].

    Attributes:
        rows: pixels, (n, features), and class indices, where there are labels.
        shape: of an image, see `checks.ImageShape`, if the source says it.
        classes: names of the classes, if it says them.
        kept: what it keeps from training, by the names "valid" and "test".
    """

    rows: Split
    shape: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    kept: Mapping[str, Split] = MappingProxyType({})


def read_images(source: Source, color: str | None = None) -> tuple[Tensor, tuple[int, ...] | None]:
    """Images as (n, features) in [0, 1], and their shape if known.

    Args:
        source: see the table above.
        color: "grey" takes the luma of coloured pixels, "rgb" three channels of all; None refuses
            colour.

    Raises:
        FileNotFoundError: if there is nothing at a path.
        ValueError: for other kinds of file, damaged ones, and pixels outside [0, 1].

    Example:
        >>> read_images(np.full((2, 4, 4), 255, np.uint8))[0].shape
        torch.Size([2, 16])
    """
    return pixels_of(name_of(source), held(source, color).images, color)


def read_pictures(
    source: Source,
    color: str | None = None,
    labels: Labels | None = None,
    strict: bool = False,
    classes: Sequence[str] = (),
) -> OwnImages:
    """Images with what the source says of them.

    Args:
        source, color: see `read_images`.
        labels: their class labels, or the file of these; if None, those that the source has.
        strict: whether labels that the source has must be class indices, or names of classes;
            otherwise others count as none.
        classes: names of the classes 0, 1, .. where they are known; by default those that the
            source says, or the names among its labels in natural order.

    Raises:
        FileNotFoundError, ValueError: see `read_images` and `read_labels`; for a folder,
            `check_pairing` too; for labels that are none of the classes.

    Example:
        >>> pair = {"x": np.zeros((2, 4)), "y": ["fish", "cat"]}
        >>> read_pictures(pair).rows.y, read_pictures(pair, classes=["ant", "cat", "fish"]).rows.y
        (tensor([1, 0]), tensor([2, 1]))
    """
    name = name_of(source)
    found = held(source, color)
    in_memory = labels is not None and not isinstance(labels, str | Path)
    if in_memory:
        found = found._replace(labels=_given(labels), classes=())
    x, shape = pixels_of(name, found.images, color)

    numbered, names = _numbered(name, [found, *found.kept.values()], classes)
    if in_memory:
        y = _usable("labels", numbered[0], len(x), strict=True)
    elif labels is None:
        y = _usable(name, numbered[0], len(x), strict)
    else:
        y = _labels_in(source, labels, len(x))
        names = ()

    kept = {}
    for (part, apart), y_part in zip(found.kept.items(), numbered[1:], strict=True):
        split = _kept_split(name, part, apart.images, y_part, color)
        if split.x.shape[1] != x.shape[1]:
            raise ValueError(
                f"{name} has {part} images of {split.x.shape[1]} pixels and others of "
                f"{x.shape[1]}; as many are needed"
            )
        kept[part] = split._replace(y=None if y is None else split.y)

    return OwnImages(Split(x, y), shape, names, kept)


def held(source: Source, color: str | None = None) -> Held:
    """What a source holds."""
    _refuse_absent(source)
    if isinstance(source, str | Path):
        return _file(checks.path("path", source), color)
    if isinstance(source, np.ndarray | Tensor):
        return Held(_array("path", source))
    if hasattr(source, "iloc") and hasattr(source, "columns"):  # a table of pandas'
        columns = {str(name): column.to_numpy() for name, column in source.items()}
        return _table("path", columns, color)
    if hasattr(source, "iloc"):  # one column of it
        return _items(source.to_list(), color)
    if isinstance(source, Mapping):
        return _mapping(source, color)
    if hasattr(source, "column_names") and hasattr(source, "__getitem__"):
        return _columns_of(source, color)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return _items(source, color)

    raise ValueError(
        f"path is a {type(source).__name__}; a file, a folder, an array, a tensor, a data set "
        "with a length and items, or a list is needed"
    )


def _refuse_absent(given: object) -> None:
    """Raise a FileNotFoundError for what stands for images or labels that were in memory."""
    if isinstance(given, InMemory):
        raise FileNotFoundError(f"{given}, and are in no file: give them again")


def name_of(source: Source) -> str:
    """What errors call a source: its path, or what it is."""
    if isinstance(source, str | Path):
        return str(source)

    return f"path ({type(source).__name__})"


def is_named(source: object) -> bool:
    """Whether a source is a file, or several, which a configuration can name."""
    if isinstance(source, list):
        return len(source) > 0 and all(isinstance(part, str | Path) for part in source)

    return isinstance(source, str | Path | InMemory)


# -- pixels ---------------------------------------------------------------------------------------


def pixels_of(
    name: str, array: np.ndarray, color: str | None = None
) -> tuple[Tensor, tuple[int, ...] | None]:
    """Numbers of images as pixels in [0, 1], (n, features), and their shape where known.

    Raises:
        ValueError: for other types and shapes, coloured pixels without a choice, and numbers that
            are no pixels.

    Example:
        >>> x, shape = pixels_of("x", np.array([[[[0, 51]]]], np.uint8))
        >>> x, shape
        (tensor([[0.0000, 0.2000]]), (1, 2))
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds an array of type {array.dtype}; numbers are needed")
    if array.ndim > 1 and array.size == 0:
        raise ValueError(f"{name} is empty: it holds an array of shape {array.shape}")

    array = _by_choice(name, array, color)
    shape = None
    if array.ndim > 2:
        shape = array.shape[1:]

    rows = array.reshape(len(array), -1)
    # a number above single precision becomes infinite, and infinite pixels are refused
    with np.errstate(over="ignore"):
        x = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
    if array.dtype == np.uint8:
        x = _of_bytes(name, x)

    return checks.pixels(name, x), shape


def _of_bytes(name: str, x: Tensor) -> Tensor:
    """Grey levels 0 .. 255 as pixels in [0, 1]; bytes that are only 0 and 1 may be either."""
    if x.max() == 1:
        raise ValueError(
            f"{name} holds bytes, 0..255, and none is above 1; give 0 and 1 as booleans or "
            "floating-point numbers, or multiply by 255"
        )

    return x / 255.0


def _by_choice(name: str, array: np.ndarray, color: str | None) -> np.ndarray:
    """Images (n, pixels) or (n, height, width), or by choice (n, 3, height, width)."""
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.shape[1] > 4:
        raise ValueError(
            f"{name} has shape {array.shape}: one coloured image has the shape (1, height, width, "
            "3), and images 3 or 4 pixels wide are to be given as rows, (n, pixels), with a shape"
        )
    if array.ndim == 4:
        array = _channels_last(name, array)
        if array.shape[3] == 1:
            array = array[..., 0]
    elif array.ndim not in (2, 3):
        raise _not_images(name, array, "of another kind")

    if color == "rgb" and array.ndim == 3:
        array = rgb(array)
    if color == "rgb" and array.ndim == 4:
        return np.moveaxis(array, 3, 1)
    if array.ndim < 4:
        return array

    return _grey(name, array, color)


def _grey(name: str, channels: np.ndarray, color: str | None) -> np.ndarray:
    """One channel of three, (n, height, width, 3): that of equal ones, or luma by choice."""
    try:
        return equal_channels(channels)
    except Coloured as error:
        if color is None:
            raise ValueError(f"{name} holds {error}") from None

    return luma(channels)


def _channels_last(name: str, array: np.ndarray) -> np.ndarray:
    """Images (n, height, width, channels), of one channel or three."""
    first = array.shape[1] in (1, 3)
    last = array.shape[3] in (1, 3)
    if first == last and not (last and array.shape[3] == 1):
        what = "whose channels may be first or last" if first else "of another kind"
        raise _not_images(name, array, what)

    return array if last else np.moveaxis(array, 1, 3)


def _not_images(name: str, array: np.ndarray, what: str) -> ValueError:
    """The error for an array of a shape that images have not."""
    return ValueError(
        f"{name} holds an array of shape {array.shape}, {what}; (n, pixels), (n, height, width), "
        "or these with 1 or 3 channels, first or last, are needed"
    )


# -- labels ---------------------------------------------------------------------------------------


def _numbered(
    source: str, parts: Sequence[Held], known: Sequence[str]
) -> tuple[list[np.ndarray | None], tuple[str, ...]]:
    """Labels of several parts as numbers of the same classes, and the names of these.

    Names are numbered as they are known, or in the order that the parts say, and others behind
    them in natural order. Numbers without names are those of the other parts' classes.

    Raises:
        ValueError: for names that are none of those known, and names in some parts alone.
    """
    said = [part.classes for part in parts if part.classes]
    shared = known or next(iter(said), ())
    labels = [part.named(part.classes or shared) for part in parts]
    names = {str(name) for part in labels if _are_names(part) for name in part}
    if not names:
        return labels, tuple(known or parts[0].classes)

    unknown = sorted(names.difference(known), key=natural)
    if known and unknown:
        raise ValueError(
            f"{source} has the class {unknown[0]!r}; known are {shortened(', '.join(known), 200)}"
        )
    if any(part is not None and part.dtype.kind in "iu" for part in labels):
        raise ValueError(
            f"{source} has names of classes as labels in some parts, and in others numbers that "
            "are those of no class"
        )

    ordered = dict.fromkeys(str(name) for part in said for name in part)
    ordered.update(dict.fromkeys(sorted(names, key=natural)))
    classes = tuple(known or ordered)
    number = {name: index for index, name in enumerate(classes)}
    for index, part in enumerate(labels):
        if _are_names(part):
            labels[index] = np.array([number[str(name)] for name in part])

    return labels, classes


def _are_names(labels: np.ndarray | None) -> TypeGuard[np.ndarray]:
    return labels is not None and labels.ndim == 1 and labels.dtype.kind in "US"


def _flat(labels: Any) -> np.ndarray:  # noqa: ANN401 - whatever a source has
    """Labels as an array, those in a column, (n, 1), as (n,)."""
    try:
        array = np.asarray(labels)
    except (ValueError, TypeError):  # lists of different lengths
        return np.array(None)

    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array.flat):
        array = array.astype(str)

    return array


def _usable(name: str, labels: np.ndarray | None, n: int, strict: bool) -> Tensor | None:
    """Class indices of n images; None where there are none, or something else and not `strict`."""
    if labels is None:
        return None

    usable = labels.shape == (n,) and labels.dtype.kind in "iu"
    if not usable and not strict:
        return None

    return class_indices(name, labels, n)


def _given(labels: Labels) -> np.ndarray:
    """Labels that a user gives in memory: names of classes, or numbers."""
    _refuse_absent(labels)
    if isinstance(labels, Tensor):
        return _flat(_array("labels", labels))

    flat = _flat(labels)
    return flat if _are_names(flat) else _array("labels", flat)


def _labels_in(source: Source, labels: str | Path, n: int) -> Tensor:
    """The labels in a file that a user names for the images of a source."""
    y = read_labels(labels, n)
    folder = Path(source) if isinstance(source, str | Path) else None
    if folder is None or not folder.is_dir():
        return y

    files = image_files(folder)
    if not files:
        raise ValueError(f"labels={str(labels)!r}: the folders in {folder} name the classes")
    check_pairing(files, labels)

    return y


def _kept_split(
    name: str, part: str, images: np.ndarray, labels: np.ndarray | None, color: str | None
) -> Split:
    """Images kept from training."""
    called = f"{name} ({part})"
    x, _ = pixels_of(called, images, color)

    return Split(x, _usable(called, labels, len(x), strict=False))


# -- files ----------------------------------------------------------------------------------------


def _file(path: Path, color: str | None) -> Held:
    """What a file or folder holds, by its suffix."""
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")

    if path.is_dir():
        return _folder(path, color)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Held(read_image(path, color)[None])
    if path.suffix in READERS:
        return READERS[path.suffix](path, color)
    if path.suffix == ".gz" or "ubyte" in path.name:
        return Held(read_idx(path))

    raise ValueError(f"{path}: unknown kind of data; accepted: {ACCEPTED}")


def _numpy(path: Path, color: str | None) -> Held:
    """An array, and those beside it in a .npz."""
    columns: dict[str, Column] = {"x": read_numpy(path, "images", IMAGE_ARRAYS)}
    for accepted in (LABEL_ARRAYS, TEST_IMAGES, TEST_LABELS):
        array, names = read_array(path, accepted)
        if array is not None and len(names) > 1:
            columns[accepted[0]] = array

    return _table(str(path), columns, color)


def _csv(path: Path, color: str | None) -> Held:
    return _table(str(path), read_csv(path, LABEL_ARRAYS), color)


def _parquet(path: Path, color: str | None) -> Held:
    return _table(str(path), read_parquet(path), color)


READERS: dict[str, Callable[[Path, str | None], Held]] = {
    ".npy": _numpy,
    ".npz": _numpy,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _folder(folder: Path, color: str | None) -> Held:
    """Image files in natural order; where there are none, those of the folders, one a class."""
    below = in_order(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    of_class = {part.name: image_files(part) for part in below}
    files = image_files(folder)
    if files and any(of_class.values()):
        raise ValueError(
            f"{folder} holds images, such as {files[0].name}, beside folders of them, such as "
            f"{next(name for name in of_class if of_class[name])}; images, or folders of them, "
            "one for each class, are needed"
        )
    if files:
        return Held(_read_all(folder, files, color))

    if not any(of_class.values()):
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{folder} holds no images ({kinds}), nor folders of them")
    _check_classes(folder, of_class)

    every = [file for files in of_class.values() for file in files]
    labels = np.repeat(list(of_class), [len(files) for files in of_class.values()])

    return Held(_read_all(folder, every, color), labels)


def _read_all(folder: Path, files: Sequence[Path], color: str | None) -> np.ndarray:
    """The images of files below a folder in one array."""
    names = [str(file.relative_to(folder)) for file in files]
    return _stacked(str(folder), (read_image(file, color) for file in files), names)


def _check_classes(folder: Path, of_class: Mapping[str, list[Path]]) -> None:
    """Raise a ValueError for folders that are no classes: without images, or parts of a whole."""
    empty = [name for name, files in of_class.items() if not files]
    if empty:
        raise ValueError(f"{folder / empty[0]} holds no images, and is the folder of a class")
    if set(of_class) <= set(PARTS):
        raise ValueError(
            f"{folder} holds the folders {', '.join(of_class)}, which are no classes; name one"
        )


# -- in memory ------------------------------------------------------------------------------------


def _array(name: str, value: Any) -> np.ndarray:  # noqa: ANN401 - whatever holds numbers
    """Numbers as an array in memory of the CPU."""
    tensor = checks.numbers(name, checks.tensor(value, name), kept=True).detach().cpu()
    if tensor.dtype == torch.bfloat16:  # which NumPy lacks
        tensor = tensor.float()

    return tensor.numpy()


def _mapping(source: Mapping[str, Any], color: str | None) -> Held:
    """Arrays by the names that they have in a .npz, or the parts of a data set."""
    if "train" not in source:
        return _table("path", source, color)

    parts = [PARTS.get(name) for name in source]
    if None in parts or len(set(parts)) < len(parts):
        told = shortened(", ".join(map(str, source)), 200)
        raise ValueError(f"path has the parts {told}; train, valid and test are accepted")

    of_part = {PARTS[name]: held(part, color) for name, part in source.items()}
    train = of_part.pop("train")

    return train._replace(kept={**train.kept, **of_part})


def _columns_of(source: Any, color: str | None) -> Held:  # noqa: ANN401 - of Hugging Face's
    """The columns of a data set of Hugging Face's."""
    names = source.column_names
    label = _label_of(name_of(source), names)
    image = _first(IMAGE_ARRAYS, names)
    wanted = names if image is None else [name for name in (image, label) if name is not None]
    columns = {name: list(source[name]) for name in wanted}

    feature = (getattr(source, "features", None) or {}).get(label)
    classes = getattr(feature, "names", None) or ()

    return _table(name_of(source), columns, color)._replace(classes=tuple(classes))


def _items(source: Indexed, color: str | None) -> Held:
    """The items of a data set of torch's, or of a list: x, (x, y), or mappings with names."""
    name = name_of(source)
    tensors = getattr(source, "tensors", None)
    if tensors is not None and len(tensors) <= 2:
        return Held(*(_array("path", tensor) for tensor in tensors))

    images = []
    labels = []
    for index in range(len(source)):
        x, y = _parts(f"{name} item {index}", source[index])
        images.append(_picture(f"{name} item {index}", x, color))
        labels.append(y)

    given = labels if all(label is not None for label in labels) else None
    classes = getattr(source, "classes", None)
    if not isinstance(classes, list | tuple):
        classes = ()

    return Held(_stacked(name, images), given, tuple(map(str, classes)))


def _parts(name: str, item: Any) -> tuple[Any, Any]:  # noqa: ANN401 - whatever a data set gives
    """The image of an item, and its label, or None."""
    if isinstance(item, Mapping) and "bytes" not in item:
        image = _first(IMAGE_ARRAYS, item)
        if image is None:
            told = shortened(", ".join(map(str, item)), 200)
            accepted = " or ".join(map(repr, IMAGE_ARRAYS))
            raise ValueError(f"{name} is a mapping of {told}; name the image {accepted}")
        return item[image], item.get(_label_of(name, item))

    if not isinstance(item, tuple):
        return item, None
    if len(item) not in (1, 2):
        raise ValueError(f"{name} has {len(item)} parts; x, or x and y, are needed")
    return (*item, None)[:2]


def _label_of(name: str, given: Iterable[str]) -> str | None:
    """The name of the labels among columns or arrays; `name` is for messages."""
    try:
        return label_name(given, LABEL_ARRAYS)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _first(names: Iterable[str], given: Iterable[str]) -> str | None:
    """The first of the names that is given."""
    given = set(given)
    return next((name for name in names if name in given), None)


def _picture(name: str, value: Any, color: str | None) -> np.ndarray:  # noqa: ANN401
    """One image: a file, the bytes of one, an image of Pillow's, or numbers."""
    if isinstance(value, Mapping) and value.get("bytes") is None:
        value = value.get("path")
    elif isinstance(value, Mapping):
        value = value["bytes"]

    if isinstance(value, str | Path):
        return read_image(checks.path("path", value), color)
    if isinstance(value, bytes):
        return decode_image(name, value, color)
    if hasattr(value, "getbands"):  # Pillow's
        return held_image(name, value, color)

    return _array(name, value)


def _stacked(
    name: str, images: Iterable[np.ndarray], names: Sequence[str] | None = None
) -> np.ndarray:
    """Images of one size in one array; `names` are those of the images in messages."""
    images = list(images)
    if not images:
        raise ValueError(f"{name} is empty; at least one image is needed")

    shape = images[0].shape
    others = (index for index, image in enumerate(images) if image.shape != shape)
    other = next(others, None)
    if other is not None:
        names = names or [f"item {index}" for index in range(len(images))]
        raise ValueError(
            f"{name} holds images of different sizes: {names[0]} is {_size(shape)}, "
            f"{names[other]} is {_size(images[other].shape)}; one size is needed"
        )

    return np.stack(images)


def _size(shape: tuple[int, ...]) -> str:
    """The sides of an image in words."""
    return " x ".join(map(str, shape))


def _table(name: str, columns: Mapping[str, Any], color: str | None) -> Held:
    """The images and labels of columns, or arrays, with names."""
    label = _label_of(name, columns)
    labels = None if label is None else columns[label]

    image = _first(IMAGE_ARRAYS, columns)
    if image is None:
        rest = {key: column for key, column in columns.items() if key != label}
        return Held(matrix(name, rest), labels)

    images = _images(name, columns[image], color)
    test = _first(TEST_IMAGES, columns)
    if test is None:
        return Held(images, labels)

    test_labels = _first(TEST_LABELS, columns)
    kept = _images(f"{name} (test)", columns[test], color)

    return Held(images, labels, kept={"test": Held(kept, columns.get(test_labels))})


def _images(name: str, values: Any, color: str | None) -> np.ndarray:  # noqa: ANN401
    """The images of one column."""
    is_numbers = isinstance(values, Tensor)
    if isinstance(values, np.ndarray):
        is_numbers = values.dtype.kind != "O"  # of pandas: file names
    if is_numbers:
        return _array(name, values)

    images = (_picture(f"{name} item {i}", value, color) for i, value in enumerate(values))
    return as_bytes(_stacked(name, images))
