"""Random and nearly valid input: it works, or ends in one clear error; files stay as they were (strategies: fuzz.py)."""

import copy
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gendae import load
from gendae.commands import compare
from gendae.completion.inpainting import MASKS, inpaint, named_mask
from gendae.completion.modalities import complete
from gendae.data.files import read_idx, read_images, read_labels
from gendae.data.images import Images
from gendae.data.multimodal import PARTS, Arrays, Multimodal, read_modality
from gendae.registry import REGISTRY, build
from gendae.sampling.samplers import generate
from tests.fuzz import (
    INDICES,
    ODD,
    bounded_memory,
    command,
    fuzz,
    models,
    mutated,
    nested,
    outcome,
)
from tests.fuzz_commands import OPTIONS, command_lines, described, lay_out
from tests.fuzz_files import (
    FOUND,
    arrays,
    damaged,
    files,
    folder_with,
    labels,
    npy,
)

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = [
    "digits-variational-em",
    "digits-targetprop",
    "digits-kl",
    "digits-joint-label",
    "digits-joint-halves",
    "digits-invertible",
    "digits-optimized",
    "toy-kl",
    "toy-targetprop",
]
#: What a message may name instead of what was typed: the option that is lacking, or what the model is.
LACKS = ("JointStack", "Classifier", "modalit")
odd = INDICES.map(lambda i: copy.deepcopy(ODD[i]))


def sane(x):
    """Rows of pixels in [0, 1]."""
    assert x.ndim == 2
    assert x.numel() > 0
    assert bool(((x >= 0) & (x <= 1)).all())
    return x


def splits(data):
    """All splits of a data set, together as many rows as there are."""
    found = [data.split(name) for name in ("train", "valid", "test")]
    for x, y, _ in found:
        assert bool(torch.isfinite(x).all())
        assert y is None or len(y) == len(x)
    return found


@fuzz("images")
@given(files())
def test_images(file):
    name, content = file
    with folder_with({name: content}) as folder:
        found = outcome("images", lambda: read_images(folder / name), [name])
        if found is not None:
            x, shape = found
            sane(x)
            assert shape is None or math.prod(shape) == x.shape[1]
        if "ubyte" in name or name.endswith(".gz"):
            array = outcome("images", lambda: read_idx(folder / name), [name])
            assert array is None or array.dtype == np.uint8
        if found is not None:
            data = Images(str(folder / name))
            outcome("images", lambda: splits(data), [name, "Images"])


@fuzz("labels")
@given(
    files(
        (
            ".npy",
            ".npz",
            "-two.npz",
            "-empty.npz",
            "-ubyte",
            "-ubyte.gz",
            "-promise.npy",
            "-promise-ubyte.gz",
        ),
        labels(),
    ),
    st.sampled_from([4, 4, 4, 0, 5]),
)
def test_labels(file, n):
    name, content = file
    with folder_with({name: content}) as folder:
        y = outcome("labels", lambda: read_labels(folder / name, n), [name])
        assert y is None or (y.shape == (n,) and y.dtype == torch.int64 and bool((y >= 0).all()))


@fuzz("modalities")
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "label"]),
        files(
            (".npy", ".npy", ".npy", "-promise.npy", "-two.npz"), st.one_of(arrays(), labels(12))
        ),
        min_size=1,
        max_size=2,
    ),
    st.lists(st.sampled_from([*PARTS, "x"]), min_size=1, max_size=2),
)
def test_modalities(named, parts):
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


@fuzz("folders")
@given(
    st.dictionaries(
        st.integers(0, 9).map(str),
        files((".png", ".jpg", ".gif", ".npy", ".tiff", ".bmp")),
        max_size=3,
    )
)
def test_folders(named):
    with folder_with({key + name: content for key, (name, content) in named.items()}) as folder:
        found = outcome("folders", lambda: read_images(folder), [folder.name])
        if found is not None:
            sane(found[0])


@fuzz("masks")
@given(
    st.sampled_from([*MASKS, "", "x", None, 3]),
    st.one_of(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), odd),
    st.one_of(st.integers(-3, 3), odd),
    st.sampled_from(
        [
            torch.ones(64),
            torch.ones(2, 64, dtype=torch.bool),
            torch.zeros(1, 64, dtype=torch.bool),
            torch.tensor(True),
            torch.arange(64) < 9,
            torch.ones(64, dtype=torch.int64),
        ]
    ),
)
def test_masks(name, shape, seed, mask):
    found = outcome("masks", lambda: named_mask(name, shape, seed), ["mask", "shape", "seed"])
    if found is not None:
        assert found.dtype == torch.bool
        assert found.shape == (shape[0] * shape[1],)
    stack, x = load(models()["plain"]), torch.rand(2, 64)
    mask = (
        torch.zeros(shape, dtype=torch.bool)
        if isinstance(shape, tuple) and min(shape) >= 0
        else mask
    )
    filled = outcome("masks", lambda: inpaint(stack, x, mask, seed=seed), ["mask", "seed"])
    assert filled is None or filled.shape == x.shape


