"""The targets: one property for each kind of input, and how many of all cases are its own."""

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzz.commands import OPTIONS, command_lines, lay_out
from benchmarks.fuzz.files import arrays, damaged, files, folder_with, label_arrays
from benchmarks.fuzz.models import description_of, models
from benchmarks.fuzz.oracle import command, outcome
from benchmarks.fuzz.values import mutated, odd
from gendae import Arrays, Images, Multimodal, complete, generate, inpaint, load, named_mask
from gendae.commands.compare import check
from gendae.completion.inpainting import MASKS
from gendae.data.files import read_idx, read_labels
from gendae.data.multimodal import PARTS
from gendae.data.sources import read_images
from gendae.registry import REGISTRY, build
from gendae.training.configurations import read_config

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SMALL = [
    *("digits-variational-em", "digits-targetprop", "digits-kl", "digits-joint-label"),
    *("digits-joint-halves", "digits-invertible", "digits-optimized", "toy-kl", "toy-targetprop"),
]
#: What a message may name instead of what was typed: what the model lacks, or what it is.
LACKS = ("JointStack", "Classifier", "modalit")

#: The properties by name, and the share of all cases that each has: a training costs as much as
#: a hundred files.
TARGETS: dict[str, Callable[..., None]] = {}
SHARES: dict[str, float] = {}
STRATEGIES: dict[str, tuple[st.SearchStrategy, ...]] = {}


def target(share: float, *strategies: st.SearchStrategy) -> Callable:
    """Decorator: a property of what the strategies draw."""

    def register(prop: Callable) -> Callable:
        TARGETS[prop.__name__] = prop
        SHARES[prop.__name__] = share
        STRATEGIES[prop.__name__] = strategies
        return prop

    return register


def fuzz(name: str, cases: int, number: int | None = None) -> None:
    """Try a target's share of so many cases: the fixed ones, or those of a seed.

    Raises:
        whatever a case ends in that neither works nor is refused clearly, as small as it became.
    """
    chosen = settings(
        max_examples=max(5, round(cases * SHARES[name])),
        deadline=None,
        database=None,
        derandomize=number is None,
        suppress_health_check=list(HealthCheck),
    )
    prop = chosen(given(*STRATEGIES[name])(TARGETS[name]))
    if number is not None:
        prop = seed(number)(prop)

    prop()


# -- data files ----------------------------------------------------------------------------------


def require_pixels(x: torch.Tensor) -> None:
    """Fail unless these are rows of pixels in [0, 1]."""
    assert x.ndim == 2
    assert x.numel() > 0
    assert bool(((x >= 0) & (x <= 1)).all())


def splits(data: Images) -> list:
    """All splits of a data set, which are finite and have as many labels as images."""
    parts = [data.split(name) for name in ("train", "valid", "test")]
    for x, y, _ in parts:
        assert bool(torch.isfinite(x).all())
        assert y is None or len(y) == len(x)

    return parts


@target(0.17, files())
def images(file):
    name, content = file
    with folder_with({name: content}) as folder:
        if "ubyte" in name or name.endswith(".gz"):
            array = outcome("images", lambda: read_idx(folder / name), [name])
            assert array is None or array.dtype == np.uint8

        read = outcome("images", lambda: read_images(folder / name), [name])
        if read is None:
            return

        x, shape = read
        require_pixels(x)
        assert shape is None or math.prod(shape) == x.shape[1]
        data = Images(str(folder / name))
        outcome("images", lambda: splits(data), [name, "Images"])


LABEL_FILES = (
    *(".npy", ".npz", "-two.npz", "-empty.npz", "-ubyte", "-ubyte.gz"),
    *("-promise.npy", "-promise-ubyte.gz"),
)


@target(0.08, files(LABEL_FILES, label_arrays()), st.sampled_from([4, 4, 4, 0, 5]))
def labels(file, n):
    name, content = file
    with folder_with({name: content}) as folder:
        y = outcome("labels", lambda: read_labels(folder / name, n), [name])
        if y is not None:
            assert y.shape == (n,)
            assert y.dtype == torch.int64
            assert bool((y >= 0).all())


