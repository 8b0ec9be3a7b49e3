"""Fuzz the readers of files, guided by coverage: atheris changes the bytes of a small corpus.

    python -m benchmarks.fuzz.coverage idx [--seconds 60] [--corpus benchmarks/fuzz/corpus]

Each input is read, or refused with one clear line that names the file; anything else, and whatever
takes longer than `HANG` seconds, is a crash: libFuzzer writes the input to crash-* beside it and
stops. New inputs of new coverage go to a temporary folder; the corpus stays as it is.
`pip install atheris` (Linux, Python 3.11 to 3.13) is needed, and nothing else in gendae uses it.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz.oracle import TALLY, outcome

CORPUS = Path(__file__).parent / "corpus"
#: Seconds after which an input counts as a hang, and megabytes above which it is a bomb.
HANG = 10
MEMORY = 4096


def _idx(path: Path) -> object:
    from gendae.data.files import read_idx

    return read_idx(path)


def _image(path: Path) -> object:
    from gendae.data.files import read_images

    return read_images(path)


def _npz(path: Path) -> object:
    from gendae.data.files import labels_of, read_images

    x, _ = read_images(path)
    return x, labels_of(path, len(x), strict=False)


def _safetensors(path: Path) -> object:
    """The bytes are the description: around them stands a file whose checksums are right."""
    import torch
    from safetensors.torch import save

    from gendae.storage.model_file import FORMAT, METADATA, _sha256, digest, load

    tensors = {"pairs.0.f.weight": torch.zeros(2, 3)}
    text = path.read_bytes().decode("utf-8", "replace")
    text = text.replace("DIGEST", digest(tensors))
    metadata = dict(zip(METADATA, (FORMAT, text, _sha256(text)), strict=True))
    path.write_bytes(save(tensors, metadata))

    return load(path)


def _yaml(path: Path) -> object:
    from gendae.commands.compare import read_config

    return read_config(path)


#: The readers by name, with the suffix of the file that they are given.
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "idx": ("x-ubyte", _idx),
    "idx-gz": ("x.gz", _idx),
    "image": ("x.png", _image),
    "npz": ("x.npz", _npz),
    "safetensors": ("x.safetensors", _safetensors),
    "yaml": ("x.yaml", _yaml),
}
#: What is watched beside `gendae.data.files`; modules that gendae itself imports early cannot be.
INSTRUMENTED = {
    "idx": [],
    "idx-gz": [],
    "image": ["PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.TiffImagePlugin"],
    "npz": [],
    "safetensors": ["gendae.storage.model_file", "gendae.registry", "gendae.storage.verify"],
    "yaml": ["gendae.commands.compare", "yaml"],
}


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

    atheris.Setup([sys.argv[0], *options, found, str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
