"""The `gendae` command: what was asked for, and what went wrong, in one line.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

import os
import sys
import warnings
from importlib import import_module

import gendae
from gendae.commands import fit, parser, places, streams
from gendae.errors import printable, reason
from gendae.storage import inputs
from gendae.training.alone import forget_unreadable
from gendae.training.memory import keep_freed_memory

#: Errors other than ValueError, OSError and MemoryError that are no defects.
EXIT_CODES = {
    "TrainingDiverged": 1,
    "NotReproduced": 1,
    "MisconfigurationException": 2,
    "OutOfMemoryError": 2,
}
#: Warnings of other libraries that no user of a command can act on, by how they begin.
FOREIGN = (
    "LightningCLI's args parameter",
    "You have overridden `on_.*_batch_transfer`",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Experiment logs directory .* exists and is not empty",  # a run folder that wandb wrote into
)
#: How torch says, in a RuntimeError, that the memory does not suffice.
NO_MEMORY = "can't allocate memory"
HELP = ("--help", "-h")


def run(arguments: list[str]) -> list[str]:
    """Carry out a command; the lines to print."""
    name, *options = arguments or HELP[:1]
    if name in HELP:
        return parser.overview()
    if name == "--version":
        return [f"gendae {gendae.__version__}"]

    if parser.known(name) in parser.TRAINING:
        if options and options[0] in HELP:
            return fit.help_lines(name)
        places.keep_named(options)
        return getattr(fit, name)(*options)

    passed, values = parser.parsed(name, options)
    if "seed" in values:  # before a model is loaded
        from gendae import checks

        checks.seed("--seed", values["seed"])

    places.keep_named(passed)
    command = getattr(import_module(f"gendae.commands.{name}"), name)
    return command(*passed, **places.checked(values))


def main(arguments: list[str] | None = None) -> int:
    """Entry point: the exit code.

    0 done, 1 training diverged or results not reproduced, 2 something in the user's hands wrong.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    for message in FOREIGN:
        warnings.filterwarnings("ignore", message=message)
    keep_freed_memory()
    forget_unreadable()

    with streams.usable(), inputs.kept_inputs():
        return outcome(arguments)


def outcome(arguments: list[str]) -> int:
    """Carry out a command, print its lines or what went wrong; the exit code."""
    try:
        for line in run(arguments):
            print(printable(line))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("gendae: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"gendae: error: {printable(said(error))}", file=sys.stderr)
        return code

    return 0


def exit_code(error: Exception) -> int | None:
    """What a command ends with after an error; None for a defect of gendae's own."""
    if isinstance(error, ValueError | OSError | MemoryError) or NO_MEMORY in str(error):
        return 2
    return EXIT_CODES.get(type(error).__name__)  # by name, so that nothing heavy is imported


def said(error: Exception) -> str:
    """What an error means, in one line."""
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return f"the memory does not suffice ({reason(error)})"
    return reason(error)


if __name__ == "__main__":
    sys.exit(main())
