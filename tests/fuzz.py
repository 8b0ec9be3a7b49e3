"""Strategies and the oracle of the fuzz tests: a call works and its result is sane, or it ends in one clear error.

GENDAE_FUZZ_CASES sets the number of cases over all targets; GENDAE_FUZZ_SEED draws other ones than the fixed set.
"""

import atexit
import contextlib
import copy
import functools
import io
import math
import os
import re
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from PIL import Image

from gendae import cli

CASES = int(os.environ.get("GENDAE_FUZZ_CASES", "400"))
SEED = os.environ.get("GENDAE_FUZZ_SEED")
#: Share of the cases of each target: a training costs as much as a hundred files.
SHARES = {
    "images": 0.17,
    "labels": 0.08,
    "modalities": 0.08,
    "folders": 0.04,
    "masks": 0.05,
    "answers": 0.05,
    "descriptions": 0.25,
    "configurations": 0.08,
    "trainings": 0.02,
    "commands": 0.18,
}
TALLY = {target: Counter() for target in SHARES}
#: What a call may take beyond what the process has already; a header that promises more must not be believed.
MEMORY = 3 << 30
LONGEST = 500


def fuzz(target):
    """Decorator: the number of cases and the seed of a target's property."""

    def wrap(test):
        chosen = settings(
            max_examples=max(5, round(CASES * SHARES[target])),
            deadline=None,
            database=None,
            derandomize=SEED is None,
            suppress_health_check=list(HealthCheck),
        )
        return chosen(test) if SEED is None else seed(int(SEED))(chosen(test))

    return wrap


# -- the oracle ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bounded_memory(allowed=MEMORY):
    """Allocations above what is allowed fail, so that none takes the machine's memory. Linux only."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def clear(message, typed, longest=LONGEST):
    """One line that is not too long and names something the user typed."""
    assert message.strip(), "an empty message"
    assert "\n" not in message.strip(), f"more than one line: {message}"
    assert "Traceback" not in message
    assert len(message) < longest, f"{len(message)} characters: {message}"
    short = re.findall(r"-?[\w.]+|\S", message)  # where a short word must stand alone
    assert any(
        word and word in (message if len(word) > 2 else short) for word in map(str, typed)
    ), f"names nothing of {typed}: {message}"


def outcome(target, call, typed):
    """The result of a call, or None where it was refused with one clear ValueError or OSError; others fall through."""
    with warnings.catch_warnings(), bounded_memory():
        warnings.simplefilter("ignore")
        try:
            result = call()
        except (ValueError, OSError) as error:
            clear(str(error), typed, 3 * LONGEST)
            TALLY[target]["refused"] += 1
            return None
    TALLY[target]["worked"] += 1
    return result


def contents(folder):
    """Every file below a folder, with its bytes."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def words(arguments):
    """What of the arguments a message may name: each, without dashes, and both sides of NAME=VALUE."""
    found = []
    for argument in map(str, arguments[1:]):
        bare = argument.lstrip("-")
        found += [
            argument,
            bare,
            bare.replace("-", "_"),
            *argument.split("="),
            argument[:60],
            argument[-60:],
            str(Path(argument)),
            os.path.expanduser(argument),
            repr(argument)[1:-1],
            *re.findall(r"[\w.]+", argument),
        ]
    return [word for word in found if word] or arguments[:1]


