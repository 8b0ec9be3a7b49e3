"""`gendae fit`, `validate` and `test`: LightningCLI with numbered run folders."""

import contextlib
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from gendae import checks
from gendae.data.base import Data
from gendae.errors import reason
from gendae.models.joint import JointStack
from gendae.registry import import_public, instantiated
from gendae.rules.base import Rule
from gendae.rules.batches import check_shapes
from gendae.rules.labels import LabelRule
from gendae.storage.archive import is_local
from gendae.storage.atomic import remove_stale
from gendae.storage.sealed import CHECKPOINTS, read
from gendae.storage.verify import check_content
from gendae.training.alone import forget_others
from gendae.training.callbacks import CreditMonitor, ParzenMonitor
from gendae.training.memory import give_back_freed_memory
from gendae.training.mistakes import configured, explained
from gendae.training.pictures import Pictures
from gendae.training.progress import EpochBar
from gendae.training.replaced import replaced
from gendae.training.run import Interrupted, RunCheckpoint, StopAtSignal, ValidationAtEnd
from gendae.training.sizes import check_fit, fit_sizes, is_open

#: What Lightning advertises, and says of what is not there, by how it begins.
UNSAID = (
    "💡 Tip:",
    "GPU available: False",
    "TPU available: False",
    "`weights_only` was not set",
    "`Trainer.fit` stopped: `max_epochs=",
)
#: Variable that tells the processes that Lightning starts where their run is.
RUN_FOLDER = "GENDAE_RUN_FOLDER"