@fuzz("answers")
@given(
    st.one_of(st.integers(1, 3), st.sampled_from([0, -1, math.nan, math.inf, None, "x", [2]])),
    st.integers(-1, 3),
    st.sampled_from([None, "generate", "ancestral", "chain", "joint", "level", "", "é"]),
    st.sampled_from(["image", "label", "x"]),
    st.sampled_from(
        [
            torch.zeros(2, 64),
            torch.tensor([1, 3]),
            torch.zeros(0, 64),
            torch.tensor(1),
            torch.full((2, 64), math.nan),
            torch.eye(10)[:2],
            torch.tensor([11, 1]),
            torch.zeros(2, 64, dtype=torch.bool),
            torch.zeros(2, 64, dtype=torch.complex64),
            torch.tensor([-1, 1]),
        ]
    ),
    st.sampled_from(
        [
            None,
            torch.ones(64, dtype=torch.bool),
            torch.zeros(2, 64, dtype=torch.bool),
            torch.ones(10),
            torch.tensor(True),
        ]
    ),
)
def test_answers(n, seed, sampler, name, value, mask):
    x = outcome(
        "answers",
        lambda: generate(load(models()["plain"]), n, sampler, seed),
        ["n", "seed", "sample", "sampler", "sampled"],
    )
    assert x is None or (x.shape == (n, 64) and bool(torch.isfinite(x).all()))
    joint, masks = load(models()["joint"]), None if mask is None else {name: mask}
    found = outcome(
        "answers",
        lambda: complete(joint, {name: value}, masks, n, seed=seed),
        [name, "n", "seed", "mask"],
    )
    if found is not None:
        assert all(
            len(part) == len(value) * int(n) and bool(torch.isfinite(part).all())
            for part in found.values.values()
        )


def named_in(data):
    """What a message about a description may name: its keys, types and short values."""
    if isinstance(data, dict):
        return [word for key, value in data.items() for word in (str(key), *named_in(value))]
    if isinstance(data, list):
        return [word for item in data[:9] for word in named_in(item)]
    return [str(data)[:60]] if isinstance(data, str | int) and abs(len(str(type(data)))) else []


@fuzz("descriptions")
@given(st.data())
def test_descriptions(data):
    name = data.draw(st.sampled_from(sorted(REGISTRY)))
    changed = data.draw(mutated(described(name)))
    kept = copy.deepcopy(changed)
    found = outcome("descriptions", lambda: (build(changed),), [*named_in(changed), *REGISTRY])
    assert repr(changed)[:2000] == repr(kept)[:2000]
    if found is not None and isinstance(changed, dict) and changed.get("type") == name:
        assert isinstance(found[0], REGISTRY[name])


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_descriptions_that_are_mutated_are_valid(name):
    assert isinstance(build(described(name)), REGISTRY[name])


