"""Cards of the shipped models, docs/zoo.md and checkpoints/README.md, from the manifest.

    python -m benchmarks.zoo                       pages, and pictures that are missing or stale
    python -m benchmarks.zoo --again FOLDER        first note what `gendae reproduce` found there

Pictures lie in docs/zoo/ and name the SHA-256 of the file that they are of.
"""

import argparse
import io
import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from gendae import complete, generate, inpaint, load, named_mask, plots
from gendae.commands.common import markdown, shape_of
from gendae.commands.data import data_of
from gendae.commands.filters import _weights
from gendae.data.mosaic import tile
from gendae.models.joint import JointStack, kind_of
from gendae.storage.atomic import write_whole
from gendae.storage.shipped import manifest
from gendae.training.zoo import TOLERATED, differs, error_se, promised, score_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/zoo.md"
README = ROOT / "checkpoints/README.md"
FOLDER = ROOT / "docs/zoo"
#: Key of a PNG's text that names the file of weights.
KEY = "model-sha256"
#: Most bytes of a picture.
MOST = 30_000
#: Images side by side; all of them; least pixels of one and of its frame; height of a caption.
COLUMNS = 10
SHOWN = 20
WIDE = 60
CAPTION = 14
#: Shades of a picture, the first ones with which it is small enough.
SHADES = (64, 32, 16, 8, 4)
#: What a card shows, and what it says of it.
PICTURES = {
    "samples": "Samples, seed 0.",
    "filters": "Incoming weights of the first units, each on its own scale.",
    "answers": "The first test images that it gets wrong: label, then answer.",
    "fillings": "Test images, half of whose pixels are hidden, and filled in.",
    "field": "Where reconstruction leads from each point, and test points.",
}

HEAD = """# Models

{n} trained models come with gendae. `gendae.load("NAME")` and every command find them by name, and
check the SHA-256. `gendae reproduce --tables zoo` makes them again
([how](how-to/reproduce.md#models-made-again)). Scores are of test images; ± is their standard
error over these. LL: Parzen log-likelihood in nats. Other measures:
[evaluate](cli.md#gendae-evaluate).
This page is made from `checkpoints/manifest.json` by `python -m benchmarks.zoo`.

"""

README_HEAD = """# Shipped models

`gendae sample NAME` and `gendae.load("NAME")` find them by name. `manifest.json` holds the same
facts for programs; this file and the [cards](../docs/zoo.md), with pictures, are made from it by
`python -m benchmarks.zoo`. All were trained by a committed configuration and scored with
`benchmarks/ship.py`, with the weights that are shipped; where a Gaussian top was chosen
(`--choose-prior`), it was on validation images. Classifiers are seed 0 of each row of
docs/results.md, whichever seed was best. `features/` holds no generative models but the frozen
networks on whose features sample quality is measured, each of its own data set, both of seed 0:
`mnist-classifier.safetensors` (`python -m benchmarks.classifier`, configs/mnist-classifier.yaml;
0.77 % test error) and `fashion-mnist-classifier.safetensors`
(`python -m benchmarks.classifier configs/fashion-mnist-classifier.yaml`; 7.85 % validation, 8.21 %
test error).
"""

