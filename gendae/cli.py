"""The `gendae` command. Nothing heavy is imported before a command runs, so that --help answers at once."""

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from gendae.errors import reason

TRAINER_COMMANDS = {
    "fit": "train a model into a new numbered run folder (see configs/)",
    "validate": "run the validation loop of a configuration, with --ckpt_path RUN/checkpoints/best.ckpt",
    "test": "run the test loop likewise",
}
#: Errors other than ValueError and OSError that are no defects.
EXIT_CODES = {"TrainingDiverged": 1, "MisconfigurationException": 2}
MODEL = "a .ckpt, a .safetensors, or the name of a shipped model"


def parser() -> ArgumentParser:
    """Arguments of all commands but Lightning's own."""
    top = ArgumentParser(
        prog="gendae",
        version=_version(),
        description="Deep generative models as stacks of denoising auto-encoders, trained by target "
        "propagation. Training: "
        + "; ".join(f"`gendae {name}`: {what}" for name, what in TRAINER_COMMANDS.items())
        + ".",
    )
    commands = top.add_subcommands(required=True, dest="command")

    def command(name: str, help: str, model: bool = True) -> ArgumentParser:
        sub = ArgumentParser(description=help)
        if model:
            sub.add_argument("model", type=str, help=MODEL)
        commands.add_subcommand(name, sub, help=help)
        return sub

    def common(sub: ArgumentParser, n: int) -> None:
        sub.add_argument("--n", type=int, default=n, help="how many images")
        sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same result")
        sub.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:0, mps")

    sub = command(
        "quickstart", "train on the embedded digits, sample, inpaint, evaluate", model=False
    )
    sub.add_argument("--out", type=str, default="quickstart", help="folder for what it makes")
    sub.add_argument("--seed", type=int, default=0)

    _generative_arguments(command, common)
    _supervised_arguments(command)
    _diagnostics(command, common)
    command("info", "what a model file holds")

    sub = command("export", "make a .safetensors to ship from a run folder", model=False)
    sub.add_argument("run", type=str, help="run folder, or a .ckpt")
    sub.add_argument("--out", type=str, required=True, help="FILE.safetensors")
    sub.add_argument(
        "--which", type=str, default="best", help="checkpoint of the run: best or last"
    )
    sub.add_argument(
        "--choose-prior",
        action="store_true",
        help="choose covariance and variance multiplier of the Gaussian top on validation data",
    )
    sub.add_argument(
        "--half", action="store_true", help="store weights in half precision: half the size"
    )
    sub.add_argument("--root", type=str, default=None, help="folder of the model's data set")
    return top


def _generative_arguments(
    command: Callable[[str, str], ArgumentParser], common: Callable[[ArgumentParser, int], None]
) -> None:
    """Commands for models of images."""
    sub = command("sample", "draw samples into a PNG grid, .npz or .npy")
    common(sub, 100)
    sub.add_argument(
        "--sampler",
        type=str,
        default=None,
        help="generate, ancestral, chain, joint or level; by default the model's own",
    )
    sub.add_argument(
        "--given",
        type=str,
        nargs="+",
        default=None,
        metavar="NAME=VALUE",
        help="of a joint model: sample all modalities given some, such as label=3 or image=FILE.npy",
    )
    sub.add_argument(
        "--rounds", type=int, default=None, help="with --given: of the chain, 5 by default"
    )
    sub.add_argument(
        "--out",
        type=str,
        default=None,
        help="samples.png, or another .png, .npz or .npy; with --given a .npz, an array for each modality",
    )

    sub = command(
        "complete",
        "what is missing of a joint model's modalities, given some of them or parts of them",
    )
    sub.add_argument(
        "--given",
        type=str,
        nargs="+",
        required=True,
        metavar="NAME=VALUE",
        help="modalities with a file of values, or a class: top=FILE.npy label=3",
    )
    sub.add_argument(
        "--mask",
        type=str,
        default=None,
        help="only a part of given images is: left, right, top, bottom or random",
    )
    sub.add_argument(
        "--mode",
        type=str,
        default=None,
        help="map: likely values; mcmc: samples; annealed: from one to the other; by default the model's own",
    )
    sub.add_argument(
        "--rounds", type=int, default=None, help="most rounds of encoding and decoding"
    )
    sub.add_argument("--n", type=int, default=1, help="answers for each row")
    sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same result")
    sub.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:0, mps")
    sub.add_argument(
        "--out", type=str, default="completed.npz", help="suffix .npz: an array for each modality"
    )

    sub = command("inpaint", "fill in missing pixels: original, masked, filled side by side")
    common(sub, 10)
    sub.add_argument(
        "--mask",
        type=str,
        default="left",
        help="what is given: left, right, top, bottom, random, or an image file of the "
        "same size (white is given, black is filled in)",
    )
    sub.add_argument("--data", type=str, default=None, help="your images; by default test images")
    sub.add_argument("--root", type=str, default=None, help="folder of the model's data set")
    sub.add_argument("--out", type=str, default="inpainting.png")

    sub = command(
        "evaluate", "Parzen score, sample quality and a bound on log p(x), beside real images"
    )
    common(sub, 10_000)
    sub.add_argument(
        "--data",
        type=str,
        default=None,
        help="your images, split into train, valid and test; by default the model's data set",
    )
    sub.add_argument("--root", type=str, default=None, help="folder of the model's data set")
    sub.add_argument(
        "--sigma-x",
        type=float,
        default=None,
        help="standard deviation of p(x | h) in the bound; by default the model's own law",
    )
    sub.add_argument("--json", type=str, default=None, help="write the result here too")


