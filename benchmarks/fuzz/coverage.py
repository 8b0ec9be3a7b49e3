"""Fuzz the readers of files, guided by coverage: atheris changes the bytes of a small corpus.

    python -m benchmarks.fuzz.coverage idx [--seconds 60] [--corpus benchmarks/fuzz/corpus]

Each input is read, or refused with one clear line that names the file; anything else, and whatever
takes longer than `HANG` seconds, is a crash: libFuzzer writes the input to crash-* beside it and
stops. New inputs of new coverage go to a temporary folder; the corpus stays as it is.
`pip install atheris` (Linux, Python 3.11 to 3.13) is needed, and nothing else in gendae uses it.
"""

import argparse
import functools
import json
import logging
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fuzz.oracle import TALLY, outcome

if TYPE_CHECKING:
    from torch import Tensor

CORPUS = Path(__file__).parent / "corpus"
#: Seconds after which an input counts as a hang, and megabytes above which it is a bomb.
HANG = 10
MEMORY = 4096


def _idx(path: Path) -> object:
    from gendae.data.files import read_idx

    return read_idx(path)


def _image(path: Path) -> object:
    from gendae.data.sources import read_images

    return read_images(path, "grey")


def _npz(path: Path) -> object:
    from gendae.data.sources import read_pictures

    return read_pictures(path)


@functools.cache
def _tensors() -> tuple[dict[str, "Tensor"], str]:
    """Those of a small model, which the corpus describes, and their checksum."""
    import gendae
    from gendae.storage.model_file import digest

    stack = gendae.deep_autoencoder([3, 2])
    tensors = {name: value for name, value in stack.state_dict().items() if value.numel()}
    return tensors, digest(tensors)


def _safetensors(path: Path) -> object:
    """The bytes are the description: around them stands a file whose checksums are right."""
    from safetensors.torch import save

    from gendae.storage.model_file import FORMAT, METADATA, _sha256, load

    tensors, checksum = _tensors()
    text = path.read_bytes().decode("utf-8", "replace")
    text = text.replace("DIGEST", checksum)
    metadata = dict(zip(METADATA, (FORMAT, text, _sha256(text)), strict=True))
    path.write_bytes(save(tensors, metadata))

    return load(path)


def _yaml(path: Path) -> object:
    from gendae.training.configurations import read_config

    return read_config(path)


#: The readers by name, with the suffix of the file that they are given.
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "idx": ("x-ubyte", _idx),
    "idx-gz": ("x.gz", _idx),
    "image": ("x.png", _image),
    "csv": ("x.csv", _npz),
    "npz": ("x.npz", _npz),
    "safetensors": ("x.safetensors", _safetensors),
    "yaml": ("x.yaml", _yaml),
}
#: What is watched beside `gendae.data.files`; modules that gendae itself imports early cannot be.
INSTRUMENTED = {
    "idx": [],
    "idx-gz": [],
    "image": ["PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.TiffImagePlugin"],
    "npz": ["gendae.data.sources"],
    "csv": ["gendae.data.tables", "gendae.data.sources"],
    "safetensors": ["gendae.storage.model_file", "gendae.registry", "gendae.storage.verify"],
    "yaml": ["gendae.training.configurations", "yaml"],
}


#: What stands in the place of a part of a description, beside other parts of it and class names.
VALUES = (None, True, -1, 0, 1, 2**31, 2**63, 1e308, 0.5, "", "DIGEST", [], {}, [[]], {"type": 1})


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """A description with a part replaced: of bytes changed anywhere, hardly any is JSON."""
    import atheris

    from gendae.registry import REGISTRY

    chance = random.Random(seed)
    try:
        description = json.loads(data)
    except (ValueError, RecursionError):
        return atheris.Mutate(data, most)
    if chance.random() < 0.1:
        return atheris.Mutate(data, most)

    places = list(_places(description))
    if not places:
        return atheris.Mutate(data, most)

    holder, key = chance.choice(places)
    other, name = chance.choice(places)
    holder[key] = chance.choice(
        [other[name], chance.choice(VALUES), chance.choice(list(REGISTRY))]
    )
    try:
        return json.dumps(description).encode()[:most]
    except (ValueError, RecursionError):  # a part within itself
        return data


def _places(part: Any) -> Iterator[tuple[Any, Any]]:
    """Each list or dictionary within plain data, with each of its indices or keys."""
    if not isinstance(part, dict | list):
        return

    for key in list(part) if isinstance(part, dict) else range(len(part)):
        yield part, key
        yield from _places(part[key])


def tried(name: str, data: bytes, folder: Path) -> None:
    """One input: the reader works, or refuses it in one clear line.

    Raises:
        whatever else it ends in.
    """
    suffix, reader = READERS[name]
    path = folder / suffix
    path.write_bytes(data)
    outcome(name, lambda: reader(path), [path, path.name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=list(READERS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    args = parser.parse_args()

    import atheris

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    found = tempfile.mkdtemp()
    folder = Path(tempfile.mkdtemp())
    watched = ["gendae.data.files", *INSTRUMENTED[args.name]]
    seeds = args.corpus / args.name
    with atheris.instrument_imports(include=watched):
        for file in sorted(seeds.iterdir()):
            tried(args.name, file.read_bytes(), folder)  # imports all that it needs

    options = [
        f"-max_total_time={args.seconds}",
        f"-timeout={HANG}",
        f"-rss_limit_mb={MEMORY}",
        "-max_len=4096",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/crash-",
    ]

    def one(data: bytes) -> None:
        tried(args.name, data, folder)
        if TALLY[args.name].total() % 100 == 0:  # libFuzzer ends the process itself
            print(f"{args.name}: {dict(TALLY[args.name])}", file=sys.stderr)

    mutator = mutated if args.name == "safetensors" else None
    atheris.Setup([sys.argv[0], *options, found, str(seeds)], one, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