MODALITY_FILES = files(
    (".npy", ".npy", ".npy", "-promise.npy", "-two.npz"), st.one_of(arrays(), label_arrays(12))
)


@target(
    0.08,
    st.dictionaries(st.sampled_from(["a", "b", "label"]), MODALITY_FILES, min_size=1, max_size=2),
    st.lists(st.sampled_from([*PARTS, "x"]), min_size=1, max_size=2),
)
def modalities(named, parts):
    stored = {f"{key}-{name}": content for key, (name, content) in named.items()}
    with folder_with(stored) as folder:
        paths = {key: str(folder / f"{key}-{name}") for key, (name, _) in named.items()}
        outcome("modalities", lambda: splits(Arrays(paths)), [*stored, *named, "examples"])

        first = next(iter(paths.values()))
        outcome(
            "modalities",
            lambda: splits(Multimodal(Images(first), parts)),
            [*stored, *parts, "labels", "Multimodal", "Images"],
        )


IMAGE_FILES = files((".png", ".jpg", ".gif", ".npy", ".tiff", ".bmp"))


@target(0.04, st.dictionaries(st.integers(0, 9).map(str), IMAGE_FILES, max_size=3))
def folders(named):
    stored = {key + name: content for key, (name, content) in named.items()}
    with folder_with(stored) as folder:
        read = outcome("folders", lambda: read_images(folder), [folder.name])
        if read is not None:
            require_pixels(read[0])


# -- calls ---------------------------------------------------------------------------------------

MASK_TENSORS = [
    torch.ones(64),
    torch.ones(2, 64, dtype=torch.bool),
    torch.zeros(1, 64, dtype=torch.bool),
    torch.tensor(True),
    torch.arange(64) < 9,
    torch.ones(64, dtype=torch.int64),
]


@target(
    0.05,
    st.sampled_from([*MASKS, "", "x", None, 3]),
    st.one_of(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), odd()),
    st.one_of(st.integers(-3, 3), odd()),
    st.sampled_from(MASK_TENSORS),
)
def masks(name, shape, number, mask):
    named = outcome("masks", lambda: named_mask(name, shape, number), ["mask", "shape", "seed"])
    if named is not None:
        assert named.dtype == torch.bool
        assert named.shape == (shape[0] * shape[1],)

    if isinstance(shape, tuple) and min(shape) >= 0:
        mask = torch.zeros(shape, dtype=torch.bool)
    stack = load(models()["plain"])
    x = torch.rand(2, 64)
    filled = outcome("masks", lambda: inpaint(stack, x, mask, seed=number), ["mask", "seed"])
    assert filled is None or filled.shape == x.shape


COUNTS = st.one_of(st.integers(1, 3), st.sampled_from([0, -1, math.nan, math.inf, None, "x", [2]]))
SAMPLERS = [None, "generate", "ancestral", "chain", "joint", "level", "", "é"]
GIVEN_VALUES = [
    torch.zeros(2, 64),
    torch.zeros(0, 64),
    torch.full((2, 64), math.nan),
    torch.zeros(2, 64, dtype=torch.bool),
    torch.zeros(2, 64, dtype=torch.complex64),
    torch.eye(10)[:2],
    torch.tensor(1),
    torch.tensor([1, 3]),
    torch.tensor([11, 1]),
    torch.tensor([-1, 1]),
]
GIVEN_MASKS = [
    None,
    torch.ones(64, dtype=torch.bool),
    torch.zeros(2, 64, dtype=torch.bool),
    torch.ones(10),
    torch.tensor(True),
]


@target(
    0.05,
    COUNTS,
    st.integers(-1, 3),
    st.sampled_from(SAMPLERS),
    st.sampled_from(["image", "label", "x"]),
    st.sampled_from(GIVEN_VALUES),
    st.sampled_from(GIVEN_MASKS),
)
def answers(n, number, sampler, name, value, mask):
    x = outcome(
        "answers",
        lambda: generate(load(models()["plain"]), n, sampler, number),
        ["n", "seed", "sample", "sampler", "sampled"],
    )
    if x is not None:
        assert x.shape == (n, 64)
        assert bool(torch.isfinite(x).all())

    joint = load(models()["joint"])
    seen = None
    if mask is not None:
        seen = {name: mask}
    answer = outcome(
        "answers",
        lambda: complete(joint, {name: value}, seen, n, seed=number),
        [name, "n", "seed", "mask"],
    )
    if answer is not None:
        for part in answer.values.values():
            assert len(part) == len(value) * int(n)
            assert bool(torch.isfinite(part).all())


