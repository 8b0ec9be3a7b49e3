"""Strategies for command lines and descriptions of the fuzz tests."""

import inspect
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from gendae.registry import REGISTRY, import_public
from tests.fuzz import models
from tests.fuzz_files import npy, npz, picture

import_public()  # all classes, whatever was used before

# -- descriptions ------------------------------------------------------------------------------------------------

LAYERS = {
    "f": {"type": "Affine", "in_features": 4, "out_features": 3},
    "g": {"type": "Affine", "in_features": 3, "out_features": 4},
}
PAIR = {"type": "Pair", **LAYERS}
STACK = {"type": "Stack", "pairs": [PAIR]}
OUTPUT = {"type": "Affine", "in_features": 3, "out_features": 2}
CLASSIFIER = {"type": "Classifier", "pairs": [PAIR], "output": OUTPUT}
JUNCTION = {
    "type": "Junction",
    "f": {"type": "Affine", "in_features": 7, "out_features": 3},
    "g": {"type": "Affine", "in_features": 3, "out_features": 5},
}
JOINT = {
    "type": "JointStack",
    "top": [JUNCTION],
    "modalities": {
        "a": {"type": "Modality", "width": 4, "pairs": [PAIR]},
        "b": {"type": "Modality", "width": 2, "kind": "onehot"},
    },
}
#: What a constructor needs, beside its defaults.
NEEDED = {
    "Affine": OUTPUT,
    "Arrays": {"files": {"a": "a.npy"}},
    "Classifier": CLASSIFIER,
    "Pair": LAYERS,
    "OptimizingPair": LAYERS,
    "EachModality": {
        "corruptions": [None, {"type": "GaussianNoise", "sigma": 0.1}],
        "widths": [1, 2],
    },
    "FlipNoise": {"probability": 0.1},
    "GaussianNoise": {"sigma": 0.1},
    "RelativeNoise": {"sigma": 0.1},
    "Images": {"path": "x.npy"},
    "Shards": {"path": "x.npy"},
    "InvertibleAffine": {"features": 3},
    "InvertiblePair": {"features": 3},
    "JointStack": JOINT,
    "Junction": JUNCTION,
    "LearnedGaussian": {"features": 3, "hidden": [2], "given": 4},
    "MLP": {"in_features": 2, "hidden": [3], "out_features": 2},
    "Modality": {"width": 3, "pairs": []},
    "Multimodal": {"source": {"type": "Digits"}, "parts": ["image", "label"]},
    "Stack": STACK,
    "TiedPair": {"in_features": 3, "out_features": 2},
}
CLASSIFIER_RULES = (
    "BackpropRule",
    "ContrastiveHebbianRule",
    "DifferenceTargetPropRule",
    "FeedbackAlignmentRule",
    "GeneRecRule",
    "StraightThroughRule",
)


def described(name):
    """A valid description of a registered class: what it needs, and its plain defaults."""
    stack = (
        CLASSIFIER
        if name in CLASSIFIER_RULES
        else JOINT
        if name == "JointTargetPropRule"
        else STACK
    )
    found = {"type": name, **({"stack": stack} if name.endswith("Rule") else NEEDED.get(name, {}))}
    for p in inspect.signature(REGISTRY[name]).parameters.values():
        if p.name not in found and isinstance(p.default, bool | int | float | str | None):
            found[p.name] = p.default
    return {**found, "type": name}


# -- command lines -----------------------------------------------------------------------------------------------


def odd_text():
    """What somebody may type by mistake."""
    return st.one_of(
        st.sampled_from(
            [
                "",
                "-1",
                "0",
                "nan",
                "inf",
                "1e9",
                "1.5",
                "x",
                "é",
                "a" * 300,
                "a/b",
                "..",
                "/",
                "~",
                "~nobody/x",
                "[1]",
                "{}",
                "null",
                "true",
                "99999999999999999999",
                "-99999999999999999999",
                "9223372036854775808",
                "=",
                "a=b",
                "label=",
                "\x00",
                "%s",
                "{0}",
                "*",
                "a\nb",
                "--n",
                "${HOME}",
                "@x.npy",
                "there.png/x.png",
            ]
        ),
        st.text(max_size=8),
    )


def either(*good):
    """One of these, mostly; else something odd."""
    fine = st.sampled_from([str(value) for value in good])
    return st.integers(0, 19).flatmap(lambda i: odd_text() if i == 19 else fine)


def outputs(*suffixes):
    """Output files: new ones, one that is there, some that cannot be."""
    names = [f"out{suffix}" for suffix in suffixes] + [f"there{suffix}" for suffix in suffixes]
    return either(
        *names * 4,
        "new/deep/out" + suffixes[0],
        f"folder{suffixes[0]}",
        "x.npy/out" + suffixes[0],
        "out.txt",
        "out",
        "/proc/none/out" + suffixes[0],
        "é" * 100 + suffixes[0],
        "y" * 300 + suffixes[0],
        suffixes[0],
    )


def few(*good):
    """Small counts; large ones are fine, and take as long as they say."""

    def quick(text):
        try:
            return not float(text) > 1000
        except ValueError:
            return True

    return either(*good).filter(quick)