#: How a model is used, in a shell and in Python, by its kind.
USE = {
    "generative model": (
        "gendae sample {name} --out samples.png",
        'gendae.generate(gendae.load("{name}"), 64)',
    ),
    "classifier": ("gendae predict {name} DATA", 'gendae.load("{name}").predict(x)'),
    "filling model": (
        "gendae inpaint {name} IMAGES --mask random",
        'gendae.inpaint(gendae.load("{name}"), x, given)',
    ),
    "joint model": (
        "gendae sample {name} --given label=3 --n 9 --out threes.npz",
        'gendae.complete(gendae.load("{name}"), {{"label": [3] * 9}}, seed=0)',
    ),
}
#: Names of measures on a card, in order, with their digits.
SAID = {
    "ancestral_ll": ("ancestral samples", 2),
    "fid": ("FID", 2),
    "kid": ("KID", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "density": ("density", 3),
    "coverage": ("coverage", 3),
    "copying": ("C_T", 2),
    "copying_pixels": ("C_T of pixels", 2),
    "copying_codes": ("C_T of codes", 2),
    "confidence": ("confidence", 3),
}


# -- words ----------------------------------------------------------------------------------------


def score(entry):
    """The score that the table of all models shows."""
    metrics = entry["metrics"]
    if "test_error" not in metrics and "parzen_ll" not in metrics:
        return ", ".join(f"{name} {value:g}" for name, value in metrics.items())

    if "test_error" in metrics:
        spread = 100 * error_se(metrics["test_error"], entry["test"])
        return f"error {100 * metrics['test_error']:.2f} % ± {spread:.2f}"

    return f"LL {metrics['parzen_ll']:.2f} ± {metrics['parzen_se']:.2f}"


def scores(entry):
    """All scores of a model, and on how many examples they were taken."""
    metrics = entry["metrics"]
    if "test_error" in metrics:
        words = [f"test {score(entry)} ({entry['test']:,} test images)"]
        words.append(f"validation error {100 * metrics['validation_error']:.2f} %")
    elif "parzen_ll" not in metrics:
        words = [score(entry)]
    else:
        words = [f"test {score(entry)} nats ({metrics['n']:,} samples, sigma {metrics['sigma']})"]

    if "agreement" in metrics:
        share = 100 * metrics["agreement"]
        words.append(f"{share:.1f} % of 1,000 samples given a class are of that class")
    words += [f"{said} {metrics[k]:.{n}f}" for k, (said, n) in SAID.items() if k in metrics]
    return "; ".join(words)


def training(entry):
    """The command that trains a model again."""
    words = ["gendae fit --config", entry["config"], *map(str, entry["options"])]
    return " ".join([*words, "--seed_everything", str(entry["seed"])])


def export(entry):
    """The command that made the file of a run."""
    return f"gendae export RUN {entry['export']} --out {entry['file']}"


def place(made):
    """A processor, threads and versions, in words."""
    if made is None:
        return "processor, threads and versions were not recorded"
    if "where" in made:
        return f"{made['where']}; threads and versions were not recorded"

    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    threads = "one thread" if made["threads"] == 1 else f"{made['threads']} threads"
    return f"{made['processor']} ({made['capability']}), {threads}; {versions}"


def again(entry):
    """What came of training a model again, in words."""
    tried = entry.get("again")
    if tried is None:
        return "no record"

    where = place(tried["made"])
    if tried["weights"] == 0.0:
        return f"bit-equal: {where}"

    words = f"not bit-equal: weights {tried['weights']:.2g} apart"
    for name, measure in score_of(entry).items():
        (known,) = measure["measured"].values()
        kept = "within" if abs(tried[name] - known) <= measure["tolerance"] else "NOT within"
        words += (
            f"; the score is compared: {name} {tried[name]:.2f} and not {known:.2f}, {kept} the "
            f"tolerance of {measure['tolerance']:.2f} ({TOLERATED:g} standard errors)"
        )
    return f"{words}; {where}"


def classes(entry):
    """Names of classes, where the data have some."""
    names = entry["classes"] or []
    return ", ".join(f"{k} {name}" for k, name in enumerate(names))


def facts(entry):
    """Rows of a card: names, and what is known."""
    rows = {
        "kind": entry["kind"],
        "rule": f"`{entry['rule']}`",
        "layers": entry["layers"],
        "prior": entry["prior"],
        "data": entry["dataset"],
        "classes": classes(entry),
        "score": scores(entry),
        "seed": str(entry["seed"]),
        "trained by": f"`{training(entry)}` ({entry['minutes']:g} min)",
        "exported by": f"`{export(entry)}`",
        "trained on": place(entry["made"]),
        "made again": again(entry),
        "SHA-256": f"`{entry['sha256']}`",
        "size": f"{entry['bytes'] / 1e6:.2f} MB",
        "use": use(entry),
        "note": entry["note"],
    }
    return [[name, text] for name, text in rows.items() if text]


def use(entry):
    """How a model is used: a command, and a line of Python."""
    return " or ".join(f"`{text.format(name=entry['name'])}`" for text in USE[entry["kind"]])


def card(entry):
    """A section of the page."""
    said = PICTURES[entry["picture"]]
    picture = f"![{said}](zoo/{entry['name']}.png)"
    lines = [f"## {entry['name']}", picture, said, markdown([["", ""], *facts(entry)])]
    return "\n\n".join(lines)


def page(entries):
    """docs/zoo.md: a table of all models, and a card for each."""
    rows = [["name", "kind", "rule", "data", "score", "made again"]]
    for entry in entries:
        name = f"[{entry['name']}](#{entry['name']})"
        rule = f"`{entry['rule']}`"
        bits = again(entry).partition(":")[0]
        rows.append([name, entry["kind"], rule, entry["dataset"], score(entry), bits])

    cards = "\n".join(card(entry) for entry in entries)
    return HEAD.format(n=len(entries)) + markdown(rows) + "\n" + cards


def readme(entries):
    """checkpoints/README.md: how each model was made, its metrics and its SHA-256."""
    lines = [README_HEAD]
    for entry in entries:
        known = [entry["rule"], entry["prior"], entry["dataset"], f"seed {entry['seed']}"]
        lines += [f"## {entry['name']}", "", f"- {', '.join(part for part in known if part)}"]
        lines += [f"- `{training(entry)}`, then `{export(entry)}`", f"- {scores(entry)}"]
        lines += [f"- {entry['note']}"] if entry["note"] else []
        lines += [f"- SHA-256 `{entry['sha256']}`", ""]

    return "\n".join(lines)


#: Test images and labels of data sets that were read, by name.
EXAMPLES = {}


# -- pictures -------------------------------------------------------------------------------------


def drawn(x, shape, captions=()):
    """Images in rows of ten, each above its caption."""
    frames = [tile(image[None], shape, 1) for image in x]
    scale = max(1, WIDE // frames[0].shape[1])
    width, height = (scale * side for side in reversed(frames[0].shape[:2]))
    below = CAPTION if captions else 0
    rows = -(-len(frames) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * width, rows * (height + below)), "white")

    for i, frame in enumerate(frames):
        row, column = divmod(i, COLUMNS)
        pixels = (frame * 255).round().to(torch.uint8).numpy()
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        place = (column * width, row * (height + below))
        canvas.paste(image, place)
        if captions:
            middle = (place[0] + width // 2, place[1] + height + 1)
            ImageDraw.Draw(canvas).text(middle, captions[i], "black", anchor="ma")

    return canvas


def samples(stack, entry):
    """Samples; of a joint model two for each class."""
    if isinstance(stack, JointStack):
        labels = [k for k in range(COLUMNS)] * 2
        values = complete(stack, {"label": labels}, seed=0).values
        return drawn(values["image"], stack.facts["shapes"]["image"])

    x = generate(stack, SHOWN, seed=0)
    kind = kind_of(stack)
    if kind == "image":
        return drawn(x, shape_of(stack))

    figure = plots.gallery(generate(stack, 500, seed=0), kind, tuple(stack.facts["shape"]))
    return Image.open(io.BytesIO(plots.png_of(figure)))


def filters(stack, entry):
    """Incoming weights of the first units, an image each."""
    weights, shape = _weights(entry["name"], 1, stack.pairs[0].f, shape_of(stack))
    w = weights.detach()[: 2 * SHOWN]
    return drawn(plots.around_grey(w, w.abs().amax(1, keepdim=True)), shape)


def answers(stack, entry):
    """Test images whose answer is wrong, with label and answer."""
    x, y = test_examples(stack)
    answer = stack.predict(x).argmax(1)
    wrong = (answer != y).nonzero().flatten()[:SHOWN]
    captions = [f"{y[i].item()}, {answer[i].item()}" for i in wrong]
    return drawn(x[wrong], shape_of(stack), captions)


def test_examples(stack):
    """The first test images and labels of a model's data."""
    name = stack.facts["dataset"]["type"]
    if name not in EXAMPLES:
        x, y, _ = data_of(stack).split("test")
        EXAMPLES[name] = x[:2000], y[:2000]
    return EXAMPLES[name]


def field(stack, entry):
    """The vector field of reconstruction minus point."""
    x = data_of(stack).split("test").x[:300]
    figure = plots.vector_field(stack.reconstruct, x)
    figure.set_dpi(72)
    return Image.open(io.BytesIO(plots.png_of(figure)))


def fillings(stack, entry):
    """Test images without a random half of their pixels, and below each what is filled in."""
    x = data_of(stack).split("test").x
    x = x[:: len(x) // COLUMNS][:COLUMNS]
    shape = shape_of(stack)
    given = named_mask("random", shape, 0)
    filled = inpaint(stack, x, given, seed=0).clamp(0.0, 1.0)

    return drawn(torch.cat([torch.where(given, x, 0.5), filled]), shape)


DRAW = {
    "samples": samples,
    "filters": filters,
    "answers": answers,
    "field": field,
    "fillings": fillings,
}


@torch.no_grad()
def draw(entry):
    """The picture of a card, which names the file that it is of; with fewer shades if large."""
    image = DRAW[entry["picture"]](load(entry["name"]), entry).convert("RGB")
    text = PngInfo()
    text.add_text(KEY, entry["sha256"])

    for shades in SHADES:
        png = io.BytesIO()
        colours = image.quantize(shades, dither=Image.Dither.NONE)
        colours.save(png, format="PNG", optimize=True, pnginfo=text)
        if len(png.getvalue()) <= MOST:
            break

    return png.getvalue()


def model_of(picture):
    """The SHA-256 of the file of weights that a picture is of; None if it says none."""
    with Image.open(picture) as image:
        return image.text.get(KEY)


def write_pictures(entries):
    """Draw what is missing or stale, and remove what is of no model."""
    FOLDER.mkdir(exist_ok=True)
    for file in FOLDER.glob("*.png"):
        if file.stem not in [entry["name"] for entry in entries]:
            file.unlink()

    for entry in entries:
        file = FOLDER / f"{entry['name']}.png"
        if not file.exists() or model_of(file) != entry["sha256"]:
            write_whole(file, draw(entry))
            print(f"written: {file}")


# -- what was found -------------------------------------------------------------------------------


def note_again(folder):
    """Enter into the manifest what came of making models again.

    Other weights on another machine say nothing against the same bits on one.
    """
    records = json.loads((folder / "records.json").read_text())
    found = {record["row"]: record for record in records if "made" in record}
    entries = manifest()
    for entry in entries:
        record = found.get(entry["name"])
        if record is None or record["error"] is not None:
            continue

        where = promised(entry) if entry.get("again") else None
        if where is None or not differs(where, record["made"]):
            entry["again"] = record["measures"] | {"made": record["made"]}

    write_manifest(entries)


def write_manifest(entries):
    file = README.with_name("manifest.json")
    file.write_text(json.dumps(entries, indent=2) + "\n")


def write():
    """Write pages and pictures."""
    entries = manifest()
    PAGE.write_text(page(entries))
    README.write_text(readme(entries))
    write_pictures(entries)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--again", type=Path, help="the folder of `gendae reproduce --tables zoo`")
    args = parser.parse_args()
    if args.again is not None:
        note_again(args.again)
    write()


if __name__ == "__main__":
    main()
