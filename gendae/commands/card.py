"""The folder of a model for the Hugging Face Hub: weights, their description, and a card."""

import copy
import json
import re
from pathlib import Path, PureWindowsPath
from typing import Any

import gendae
from gendae import checks
from gendae.commands.common import Table, dataset_of
from gendae.commands.info import layers_in_words
from gendae.commands.sample import write_samples
from gendae.commands.sequences import reads_sequences, write_sequences
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack, images_of, kind_of
from gendae.models.labelled import LabelledStack
from gendae.models.stack import Stack
from gendae.sampling.samplers import generate
from gendae.storage import model_file
from gendae.storage.atomic import new_folder, write_json, write_whole
from gendae.storage.hub import FILE, is_of_hub
from gendae.storage.shipped import manifest

PICTURE = "samples.png"
#: Samples in the picture.
SAMPLES = 100
#: What is told of a training, as facts call it.
TOLD = ("rule", "seed", "epochs", "updates", "seconds", "command")

CARD = """---
{header}---

# {name}

{what} of {data}, trained with gendae {version}.
{picture}
```python
import gendae

model = gendae.load("hf://USER/{name}")
{use}
```

| | |
|---|---|
{rows}
"""


def write_card(stack: Stack, folder: Path, source: str, license: str | None, half: bool) -> Table:
    """Write the folder, whole or not at all; the lines to print.

    Args:
        stack: a trained model.
        folder: is made, and names the model.
        source: where the model comes from: the manifest has scores of a shipped one.
        license: of its weights, by the hub's name, such as apache-2.0; None names none.
        half: see `model_file.save`.

    Raises:
        ValueError: for a license of several words; without huggingface_hub.
    """
    checks.library("huggingface_hub", "hub", "gendae export --hub")
    if license is not None and not re.fullmatch(r"[\w.+-]+", license):
        raise ValueError(f"--license {license!r}: one word is needed, such as apache-2.0 or other")

    shared = copy.copy(stack)
    shared.facts = shareable(stack.facts)
    name = folder.resolve().name
    with new_folder(folder) as partial:
        written = [model_file.save(shared, partial / FILE, half)]
        written.append(write_json(partial / "config.json", config_of(partial / FILE)))

        picture = write_picture(shared, partial / PICTURE)
        if picture is not None:
            written.append(picture)

        text = card(shared, name, license, metrics_of(shared, source), picture is not None)
        written.append(write_whole(partial / "README.md", text.encode()))

    lines = [str(folder / path.name) for path in written]
    return [*lines, f"to upload: hf upload USER/{name} {folder}"]


def shareable(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts without what they say of their owner's folders.

    Of a file or a folder the last name stays, of a list of files nothing. A command goes where it
    names a path, or such a list may be in it.

    Example:
        >>> shareable({"command": "gendae fit --config ~/c.yaml", "pretrained": "runs/best.ckpt"})
        {'pretrained': 'best.ckpt'}
    """
    kept = dict(facts)
    if "dataset" in facts:
        kept["dataset"] = _without_folders(facts["dataset"])
    if "pretrained" in facts and not is_of_hub(facts["pretrained"]):
        kept["pretrained"] = _last_name(facts["pretrained"])

    tells = kept.get("dataset") != facts.get("dataset")
    if tells or re.search(r"[/\\]", facts.get("command", "")):
        kept.pop("command", None)
    return kept


def _without_folders(data: Any) -> Any:  # noqa: ANN401 - a described data set, and its parts
    """A described data set without folders, and without lists of files."""
    if isinstance(data, str):
        return _last_name(data)
    if not isinstance(data, dict):
        return data

    kept = {}
    for key, value in data.items():
        is_files = key in ("path", "labels") and isinstance(value, list)
        if key != "root" and not is_files:
            kept[key] = _without_folders(value)
    return kept


def _last_name(path: str) -> str:
    """The last name of a path, of whatever system."""
    return PureWindowsPath(path).name


def config_of(file: Path) -> dict[str, Any]:
    """What the file of a model says of it, for readers that do not open it."""
    content, _ = model_file.read_checked(file, model_file.FORMAT)
    return {"library_name": "gendae", "format": model_file.FORMAT, **content}


def write_picture(stack: Stack, path: Path) -> Path | None:
    """Samples of a model that has any; those of a joint model's images."""
    if isinstance(stack, Classifier):
        return None

    x = generate(stack, SAMPLES, seed=0)
    if reads_sequences(stack):
        write_sequences(stack, x, path)
        return path

    images, shape = images_of(stack, x)
    if shape is None:
        return None
    return write_samples(images, path, kind_of(stack), shape)


def card(
    stack: Stack, name: str, license: str | None, metrics: dict[str, float], picture: bool
) -> str:
    """The text of README.md."""
    rows = {"layers": layers_in_words(stack)}
    if not isinstance(stack, Classifier):
        rows["prior"] = repr(stack.prior)
    rows |= {fact: stack.facts[fact] for fact in TOLD if fact in stack.facts}
    rows |= metrics

    return CARD.format(
        header=header(stack, name, license, metrics),
        name=name,
        what=_kind_in_words(stack),
        data=dataset_of(stack) or "data of its own",
        version=gendae.__version__,
        picture=f"\n![{SAMPLES} samples]({PICTURE})\n" if picture else "",
        use=_use(stack),
        rows="\n".join(f"| {key} | {_cell(value)} |" for key, value in rows.items()),
    )


def header(stack: Stack, name: str, license: str | None, metrics: dict[str, float]) -> str:
    """The metadata of a card, as YAML: license, library, tags, and the scores that are known."""
    from huggingface_hub import EvalResult, ModelCardData

    data = dataset_of(stack) or "own"
    results = [
        EvalResult(
            task_type=_task(stack),
            dataset_type=data.lower(),
            dataset_name=data,
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]
    metadata = ModelCardData(
        license=license,
        library_name="gendae",
        pipeline_tag=_task(stack),
        tags=["gendae", "target-propagation", "auto-encoder"],
        model_name=name,
        eval_results=results or None,
    )
    return metadata.to_yaml() + "\n"


def metrics_of(stack: Stack, source: str) -> dict[str, float]:
    """The scores that a model's file knows; of a shipped model, those of the manifest too."""
    shipped = next((e.get("metrics", {}) for e in manifest() if e["name"] == source), {})

    known = {**shipped, **stack.facts.get("metrics", {})}
    return {metric: value for metric, value in known.items() if isinstance(value, int | float)}


def _task(stack: Stack) -> str:
    """What the hub calls what a model does."""
    if isinstance(stack, Classifier):
        return "image-classification" if kind_of(stack) == "image" else "tabular-classification"

    return "unconditional-image-generation"


def _kind_in_words(stack: Stack) -> str:
    """What a model is, at the beginning of a sentence."""
    kinds = {
        Classifier: "A classifier",
        JointStack: "A joint model of several modalities",
        LabelledStack: "A generative model with labels",
        Stack: "A generative model",
    }
    return next(words for kind, words in kinds.items() if isinstance(stack, kind))


def _use(stack: Stack) -> str:
    """A line of Python that uses a model."""
    if isinstance(stack, Classifier):
        return "probability = model.predict(x)"

    return "x = gendae.generate(model, 64)"


def _cell(value: object) -> str:
    """A value in a cell of a table in Markdown."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