def helper_process() -> bool:
    """Whether this process is not the first of a training in several processes (DDP).

    The first process owns the folder, and the helpers share it. On another machine the first
    process of a node has local rank 0 too.
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))

    return rank_zero_only.rank != 0 or node != "0"


def new_run_folder(root: str | Path) -> Path:
    """Make the next free numbered folder below root: 0001, 0002, ..; old ones stay as they are."""
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; run folders are made in a folder")
    root.mkdir(parents=True, exist_ok=True)

    number = max((int(run.name) for run in run_folders(root)), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            folder = root / f"{number:04d}"
            folder.mkdir()
            return folder


def say_which_data(data: Data) -> None:
    """Say so where files that are read as a known data set hold another one."""
    remark = data.remark()
    if remark is not None and not helper_process():
        print(f"gendae: {remark}", file=sys.stderr)


def run_folders(root: Path) -> list[Path]:
    """What has the name of a run folder: digits, which do not fill a name."""
    return [path for path in root.iterdir() if re.fullmatch("[0-9]{1,18}", path.name)]


def _sweep(root: Path, resumed: str | None) -> None:
    """Remove what killed runs left half written, of all below a root and the one resumed."""
    folders = [run / "checkpoints" for run in run_folders(root)]
    if resumed is not None and is_local(resumed):
        folders.append(Path(resumed).parent)

    for folder in folders:
        remove_stale(folder)


def add_callbacks(parser: LightningArgumentParser) -> None:
    """The sections `parzen`, `credit` and `pictures`, and of checkpoints `best` and `last`.

    Each checkpoint has a callback, since ModelCheckpoint's save_last follows its monitor.
    """
    parser.add_lightning_class_args(ParzenMonitor, "parzen")
    parser.add_lightning_class_args(CreditMonitor, "credit")
    parser.add_lightning_class_args(Pictures, "pictures")
    for name in CHECKPOINTS:
        parser.add_lightning_class_args(RunCheckpoint, name)
        parser.set_defaults({f"{name}.filename": name})
        parser.set_defaults({f"{name}.enable_version_counter": False})


class FitCLI(LightningCLI):
    """Adds to LightningCLI: a run folder with CSV log, last and best checkpoint, and scores."""

    run_folder: Path | None = None
    #: Whether the folder of all runs was made for this one.
    _made_root = False
    #: The data, where they were read before the network was built.
    _data: Data | None = None

    def __init__(self, arguments: list[str], callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = callbacks
        self.named = arguments[0]
        self.command = shlex.join(["gendae", *arguments])
        try:
            self._run(arguments)
        except BaseException as error:
            self._remove_unused(error)
            if isinstance(error, SystemExit):
                self._explain(error)
            if told_by_lightning(error):
                raise ValueError(reason(error)) from None
            raise

    def _run(self, arguments: list[str]) -> None:
        import_public()

        super().__init__(
            Rule,
            Data,
            args=arguments,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "default_root_dir": "runs",
                "max_epochs": 20,
                "log_every_n_steps": 1,  # the rule itself logs once in `log_every` updates
            },
            parser_kwargs={"prog": "gendae", "exit_on_error": False, "allow_abbrev": False},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse the command line; a mistake in it becomes a ValueError of one line."""
        given = replaced(configured(args))
        try:
            super().parse_arguments(parser, given)
        except ArgumentError as error:
            command = self._subcommand_parsers.get(args[0], parser)
            raise ValueError(explained(str(error), command)) from None

    def _remove_unused(self, error: BaseException) -> None:
        """Remove the run folder after a failed start: one that made no update."""
        if self.run_folder is None or helper_process():
            return

        with contextlib.suppress(OSError):
            if isinstance(error, Exception) and not self._trained():
                shutil.rmtree(self.run_folder)
            else:
                self.run_folder.rmdir()  # fails unless it is empty
            if self._made_root:
                self.run_folder.parent.rmdir()

    def _trained(self) -> bool:
        """Whether this run has made an update."""
        model = getattr(self, "model", None)  # a start may fail before there is one
        if model is None:
            return False

        return model.global_step > model.resume.step

    def _drop_run_folder(self) -> None:
        """Remove the folder of a run that has nothing to keep."""
        if not helper_process():
            shutil.rmtree(self.run_folder)

        self.run_folder = None

    def _explain(self, error: SystemExit) -> None:
        """Say which signal ended the run and how it goes on; give the exit code of a shell."""
        name = signal_of(error)
        if name is None:
            return

        if not helper_process():
            print(f"gendae: {name} ended the run{self._how_to_go_on()}", file=sys.stderr)

        error.code = 128 + signal.Signals[name]

    def _how_to_go_on(self) -> str:
        """The command that resumes this run, as the end of a sentence; empty without last.ckpt."""
        if self.run_folder is None:
            return ""

        last = self.run_folder / "checkpoints" / "last.ckpt"
        if not last.is_file():
            return ""

        return f"; to go on: gendae fit --config {self.run_folder}/config.yaml --ckpt_path {last}"

    def subcommands(self) -> dict[str, set[str]]:
        """The one of LightningCLI's that is run: a parser takes time to make."""
        return {self.named: LightningCLI.subcommands()[self.named]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The sections of callbacks."""
        add_callbacks(parser)

    def _parse_ckpt_path(self) -> None:
        """Leave the options as typed: checkpoints hold hyper-parameters in another, plain form."""

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint before anything is written; then make the run folder."""
        config = self.config[self.subcommand]
        self._fit_sizes(config)
        forget_others(config.trainer)
        refuse_options(config.trainer)
        self._check_checkpoint(config)
        self._choose_best_by_score_of_rule(config)
        if self.subcommand != "fit":
            self._keep_nothing(config)
            return

        self._make_run_folder(config)
        self._keep_checkpoints_in_run_folder(config)
        self._log_in_run_folder(config.trainer)

    def _fit_sizes(self, config: Namespace) -> None:
        """Give the network the width of the data, where the configuration leaves it open."""
        if not is_open(config.model):
            return

        parser = self._parser(self.subcommand)
        with torch.random.fork_rng([]):  # the weights are those of a width that was given
            self._data = instantiated(parser, Namespace(data=config.data)).data
            fit_sizes(config.model, self._data)

    def instantiate_classes(self) -> None:
        """Build all objects; data that the network was fitted to are read already."""
        super().instantiate_classes()
        if self._data is not None:
            self.datamodule = self._data

    def _check_checkpoint(self, config: Namespace) -> None:
        """Refuse a `--ckpt_path` that does not belong to the rule."""
        if config.ckpt_path is None or not is_local(config.ckpt_path):
            return

        config.ckpt_path = str(checks.path("--ckpt_path", config.ckpt_path))
        content = read(config.ckpt_path)
        _, rule = config.model.class_path.rsplit(".", 1)
        check_content(config.ckpt_path, content, rule, self.subcommand == "fit")

        if self.subcommand == "fit":
            self._go_on_with_seed(config, content["gendae"]["facts"].get("seed"))

    def _go_on_with_seed(self, config: Namespace, seed: object) -> None:
        """Take the seed of the training that goes on: its noise does, whatever seed is given."""
        if not isinstance(seed, int) or not 0 <= seed < 2**32 or seed == config.seed_everything:
            return

        if not helper_process():
            print(
                f"gendae: seed_everything={config.seed_everything} is not used: the noise goes on "
                f"from that of the checkpoint's training, which had {seed}",
                file=sys.stderr,
            )

        config.seed_everything = seed
        self._set_seed()

    def _choose_best_by_score_of_rule(self, config: Namespace) -> None:
        """Where no score is given for best.ckpt, take that of the rule."""
        if config.best.monitor is not None:
            return

        module, name = config.model.class_path.rsplit(".", 1)
        rule = getattr(import_module(module), name)
        config.best.monitor, config.best.mode = rule.score

    def _keep_nothing(self, config: Namespace) -> None:
        """Neither logs nor checkpoints nor a configuration: `validate` and `test` only print."""
        config.trainer.logger = False
        self.save_config_callback = None
        for name in CHECKPOINTS:
            config[name].save_top_k = 0

    def _make_run_folder(self, config: Namespace) -> None:
        """A new folder below the root; a helper process takes that of the first process."""
        root = checks.text_path("--trainer.default_root_dir", config.trainer.default_root_dir)
        if (root / "config.yaml").is_file():  # the configuration of an earlier run, given again
            root = root.parent

        if helper_process():
            self.run_folder = Path(os.environ.get(RUN_FOLDER, root))
        else:
            self._made_root = not root.exists()
            self.run_folder = new_run_folder(root)
            _sweep(root, config.ckpt_path)

        os.environ[RUN_FOLDER] = str(self.run_folder)
        config.trainer.default_root_dir = str(self.run_folder)

    def _keep_checkpoints_in_run_folder(self, config: Namespace) -> None:
        for name in CHECKPOINTS:
            config[name].dirpath = str(self.run_folder / "checkpoints")

    def _log_in_run_folder(self, trainer: Namespace) -> None:
        """A CSV log, and the other loggers of the configuration; none where it says false."""
        if trainer.logger is False:
            return

        csv = {
            "class_path": "pytorch_lightning.loggers.CSVLogger",
            "init_args": {"save_dir": str(self.run_folder), "name": "", "version": ""},
        }

        others = _loggers_but_csv(trainer.logger)
        for other in others:  # wandb's default is the current folder
            if other.init_args.get("save_dir", "") in (None, "."):
                other.init_args.save_dir = str(self.run_folder)

        trainer.logger = [csv, *others]

    def instantiate_trainer(self, **options: object) -> Trainer:
        """The trainer, with callbacks for an orderly end: at a signal, and after a validation."""
        try:
            trainer = super().instantiate_trainer(**options)
        except (ImportError, RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(f"trainer: {reason(error)}") from error
        trainer.callbacks[:0] = [StopAtSignal(), ValidationAtEnd()]
        trainer.callbacks += self.callbacks
        self._replace_bar(trainer)

        return trainer

    def _replace_bar(self, trainer: Trainer) -> None:
        """One bar over all epochs in the place of Lightning's own, unless the user chose one."""
        bar = trainer.progress_bar_callback
        chosen = self._get(self.config_init, "trainer.callbacks") or []
        if bar is not None and bar not in chosen:
            trainer.callbacks[trainer.callbacks.index(bar)] = EpochBar()

    def before_fit(self) -> None:
        """Check the data before a run begins, and keep the command with the model."""
        if isinstance(self.model, LabelRule):
            self.model.check_data(self.datamodule)
        elif not isinstance(self.model.stack, JointStack):  # its rule checks the data
            x = self.datamodule.rows("train").x
            name = type(self.datamodule).__name__
            check_fit(name, x, self.model.stack.sizes[0], self.config[self.subcommand].model)
        check_shapes(self.model.stack, self.datamodule)

        self.model.stack.facts["command"] = self.command
        say_which_data(self.datamodule)

    def after_fit(self) -> None:
        """Write last.ckpt, unless a validation after the last update has written it.

        Nothing is kept of a `fast_dev_run`, as Lightning says of it, and of a run without updates.
        """
        if self.trainer.fast_dev_run or self.model.resume.idle(self.trainer.global_step):
            self._drop_run_folder()
            return

        for callback in self.trainer.checkpoint_callbacks:
            if not isinstance(callback, RunCheckpoint) or not callback.keeps_last:
                continue

            if self.trainer.global_step != callback._last_global_step_saved:
                self.trainer.save_checkpoint(callback.format_checkpoint_name({}))

    def after_test(self) -> None:
        """Say where a generative model's other scores are: a test has reconstructions alone."""
        several = isinstance(self.model.stack, JointStack)
        if not self.model.generative or several or helper_process():
            return

        model = self._get(self.config, "ckpt_path") or "MODEL"
        print(f"gendae: for the Parzen score of samples: gendae evaluate {model}", file=sys.stderr)


def is_said(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's log is shown.

    Example:
        >>> is_said(logging.makeLogRecord({"msg": "💡 Tip: try another product"}))
        False
        >>> is_said(logging.makeLogRecord({"msg": "GPU available: True (cuda), used: True"}))
        True
    """
    return not record.getMessage().startswith(UNSAID)


def leave_out_unsaid() -> None:
    """Show Lightning's log without `UNSAID`."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(is_said)


def refuse_options(trainer: Namespace) -> None:
    """Raise a ValueError for options of a Trainer that keep a run from being kept."""
    if trainer.barebones:
        raise ValueError(
            "trainer.barebones=true: gendae fit, validate and test log and keep what they do; "
            "in Python, Trainer(barebones=True) is accepted"
        )

    if trainer.enable_checkpointing is False:
        raise ValueError(
            "trainer.enable_checkpointing=false: a run keeps its checkpoints; to write none, use "
            "--best.save_top_k 0 --last.save_top_k 0"
        )


def told_by_lightning(error: BaseException) -> bool:
    """Whether Lightning itself raised an error, of a kind by which it speaks to its users."""
    if not isinstance(error, RuntimeError | ImportError) or error.__traceback__ is None:
        return False

    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")

    return module.startswith(("pytorch_lightning.", "lightning_fabric."))


def _loggers_but_csv(loggers: Any) -> list[Namespace]:  # noqa: ANN401 - as configured
    """The loggers of a configuration, which may be one, a list, or a switch."""
    if not isinstance(loggers, list):
        loggers = [loggers]

    others = []
    for logger in loggers:
        is_switch = logger in (None, True, False)
        if not is_switch and not logger.class_path.endswith("CSVLogger"):
            others.append(logger)

    return others


def main(arguments: list[str], callbacks: Sequence[Callback] = ()) -> Path | None:
    """Run one of fit, validate, test; the run folder of a fit.

    Args:
        arguments: of the command line.
        callbacks: of the trainer, after its own.

    Raises:
        SystemExit: where a signal ended the run: with code 130 after Ctrl-C, 143 after SIGTERM.
        CheckpointError, FileNotFoundError: for a `--ckpt_path` that cannot be used; nothing is
            then written.
        OSError: where a checkpoint could not be written, on a full disk, say; earlier ones are as
            they were.
    """
    if torch.cuda.is_available():  # a command may set what a library must not
        torch.set_float32_matmul_precision("high")

    leave_out_unsaid()
    give_back_freed_memory()  # of another training of this process
    folder = FitCLI(arguments, callbacks).run_folder
    if helper_process():
        return None

    return folder


def signal_of(error: SystemExit) -> str | None:
    """The signal behind a SystemExit.

    Lightning turns Ctrl-C into a SystemExit, and raises its own kind after SIGTERM.
    """
    if isinstance(error, Interrupted):
        return error.name

    if isinstance(error, SIGTERMException):
        return "SIGTERM"

    if isinstance(error.__context__, KeyboardInterrupt):
        return "SIGINT"

    return None