COUNT = few(1, 2, 3)
SEEDS = either(0, 1, 7)
DEVICES = either(*["cpu"] * 9, "cuda:99", "meta", "mps")
IMAGES = either(
    *["x.npy", "both.npz", "one.png"] * 3,
    "images",
    "wide.npy",
    "labels.npy",
    "missing.npy",
    "broken.npz",
    "folder.png",
    "x.txt",
)
GIVEN = st.lists(
    either(
        *["label=3", "image=x.npy", "image=one.png"] * 5,
        "label=labels.npy",
        "image=both.npz",
        "label=10",
        "image=wide.npy",
        "label=-1",
        "image=missing.npy",
        "other=1",
        "image=folder.png",
        "label=x.npy",
        "image=3",
        "label=1.0",
        "image=images",
    ),
    min_size=1,
    max_size=2,
)
#: Options of each command, by strategy; "given" may repeat its value. evaluate costs seconds where it works: n is refused here.
OPTIONS = {
    "sample": {
        "--n": COUNT,
        "--seed": SEEDS,
        "--device": DEVICES,
        "--sampler": either("generate", "ancestral", "chain", "joint", "level"),
        "--given": GIVEN,
        "--rounds": few(0, 1, 2),
        "--out": outputs(".png", ".npz", ".npy"),
    },
    "complete": {
        "--given": GIVEN,
        "--mask": either(*["left", "random"]),
        "--mode": either("map", "mcmc", "annealed"),
        "--rounds": few(0, 1, 3),
        "--n": COUNT,
        "--seed": SEEDS,
        "--device": DEVICES,
        "--out": outputs(".npz"),
    },
    "inpaint": {
        "--n": COUNT,
        "--seed": SEEDS,
        "--device": DEVICES,
        "--mask": either("left", "random", "one.png", "wide.png", "folder.png"),
        "--data": IMAGES,
        "--out": outputs(".png"),
        "--root": either("folder.png"),
    },
    "evaluate": {
        "--n": st.sampled_from(["0", "-3", "x", "", "1.5"]),
        "--seed": SEEDS,
        "--data": IMAGES,
        "--sigma-x": either(0.5, 0, "nan"),
        "--json": outputs(".json"),
    },
    "predict": {
        "--samples": few(1, 2),
        "--seed": SEEDS,
        "--device": DEVICES,
        "--out": outputs(".npz"),
    },
    "chain": {
        "--n": COUNT,
        "--seed": SEEDS,
        "--device": DEVICES,
        "--sampler": either("level", "generate", "chain", "joint"),
        "--level": either(0, 1, 2),
        "--steps": few(1, 3),
        "--out": outputs(".png"),
    },
    "filters": {
        "--n": COUNT,
        "--level": either(1, 2, 3),
        "--seed": SEEDS,
        "--out": outputs(".png"),
    },
    "spectrum": {"--root": either("folder.png"), "--out": outputs(".png"), "--device": DEVICES},
    "info": {},
    "export": {
        "--out": outputs(".safetensors"),
        "--which": either("best", "last"),
        "--root": either("folder.png"),
    },
    "compare": {
        "--config": either("config.yaml", "x.npy", "missing.yaml", "one.png", "folder.png"),
        "--rules": either("BackpropRule", "KLRule", "os.system", "x.yaml", "config.yaml"),
        "--seeds": either(0, -1),
        "--out": either("compared", "x.npy"),
        "--max-epochs": either(0, -1),
    },
}


@st.composite
def command_lines(draw):
    """A command with a model and some of its options, each as it should be or odd."""
    name = draw(st.sampled_from(list(OPTIONS)))
    known = models()
    found = [name]
    own = known[{"predict": "classifier", "complete": "joint"}.get(name, "plain")]
    if name == "export":
        found.append(draw(either("folder.png", "missing", "x.npy", own)))
    elif name != "compare":
        found.append(
            draw(
                either(
                    *[own] * 16,
                    *known.values(),
                    "missing",
                    "x.npy",
                    "folder.png",
                    "fake.ckpt",
                    "fake.safetensors",
                )
            )
        )
    if name == "predict":
        found.append(draw(IMAGES))
    required = {
        "complete": ["--given", "--out"],
        "export": ["--out"],
        "compare": ["--config", "--rules", "--out"],
        "evaluate": ["--n"],
    }.get(name, ["--out"] if "--out" in OPTIONS[name] else [])
    optional = (
        draw(st.lists(st.sampled_from(sorted(OPTIONS[name])), unique=True, max_size=3))
        if OPTIONS[name]
        else []
    )
    for option in dict.fromkeys([*required, *optional]):
        value = draw(OPTIONS[name][option])
        found += [option, *(value if isinstance(value, list) else [value])]
    return found


def things():
    """What lies in the folder of a command: images in several kinds of file, broken ones, and older outputs."""
    x = np.random.default_rng(0).random((3, 64)).astype(np.float32)
    before = b"what was there before"
    return {
        "x.npy": npy(x),
        "wide.npy": npy(x[:, :63]),
        "labels.npy": npy(np.arange(3)),
        "both.npz": npz({"x": x, "y": np.arange(3)}),
        "one.png": picture(x[0] * 255),
        "wide.png": picture(x[0, :9] * 255),
        "broken.npz": npz({"x": x})[:100],
        "x.txt": b"text",
        "fake.ckpt": b"text",
        "fake.safetensors": b"text" * 10,
        "config.yaml": b"a: [",
        **{
            f"there{suffix}": before
            for suffix in (".png", ".npz", ".npy", ".json", ".safetensors")
        },
    }


def lay_out(folder):
    """Put them there, with a folder of images and one where a file is wanted."""
    for name, content in things().items():
        (Path(folder) / name).write_bytes(content)
    for name in ("images", "folder.png", "folder.npz", "folder.json", "folder.safetensors"):
        (Path(folder) / name).mkdir()
    (Path(folder) / "images/a.png").write_bytes(things()["one.png"])
    return Path(folder)