# -- descriptions, configurations, commands ------------------------------------------------------


def named_in(data: Any) -> list[str]:
    """What a message about a description may name: its keys, types and short values."""
    if isinstance(data, dict):
        inside = [word for value in data.values() for word in named_in(value)]
        return [*map(str, data), *inside]
    if isinstance(data, list):
        return [word for item in data[:9] for word in named_in(item)]
    if isinstance(data, str | int):
        return [str(data)[:60]]

    return []


@target(0.25, st.data())
def descriptions(data):
    name = data.draw(st.sampled_from(sorted(REGISTRY)))
    changed = data.draw(mutated(description_of(name)))
    kept = copy.deepcopy(changed)

    typed = [*named_in(changed), *REGISTRY]
    built = outcome("descriptions", lambda: (build(changed),), typed)
    assert repr(changed)[:2000] == repr(kept)[:2000]
    if built is not None and isinstance(changed, dict) and changed.get("type") == name:
        assert isinstance(built[0], REGISTRY[name])


def configuration(name: str) -> dict:
    """A committed configuration without what a test does not need."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return {key: config[key] for key in ("trainer", "model", "data")}


CLASSIFIER_STACK = {
    "class_path": "gendae.deep_classifier",
    "init_args": {"sizes": [64, 12], "classes": 10},
}
CLASSIFIER = {
    "trainer": {"max_epochs": 1},
    "data": {"class_path": "gendae.Digits"},
    "model": {
        "class_path": "gendae.DifferenceTargetPropRule",
        "init_args": {"rates": {"f": [0.01, 0.01]}, "stack": CLASSIFIER_STACK},
    },
}


@st.composite
def texts(draw):
    """YAML of a training, with a value changed, or the text damaged."""
    name = draw(st.sampled_from([*SMALL, "classifier", "classifier"]))
    config = CLASSIFIER
    if name != "classifier":
        config = configuration(name)

    text = yaml.safe_dump(draw(mutated(config, most=1)), sort_keys=False).encode()
    if draw(st.integers(0, 5)) == 0:
        return draw(damaged(text))

    return text


def checked(path: Path) -> bool:
    """What `gendae compare` does before any training; a generative model is good enough here."""
    try:
        check(read_config(path), {}, [])
    except ValueError as error:
        if "trains no classifier" not in str(error):
            raise

    return True


@target(0.08, texts())
def configurations(text):
    with folder_with({"c.yaml": text}) as folder:
        outcome(
            "configurations",
            lambda: checked(folder / "c.yaml"),
            ["--config", "c.yaml", "Digits", "Toys2D"],
        )


def options(prefix: str, **values: object) -> list[str]:
    """Words of a command line."""
    return [word for key, value in values.items() for word in (f"--{prefix}{key}", str(value))]


QUICK = [
    *options("trainer.", max_epochs=1, limit_train_batches=2, limit_val_batches=1),
    *options("trainer.", enable_progress_bar="false", enable_model_summary="false"),
    *options("trainer.", check_val_every_n_epoch=1),
    *options("parzen.", n=20),
]


@target(0.02, texts())
def trainings(text):
    typed: Sequence[str] = [*text.decode("latin-1").split(), *LACKS, *REGISTRY]
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "c.yaml").write_bytes(text)
        command("trainings", Path(name), ["fit", "--config", "c.yaml", *QUICK], typed)


@target(0.18, command_lines())
def commands(arguments):
    typed = [*OPTIONS[arguments[0]], *LACKS]
    with tempfile.TemporaryDirectory() as name:
        command("commands", lay_out(name), arguments, typed)
