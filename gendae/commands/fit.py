"""`gendae fit`, `validate` and `test`: Lightning parses their options, which takes seconds.

So their --help is made here, of nothing heavy; --help-all is Lightning's own.
"""

import textwrap
from pathlib import Path

import gendae
from gendae.storage.shipped import shipped_files

#: What most people need of the several hundred options.
OPTIONS = {
    "--config FILE.yaml": "network, rule, data and trainer, or a name listed below",
    "--print_config": "print the whole configuration with all defaults",
    "--help-all": "every option (takes some seconds)",
    "--model RULE": "train the configuration's network by another rule",
    "--model.stack.sizes [auto,N,..]": "widths of the network; auto: that of the data",
    "--model.help RULE": "what a rule takes, such as --model.inference.steps N",
    "--data NAME --data.root DIR": (
        "Digits, MNIST, FashionMNIST, CIFAR10, Patches, Augmented, Binarised, "
        "Images (--data.path FILE --data.labels FILE --data.color grey), "
        "Sequences (--data.path FILE.npz), Characters (--data.path TEXT), "
        "ImageSequences, LongDependencies"
    ),
    "--data.help NAME": "what a data set takes, such as --data.batch_size N",
    "--seed_everything N": "seed of weights and noise",
    "--ckpt_path FILE.ckpt": "resume a fit, or what to validate or test",
    "--trainer.max_epochs N": "length of training",
    "--trainer.accelerator NAME": "where to train: cpu, gpu, auto",
    "--trainer.default_root_dir DIR": "where numbered run folders are made (default: runs)",
    "--trainer.logger NAME": "beside the CSV log: TensorBoardLogger, WandbLogger; false: no log",
    "--credit.every N": "each N epochs: angles to back-propagation, quality of targets",
    "--pictures.every N": (
        "each N epochs: pictures, into the run folder and loggers (default: 10; 0: none)"
    ),
    "--pictures.which LIST": (
        "samples, reconstructions, inpainting, chains, filters, spectrum; by default the first "
        "three"
    ),
}


#: Those that have no meaning where nothing is trained.
OF_TRAINING = (
    "--model RULE",
    "--trainer.max_epochs",
    "--trainer.default",
    "--trainer.logger",
    "--credit",
)


def fit(*options: str) -> list[str]:
    """Train a model into a new numbered run folder.

    Args:
        options: see `OPTIONS`.
    """
    return _train("fit", *options)


def validate(*options: str) -> list[str]:
    """Run the validation loop of a configuration, with --ckpt_path RUN/checkpoints/best.ckpt.

    Args:
        options: see `OPTIONS`.
    """
    return _train("validate", *options)


def test(*options: str) -> list[str]:
    """Run the test loop of a configuration, with --ckpt_path RUN/checkpoints/best.ckpt.

    Args:
        options: see `OPTIONS`.
    """
    return _train("test", *options)


def _train(command: str, *options: str) -> list[str]:
    """Run one of the three, and say where a fit is kept."""
    from gendae.training import fit as training  # not before --help has been answered

    known = ["--help" if option == "--help-all" else option for option in options]
    try:
        folder = training.main([command, *known])
    except UnicodeDecodeError as error:  # which does not say of what
        raise ValueError(f"a file in {' '.join(known)!r} is not UTF-8 text: {error}") from None

    if folder is None:
        return []
    return [f"run folder: {folder}"]


def help_lines(command: str) -> list[str]:
    """The lines of --help: options that most people need, rules, and configurations."""
    offered = OPTIONS
    if command != "fit":
        offered = {
            name: text for name, text in OPTIONS.items() if not name.startswith(OF_TRAINING)
        }
    options = [f"  {option:<32}{text}" for option, text in offered.items()]
    rules = ", ".join(name for name in gendae.__all__ if name.endswith("Rule") and name != "Rule")
    what = globals()[command].__doc__.splitlines()[0]

    lines = [f"usage: gendae {command} --config FILE.yaml [--OPTION VALUE ..]", "", what, ""]
    lines += ["options:", *options, ""]
    if command == "fit":
        lines += ["rules:", *_wrapped(rules), ""]

    files = shipped_files("configs/*.yaml")
    folder = next(iter(files.values())).parent
    shown = [f"  {file.name:<29}{first_comment(file)}" for file in files.values()]
    return [*lines, f"configurations, in {folder}:", *shown]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="  ")


def first_comment(file: Path, width: int = 72) -> str:
    """The comment on the first line of a configuration, shortened."""
    comment = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    return textwrap.shorten(comment, width)
