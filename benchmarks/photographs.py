"""Colour photographs that patches are cut from: those which scikit-image and scikit-learn bring.

    python -m benchmarks.photographs FOLDER

It needs scikit-image (pip install scikit-image). What is no photograph of the world at daylight
(microscopy, drawings) is left out.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from gendae.data.patches import bundled

NAMES = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "rocket")


def photographs():
    """(height, width, 3) bytes each, by name."""
    try:
        import skimage
    except ImportError:
        raise SystemExit("benchmarks.photographs needs scikit-image") from None

    folder = Path(skimage.__file__).parent / "data"
    found = {}
    for name in NAMES:
        (path,) = folder.glob(f"{name}.*")
        found[name] = np.asarray(Image.open(path).convert("RGB"))

    return found | {Path(name).stem: image for name, image in bundled().items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()

    args.folder.mkdir(parents=True, exist_ok=True)
    for name, image in photographs().items():
        Image.fromarray(image).save(args.folder / f"{name}.png")
        print(name, image.shape)


if __name__ == "__main__":
    main()