def configuration(name):
    """A committed configuration without what a test does not need."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return {key: config[key] for key in ("trainer", "model", "data")}


CLASSIFIER = {
    "trainer": {"max_epochs": 1},
    "data": {"class_path": "gendae.Digits"},
    "model": {
        "class_path": "gendae.DifferenceTargetPropRule",
        "init_args": {
            "lr_f": [0.01, 0.01],
            "stack": {
                "class_path": "gendae.deep_classifier",
                "init_args": {"sizes": [64, 12], "classes": 10},
            },
        },
    },
}


@st.composite
def configurations(draw):
    """YAML of a training, with a value changed, or the text damaged."""
    name = draw(st.sampled_from([*SMALL, "classifier", "classifier"]))
    config = draw(mutated(CLASSIFIER if name == "classifier" else configuration(name), most=1))
    text = yaml.safe_dump(config, sort_keys=False).encode()
    return draw(damaged(text)) if draw(st.integers(0, 5)) == 0 else text


def checked(path):
    """What `gendae compare` does before any training, but a generative model is as good as a classifier."""
    try:
        compare.check(compare.read_config(path), {}, [])
    except ValueError as error:
        if "trains no classifier" not in str(error):
            raise
    return True


@fuzz("configurations")
@given(configurations())
def test_configurations(text):
    with folder_with({"c.yaml": text}) as folder:
        outcome(
            "configurations",
            lambda: checked(folder / "c.yaml"),
            ["--config", "c.yaml", "Digits", "Toys2D"],
        )


@fuzz("trainings")
@given(configurations())
def test_trainings(text):
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "c.yaml").write_bytes(text)
        command(
            "trainings",
            Path(name),
            [
                "fit",
                "--config",
                "c.yaml",
                "--trainer.max_epochs",
                "1",
                "--trainer.limit_train_batches",
                "2",
                "--trainer.limit_val_batches",
                "1",
                "--trainer.enable_progress_bar",
                "false",
                "--trainer.enable_model_summary",
                "false",
                "--trainer.check_val_every_n_epoch",
                "1",
                "--parzen.n",
                "20",
            ],
            [*text.decode("latin-1").split(), *LACKS, *REGISTRY],
        )


@fuzz("commands")
@given(command_lines())
def test_commands(arguments):
    with tempfile.TemporaryDirectory() as name:
        command("commands", lay_out(name), arguments, [*OPTIONS[arguments[0]], *LACKS])


# -- what the fuzz found, each as small as it became --------------------------------------------------------------


@pytest.mark.parametrize("name", FOUND)
def test_files_that_are_refused(name, tmp_path):
    (tmp_path / name).write_bytes(FOUND[name])
    with bounded_memory(), pytest.raises(ValueError, match=name):
        read_images(tmp_path / name)
    if name.endswith(".npy") and name not in ("colour.npy", "first.npy"):
        with bounded_memory(), pytest.raises(ValueError, match=name):
            read_modality(tmp_path / name)


def test_pickled_objects_are_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    (tmp_path / "x.npy").write_bytes(npy(np.array([[Evil()]], object)))
    for read in (read_images, read_modality, lambda path: read_labels(path, 1)):
        with pytest.raises(ValueError, match="pickled objects"):
            read(tmp_path / "x.npy")
    assert not (tmp_path / "run").exists()


def test_images_of_sixteen_bits_keep_their_grey(tmp_path):
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "x.png")
    x, shape = read_images(tmp_path / "x.png")
    assert shape == (8, 8)
    assert torch.allclose(x[0], torch.from_numpy(grey.reshape(-1).astype(np.float32)) / 65535)


def test_images_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match="mode F"):
        read_images(tmp_path / "x.tiff")


def test_a_huge_label_makes_no_huge_column(tmp_path):
    np.save(tmp_path / "y.npy", np.array([0, 10**12] * 10))
    with pytest.raises(ValueError, match="the label 1000000000000; class indices below 100,000"):
        Arrays({"label": tmp_path / "y.npy"}).setup()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (nested(3000), "nested too deep"),
        ({"type": "Affine", "in_features": math.inf, "out_features": 2}, "in_features=inf"),
        ({"type": "Affine", "in_features": 10**400, "out_features": 2}, "Affine: "),
        ({"type": "Affine", "in_features": 2**40, "out_features": 2**20}, "Affine: "),
        ({"type": "Stack", "pairs": [3]}, "Stack: "),
        ({"type": "Stack", "pairs": 3}, "Stack: "),
        ({"type": "FlipNoise", "probability": "x"}, "FlipNoise: "),
        ({"type": "Junction"}, "Junction: "),
        (
            {"type": "MLP", "in_features": "x", "hidden": [], "out_features": 2},
            "MLP: invalid literal",
        ),
    ],
)
def test_descriptions_that_are_refused(data, words):
    with bounded_memory(), pytest.raises(ValueError, match=words):
        build(data)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "digits-variational-em", "--seed", str(2**70)],
        ["filters", "digits-variational-em", "--seed", str(-(2**70))],
        ["sample", "digits-variational-em", "--device", "meta"],
    ],
)
def test_seeds_and_devices_that_cannot_be_used(arguments, tmp_path):
    assert command("commands", tmp_path, arguments) == 2


@pytest.mark.parametrize(
    "text",
    [
        b"model: {class_path: [1]}\ndata: 1",
        b"model: {class_path: x}\ndata: 1\ntrainer: null",
        b"[" * 3000 + b"]" * 3000,
        b"a: \x00",
        b"a: 2020-99-99",
    ],
)
def test_configurations_that_are_refused(text, tmp_path):
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(ValueError, match="c.yaml") as error:
        checked(tmp_path / "c.yaml")
    assert "\n" not in str(error.value)


def test_a_configuration_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\x80")
    assert command("trainings", tmp_path, ["fit", "--config", "c.yaml"]) == 2


def test_a_model_of_another_width_than_the_data_is_refused(tmp_path):
    fit = [
        "fit",
        "--config",
        str(CONFIGS / "digits-variational-em.yaml"),
        "--model.stack.sizes",
        "[63, 9, 4]",
    ]
    assert (
        command(
            "trainings",
            tmp_path,
            [*fit, "--trainer.enable_progress_bar", "false"],
            ["x has shape"],
        )
        == 2
    )


@pytest.mark.parametrize(
    "options",
    [{"n": 1.5}, {"n": 1, "seed": 2**70}, {"n": 1, "seed": True}, {"n": 1, "sampler": True}],
)
def test_samples_that_should_be_refused(options):
    with pytest.raises(ValueError, match="=") as error:
        generate(load(models()["plain"]), **options)
    assert error
