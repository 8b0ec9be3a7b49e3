"""Strategies of command lines: each option as it should be, or as somebody may mistype it."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz.content import npy, npz, picture
from benchmarks.fuzz.models import models

TYPED = [
    *("", "-1", "0", "nan", "inf", "1e9", "1.5", "[1]", "{}", "null", "true", "x", "é"),
    "a" * 300,
    *("99999999999999999999", "-99999999999999999999", "9223372036854775808"),
    *("a/b", "..", "/", "~", "~nobody/x", "there.png/x.png", "@x.npy", "${HOME}", "*"),
    *("=", "a=b", "label=", "--n", "\x00", "a\nb", "%s", "{0}"),
]


def odd_text():
    """What somebody may type by mistake."""
    return st.one_of(st.sampled_from(TYPED), st.text(max_size=8))


def either(*good):
    """One of these, mostly; else something odd."""
    fine = st.sampled_from([str(value) for value in good])

    def chosen(number):
        if number == 19:
            return odd_text()
        return fine

    return st.integers(0, 19).flatmap(chosen)


def outputs(*suffixes):
    """Output files: new ones, one that exists, some that cannot be written."""
    first = suffixes[0]
    fine = [f"{stem}{suffix}" for stem in ("out", "there") for suffix in suffixes]
    long = ["é" * 100 + first, "y" * 300 + first]
    elsewhere = [f"new/deep/out{first}", f"folder{first}", f"x.npy/out{first}"]

    return either(*fine * 4, *elsewhere, "out.txt", "out", f"/proc/none/out{first}", *long, first)


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
OFTEN = ["x.npy", "both.npz", "one.png"] * 3
SELDOM = ["images", "wide.npy", "labels.npy", "missing.npy", "broken.npz", "folder.png", "x.txt"]
IMAGES = either(*OFTEN, *SELDOM)
GIVEN_OFTEN = ["label=3", "image=x.npy", "image=one.png"] * 5
GIVEN_SELDOM = [
    *("label=labels.npy", "label=10", "label=-1", "label=x.npy", "label=1.0", "other=1"),
    *("image=both.npz", "image=wide.npy", "image=missing.npy", "image=folder.png"),
    *("image=3", "image=images"),
]
GIVEN = st.lists(either(*GIVEN_OFTEN, *GIVEN_SELDOM), min_size=1, max_size=2)

#: Options of each command, by strategy; "--given" takes several values. `evaluate` costs seconds
#: where it works: --n is always refused here.
OPTIONS = {
    "sample": {
        "--n": COUNT,
        "--seed": SEEDS,
        "--device": DEVICES,
        "--sampler": either("generate", "ancestral", "chain", "joint", "level"),
        "--given": GIVEN,
        "--rounds": few(0, 1, 2),
        "--sampler.rounds": few(0, 1, 2),
        "--sampler.inference": either("GradientInference", "os.system"),
        "--sampler.inference.alpha": either(0, 0.1),
        "--sampler.": either(1),
        "--completer.begin": either("prior", "mask", "noise"),
        "--out": outputs(".png", ".npz", ".npy"),
    },
    "complete": {
        "--given": GIVEN,
        "--mask": either("left", "random"),
        "--mode": either("map", "mcmc", "annealed"),
        "--rounds": few(0, 1, 3),
        "--completer.rounds": few(0, 1, 3),
        "--completer.corruption": either("GaussianNoise", "SpikeNoise", "null"),
        "--completer.annealing.settle": either(0, 0.5, 1),
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
        "--inpainter.chains": few(1, 2),
        "--inpainter.level": either("null", 1, 2),
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
        "--sampler.residual": either(0, 1),
        "--sampler.corruption.sigma": either(0, 0.5),
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
#: Options that a command cannot do without, where they are not --out.
REQUIRED = {
    "complete": ["--given", "--out"],
    "compare": ["--config", "--rules", "--out"],
    "evaluate": ["--n"],
    "info": [],
}
#: The model that a command is for, where it is not the plain one.
OWN = {"predict": "classifier", "complete": "joint"}
NO_MODELS = ["missing", "x.npy", "folder.png", "fake.ckpt", "fake.safetensors"]


@st.composite
def command_lines(draw):
    """A command with a model and some of its options, each as it should be or odd."""
    name = draw(st.sampled_from(list(OPTIONS)))
    known = models()
    own = known[OWN.get(name, "plain")]

    line = [name]
    if name == "export":
        line.append(draw(either("folder.png", "missing", "x.npy", own)))
    elif name != "compare":
        line.append(draw(either(*[own] * 16, *known.values(), *NO_MODELS)))
    if name == "predict":
        line.append(draw(IMAGES))

    options = REQUIRED.get(name, ["--out"])
    if OPTIONS[name]:
        some = st.lists(st.sampled_from(sorted(OPTIONS[name])), unique=True, max_size=3)
        options = [*options, *draw(some)]

    for option in dict.fromkeys(options):
        value = draw(OPTIONS[name][option])
        if not isinstance(value, list):
            value = [value]
        line += [option, *value]

    return line


def things() -> dict[str, bytes]:
    """Files in the folder of a command: images of several kinds, broken ones, older outputs."""
    x = np.random.default_rng(0).random((3, 64)).astype(np.float32)
    older = (".png", ".npz", ".npy", ".json", ".safetensors")

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
        **{f"there{suffix}": b"what was there before" for suffix in older},
    }


def lay_out(folder: str) -> Path:
    """Put them into a folder, with a folder of images and folders where files are wanted."""
    files = things()
    for name, content in files.items():
        (Path(folder) / name).write_bytes(content)

    for name in ("images", "folder.png", "folder.npz", "folder.json", "folder.safetensors"):
        (Path(folder) / name).mkdir()
    (Path(folder) / "images/a.png").write_bytes(files["one.png"])

    return Path(folder)