def _supervised_arguments(command: Callable[..., ArgumentParser]) -> None:
    """Commands for classifiers."""
    sub = command(
        "predict",
        "labels of images, and their probabilities, from a classifier or a joint model with labels",
    )
    sub.add_argument(
        "data",
        type=str,
        help="images: an .npy, .npz or IDX file; labels y in an .npz are compared",
    )
    sub.add_argument(
        "--samples",
        type=int,
        default=None,
        help="draws of stochastic units; by default the model's own number",
    )
    sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same result")
    sub.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:0, mps")
    sub.add_argument(
        "--out", type=str, default="predictions.npz", help="suffix .npz: arrays label, probability"
    )

    sub = command(
        "compare",
        "train classifiers by several rules on the same network, data and seeds",
        model=False,
    )
    sub.add_argument(
        "--config",
        type=str,
        required=True,
        help="a YAML file of `gendae fit`: network, data, trainer, hyper-parameters",
    )
    sub.add_argument(
        "--rules",
        type=str,
        nargs="+",
        required=True,
        help="class names, such as BackpropRule, with what they take of the hyper-parameters; or YAML "
        "files, each with its own rule, hyper-parameters and network of the same sizes",
    )
    sub.add_argument("--seeds", type=int, nargs="+", default=[0], help="of weights and noise")
    sub.add_argument(
        "--out", type=str, required=True, help="folder for runs, table and learning curves"
    )
    sub.add_argument(
        "--max-epochs",
        type=int,
        default=None,
        help="length of training; --trainer.OPTION and --data.OPTION of `gendae fit` work too",
    )


def _diagnostics(
    command: Callable[[str, str], ArgumentParser], common: Callable[[ArgumentParser, int], None]
) -> None:
    """Commands that look inside a model."""
    sub = command(
        "chain", "how a Markov chain mixes: autocorrelation, effective samples, class switches"
    )
    common(sub, 100)
    sub.add_argument(
        "--sampler", type=str, default="level", help="level, generate, chain or joint"
    )
    sub.add_argument(
        "--level",
        type=int,
        default=None,
        help="with --sampler level: l of the chain over h_l; by default the top, the prior's own",
    )
    sub.add_argument("--steps", type=int, default=100, help="transitions")
    sub.add_argument(
        "--out", type=str, default="chain.png", help="one row of states for each of ten chains"
    )

    sub = command("filters", "incoming weights of random units as images")
    sub.add_argument("--n", type=int, default=100, help="how many units")
    sub.add_argument(
        "--level", type=int, default=1, help="l of the units' layer; only that of h_1 sees images"
    )
    sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same result")
    sub.add_argument("--out", type=str, default="filters.png", help="suffix .png")

    sub = command(
        "spectrum", "learned noise of each top-level dimension, and how many carry signal"
    )
    sub.add_argument("--root", type=str, default=None, help="folder of the model's data set")
    sub.add_argument("--out", type=str, default="spectrum.png")
    sub.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:0, mps")


