"""`gendae quickstart`."""

from pathlib import Path

import torch

from gendae import plots
from gendae.commands.common import Table, checkpoint_of
from gendae.commands.data import data_of
from gendae.commands.evaluate import evaluation_table, explained, remarks
from gendae.completion.inpainting import MASKS, inpaint, named_mask
from gendae.metrics import parzen, traces
from gendae.metrics.report import evaluation
from gendae.priors.gaussian import GaussianPrior
from gendae.sampling.samplers import generate
from gendae.storage import model_file
from gendae.storage.atomic import write_json
from gendae.storage.shipped import shipped_files
from gendae.training import fit


def quickstart(out: str = "quickstart", seed: int = 0) -> Table:
    """Train on the embedded digits, sample, inpaint, evaluate: all of it in one folder.

    Args:
        out: folder for what it makes.
        seed: of weights, noise and samples.
    """
    folder = Path(out)
    stack = model_file.load(checkpoint_of(_train_digits(folder / "runs", seed), "last"))
    data = data_of(stack)
    if isinstance(stack.prior, GaussianPrior):
        parzen.choose_prior(stack, data.split("train").x, data.split("valid").x, n=1000)

    result = evaluation(stack, data, n=1000)
    stack.facts["metrics"] = {"parzen_ll": result["parzen_ll"], "sigma": result["sigma"]}
    written = [model_file.save(stack, folder / "model.safetensors")]

    samples = plots.image_grid(generate(stack, 100, seed=seed), data.shape)
    written.append(plots.save(samples, folder / "samples.png"))

    x = data.split("test").x
    observed = torch.cat([named_mask(m, data.shape).expand(5, -1) for m in MASKS[:4]])
    filled = inpaint(stack, x[:20], observed, seed=seed)
    inpainted = plots.inpainting(x[:20], observed, filled, data.shape)
    written.append(plots.save(inpainted, folder / "inpainting.png"))

    trace = plots.trace(traces.log_joint_trace(stack, x))
    written.append(plots.save(trace, folder / "inference.png"))
    written.append(write_json(folder / "metrics.json", result))
    return [
        *evaluation_table(result),
        *_titled("what the columns say:", explained()),
        *_titled("what to know of this model:", remarks(result)),
        *_titled("written:", [f"  {path}" for path in written]),
        *_titled("next:", _next(folder)),
    ]


def _titled(title: str, lines: list[str]) -> list[str]:
    """Lines under a title, after an empty one; nothing where there are none."""
    return ["", title, *lines] if lines else []


def _next(folder: Path) -> list[str]:
    """What to open, and what to try."""
    model = folder / "model.safetensors"
    opened = f"open {folder / 'samples.png'} and {folder / 'inpainting.png'}"
    commands = (
        f"{opened}; {folder / 'runs'} has pictures as it learned",
        f"gendae sample {model} --sampler generate --out {folder / 'samples.gif'}",
        f"gendae inpaint {model} --mask top --out {folder / 'top.png'}",
        "gendae fit --config digits-kl    (another rule on the same digits)",
    )
    return [f"  {command}" for command in commands]


def _train_digits(root: Path, seed: int) -> Path:
    """Train the model of the quick start; the folder of its run."""
    options = {
        "--config": shipped_files("configs/*.yaml")["digits-variational-em"],
        "--seed_everything": seed,
        "--trainer.default_root_dir": root,
        "--trainer.enable_model_summary": "false",
        "--pictures.every": 100,  # in a minute, two looks on the way are enough
    }

    arguments = ["fit"]
    for option, value in options.items():
        arguments += [option, str(value)]
    return fit.main(arguments)