def readable(path):
    """Fail unless an output file can be read back."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix in (".npz", ".npy"):
        loaded = np.load(path)
        for name in getattr(loaded, "files", []):
            assert np.isfinite(loaded[name]).all(), f"{path}: {name} is not finite"


def command(target, folder, arguments, also=()):
    """Run a command line in a folder under the oracle; its exit code. Messages may name `also`, too."""
    before, here = contents(folder), Path.cwd()
    out, err = io.StringIO(), io.StringIO()
    parsed = True
    os.chdir(folder)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            bounded_memory(),
        ):
            warnings.simplefilter("ignore")
            try:
                code = cli.main(list(arguments))
            except SystemExit as stop:
                code, parsed = stop.code, False
    finally:
        os.chdir(here)
    after, said = contents(folder), err.getvalue()
    made = [name for name in after if after[name] != before.get(name)]
    assert before.keys() <= after.keys(), f"gone: {before.keys() - after.keys()}"
    assert not any(Path(name).name.startswith(".") for name in made), f"left behind: {made}"
    if code == 0:
        for name in made:
            readable(folder / name)
    else:
        assert code in ((2,) if not parsed else (1, 2)), f"exit code {code}: {said}"
        assert not made, f"a refused command wrote {made}"
        assert "Traceback" not in said
        errors = [line for line in said.splitlines() if "error:" in line]
        if parsed:
            assert len(errors) == 1 and errors[0].startswith("gendae: error: "), said
            clear(errors[0].removeprefix("gendae: error: "), [*words(arguments), *also])
        else:
            assert errors, f"no reason: {said}"
    TALLY[target]["worked" if code == 0 else "refused"] += 1
    return code


# -- plain data ------------------------------------------------------------------------------------------------


def nested(depth):
    """Lists in lists."""
    found = []
    for _ in range(depth):
        found = [found]
    return found


#: What stands where something else is wanted. Widths are small or hopeless, so that none is allocated in earnest.
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    1.5,
    -0.5,
    math.nan,
    math.inf,
    -math.inf,
    2**62,
    10**400,
    "",
    "x",
    "nan",
    "1",
    "é" * 300,
    [],
    [[]],
    [0],
    [-1],
    ["x"],
    [None],
    {},
    {"type": "Nope"},
    {"type": "Affine"},
    {"type": 3},
    {"type": "GaussianNoise", "sigma": 0.1},
    {"type": "Stack"},
    {"a": {"b": 1}},
    nested(50),
    [3, 4],
    [1.5, 2],
    {"type": "Gaussian"},
    b"\x00",
]


INDICES = st.integers(0, len(ODD) - 1)


def places(data, path=()):
    """Paths of all values in nested plain data."""
    yield path
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def mutated(draw, data, most=2):
    """Plain data with a value replaced, deleted, renamed, wrapped or repeated, once or twice."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, most))):
        *way, key = draw(st.sampled_from([p for p in places(data) if p] or [(None,)]))
        if key is None:
            return ODD[draw(INDICES)]
        parent = functools.reduce(lambda part, step: part[step], way, data)
        how = draw(
            st.sampled_from(
                ["replace", "replace", "replace", "delete", "rename", "wrap", "repeat"]
            )
        )
        value = copy.deepcopy(ODD[draw(INDICES)])
        if how == "delete":
            del parent[key]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "self", "cls", "type", f"{key}_", ""]))] = (
                parent.pop(key)
            )
        elif how == "wrap":
            parent[key] = [parent[key]]
        elif how == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = value
    return data


@functools.cache
def shared_folder():
    """A folder for models of all cases, gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def models():
    """Paths of small models: of digits, of digits with labels, and a classifier."""
    from gendae import Digits, save
    from gendae.data.multimodal import Multimodal
    from gendae.models.architectures import deep_autoencoder, deep_classifier, joint_autoencoder

    torch.manual_seed(0)
    facts = {
        "dataset": {"type": "Digits", "batch_size": 100, "seed": 0},
        "shape": [8, 8],
        "seed": 0,
    }
    x, both = Digits().split("train").x, Multimodal(Digits(), ["image", "label"]).split("train").x
    joint = joint_autoencoder(
        {
            "image": {"sizes": [64, 12], "observation": "bernoulli"},
            "label": {"sizes": [10], "kind": "onehot"},
        },
        top=[8],
    )
    found = {}
    for name, stack, data in (
        ("plain", deep_autoencoder([64, 12, 6]), x),
        ("joint", joint, both),
        ("classifier", deep_classifier([64, 12]), x),
    ):
        with torch.no_grad():
            stack.prior.fit(stack.encode(data)[-1])
            stack.fit_residuals(data)
        stack.facts = {**facts, "shapes": {"image": [8, 8]}} if name == "joint" else dict(facts)
        found[name] = str(save(stack, shared_folder() / f"{name}.safetensors"))
    return found