def trainer_help(command: str) -> list[str]:
    """The options of a Lightning command that most people need; all of them take seconds to import."""
    return [
        f"usage: gendae {command} --config FILE.yaml [--OPTION VALUE ..]",
        "",
        TRAINER_COMMANDS[command],
        "",
        "  --config FILE                       a YAML file, such as those in configs/",
        "  --print_config                      print the whole configuration with all defaults",
        "  --help-all                          every option (takes some seconds)",
        "  --seed_everything N                 seed of weights and noise",
        "  --model RULE                        train the configuration's network by another rule",
        "  --credit.every N                    each N epochs: angles to back-propagation, quality of targets",
        "  --ckpt_path FILE.ckpt               resume a fit, or what to validate or test",
        "  --trainer.max_epochs N              length of training",
        "  --trainer.accelerator cpu|gpu|auto  where to train",
        "  --trainer.default_root_dir DIR      where numbered run folders are made (default: runs)",
        "  --trainer.logger NAME               beside the CSV log: TensorBoardLogger, WandbLogger",
        "  --data NAME --data.root DIR         Digits, MNIST, or Images (--data.path FILE --data.labels FILE)",
        "  --model.lr_f X --model.lr_g X       learning rates of encoders and decoders",
        "  --model.inference.steps N           and any other argument of a constructor",
    ]


def _version() -> str:
    from gendae import __version__

    return __version__


def run(arguments: list[str]) -> list[str]:
    """Carry out a command; the lines to print."""
    if arguments and arguments[0] in TRAINER_COMMANDS:
        if arguments[1:] in (["--help"], ["-h"]):
            return trainer_help(arguments[0])
        arguments = ["--help" if a == "--help-all" else a for a in arguments]
        from gendae.training import fit

        try:
            folder = fit.main(arguments)
        except UnicodeDecodeError as error:  # which does not say of what
            raise ValueError(
                f"a file in {' '.join(arguments)!r} is not UTF-8 text: {error}"
            ) from None
        return [f"run folder: {folder}"] if folder else []
    arguments, passed = _passed_on(arguments)
    args = parser().parse_args(arguments)
    _seed(args[args.command])
    if args.command in ("compare", "predict", "complete"):
        return _supervised(args.command, args[args.command].as_dict(), passed)
    from gendae.commands import evaluate, export, inpaint, inspect, quickstart, sample

    options: Namespace = args[args.command].clone()
    calls: dict[str, Callable[..., list[str]]] = {
        "quickstart": quickstart.quickstart,
        "sample": sample.sample,
        "info": inspect.info,
        "inpaint": inpaint.inpainting,
        "evaluate": evaluate.evaluate,
        "export": export.export,
        "chain": inspect.chain,
        "spectrum": inspect.spectrum,
        "filters": inspect.filters,
    }
    values = options.as_dict()
    if args.command == "evaluate":
        values["json_file"] = values.pop("json")
    return calls[args.command](**values)


def _seed(options: Namespace) -> None:
    """Refuse a seed that no generator takes, before a model is loaded."""
    if "seed" in options:
        from gendae import checks

        checks.seed("--seed", options.seed)


def _passed_on(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A command's own arguments, and those that `gendae compare` hands to each `gendae fit`."""
    own: list[str] = []
    passed: list[str] = []
    target = own
    for argument in arguments:
        if argument.startswith("--") and arguments[0] == "compare":
            target = passed if argument.startswith(("--trainer.", "--data.")) else own
        target.append(argument)
    return own, passed


def _supervised(command: str, values: dict[str, Any], passed: list[str]) -> list[str]:
    if command == "compare":
        from gendae.commands.compare import compare

        return compare(**values, options=passed)
    if command == "complete":
        from gendae.commands.complete import completion

        return completion(**values)
    from gendae.commands.predict import predict

    return predict(**values)


# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Have the C library, if it is glibc, keep the memory that an update frees for the next one.

    Otherwise memory of the size of a gradient goes back to the system after each update and has to
    be cleared and mapped again: up to a tenth of the time of an update, or of sampling.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt

        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 done, 1 training diverged, 2 something in the user's hands is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    keep_freed_memory()
    try:
        for line in run(arguments):
            print(line)
    except KeyboardInterrupt:
        print("gendae: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"gendae: error: {reason(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        kind = type(error).__name__  # by name, so that nothing heavy is imported
        if kind not in EXIT_CODES:
            raise
        print(f"gendae: error: {reason(error)}", file=sys.stderr)
        return EXIT_CODES[kind]
    return 0


if __name__ == "__main__":
    sys.exit(main())
