"""`gendae fit`, `validate` and `test`: LightningCLI with numbered run folders."""

import contextlib
import os
import shlex
import shutil
import signal
import sys
from importlib import import_module
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

import gendae.models
import gendae.shards  # noqa: F401 - class paths of configurations name these two
from gendae import checks
from gendae.callbacks import CreditMonitor, ParzenMonitor
from gendae.checkpointing import CheckpointError, is_local, read
from gendae.data import ImageData
from gendae.joint import JointStack
from gendae.restoring import check_content
from gendae.rules import Rule, SupervisedRule
from gendae.running import Interrupted, RunCheckpoint, StopAtSignal

#: best.ckpt by what the rule is scored with on validation images, last.ckpt after every validation; each in its own
#: callback, since ModelCheckpoint's save_last follows its monitor.
CHECKPOINTS = ("best", "last")
RUN_FOLDER = "GENDAE_RUN_FOLDER"  # variable that tells the processes that Lightning starts where their run is


def helper_process() -> bool:
    """Whether this process is not the first of several of one training (DDP), whose folder it shares.

    On another machine the first process of a node has local rank 0 too.
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    return rank_zero_only.rank != 0 or node != "0"


def new_run_folder(root: str | Path) -> Path:
    """The next free numbered folder below root, made: 0001, 0002, ..; nothing is ever written over."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in root.iterdir() if p.name.isdigit()), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            folder = root / f"{number:04d}"
            folder.mkdir()
            return folder


class FitCLI(LightningCLI):
    """Adds to LightningCLI: a run folder with CSV log, last and best checkpoint, and a Parzen score."""

    run_folder: Path | None = None

    def __init__(self, arguments: list[str]) -> None:
        self.command = shlex.join(["gendae", *arguments])
        try:
            self._run(arguments)
        except BaseException as error:  # a failed start leaves no folder behind
            if self.run_folder is not None and not helper_process():
                with contextlib.suppress(OSError):
                    if (
                        isinstance(error, CheckpointError)
                        and not (self.run_folder / "checkpoints").exists()
                    ):
                        shutil.rmtree(self.run_folder)
                    self.run_folder.rmdir()
            if isinstance(error, SystemExit):
                self._explain(error)
            raise

    def _run(self, arguments: list[str]) -> None:
        super().__init__(
            Rule,
            ImageData,
            args=arguments,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            trainer_defaults={  # log_every_n_steps=1: the rule itself logs once in `log_every` updates
                "num_sanity_val_steps": 0,
                "default_root_dir": "runs",
                "max_epochs": 20,
                "log_every_n_steps": 1,
            },
            parser_kwargs={"prog": "gendae"},
        )

    def _explain(self, error: SystemExit) -> None:
        """Say which signal ended the run and how it goes on, and give the exit code a shell would."""
        name = signal_of(error)
        if name is not None and not helper_process():
            last = (
                None if self.run_folder is None else self.run_folder / "checkpoints" / "last.ckpt"
            )
            resume = (
                f"; to go on: gendae fit --config {self.run_folder}/config.yaml --ckpt_path {last}"
            )
            print(
                f"gendae: {name} ended the run{resume if last and last.is_file() else ''}",
                file=sys.stderr,
            )
        if name is not None:
            error.code = 128 + signal.Signals[name]

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """LightningCLI's own, without predict."""
        return {k: v for k, v in LightningCLI.subcommands().items() if k != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The sections `parzen`, `credit`, `best` and `last`: scores of samples, of targets, and what is kept."""
        parser.add_lightning_class_args(ParzenMonitor, "parzen")
        parser.add_lightning_class_args(CreditMonitor, "credit")
        for name in CHECKPOINTS:
            parser.add_lightning_class_args(RunCheckpoint, name)
            parser.set_defaults(
                {f"{name}.filename": name, f"{name}.enable_version_counter": False}
            )

    def _parse_ckpt_path(self) -> None:
        """Checkpoints hold hyper-parameters in gendae's own plain form; the command line has its own."""

    def before_instantiate_classes(self) -> None:
        """Make the run folder, and put the CSV log there."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        if config.ckpt_path and is_local(config.ckpt_path):  # before anything is written
            check_content(
                config.ckpt_path,
                read(config.ckpt_path),
                config.model.class_path.rsplit(".", 1)[1],
                self.subcommand == "fit",
            )
        if config.best.monitor is None:  # what the rule says
            module, name = config.model.class_path.rsplit(".", 1)
            config.best.monitor, config.best.mode = getattr(import_module(module), name).score
        if self.subcommand != "fit":
            trainer.logger = False
            self.save_config_callback = None
            for name in CHECKPOINTS:
                config[name].save_top_k = 0
            return
        root = Path(trainer.default_root_dir)
        if (root / "config.yaml").is_file():  # the configuration of an earlier run, given again
            root = root.parent
        shared = os.environ.get(RUN_FOLDER, root)
        self.run_folder = Path(shared) if helper_process() else new_run_folder(root)
        os.environ[RUN_FOLDER] = str(self.run_folder)
        trainer.default_root_dir = str(self.run_folder)
        for name in CHECKPOINTS:
            config[name].dirpath = str(self.run_folder / "checkpoints")
        csv = {
            "class_path": "pytorch_lightning.loggers.CSVLogger",
            "init_args": {"save_dir": str(self.run_folder), "name": "", "version": ""},
        }
        others = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        others = [
            other
            for other in others
            if other not in (None, True, False) and not other.class_path.endswith("CSVLogger")
        ]
        for other in others:  # wandb's default is the current folder
            if other.init_args.get("save_dir", "") in (None, "."):
                other.init_args.save_dir = str(self.run_folder)
        trainer.logger = [csv, *others]

    def instantiate_trainer(self, **options: object) -> Trainer:
        """The trainer, which a signal stops with care."""
        trainer = super().instantiate_trainer(**options)
        trainer.callbacks.insert(0, StopAtSignal())
        return trainer

    def before_fit(self) -> None:
        """Look at the data before a run begins; remember what was typed: it travels with the model."""
        if isinstance(self.model, SupervisedRule):
            self.model.check_data(self.datamodule)
        elif not isinstance(self.model.stack, JointStack):  # whose rule knows what it lacks
            x = self.datamodule.rows("train").x
            checks.width(f"x of {type(self.datamodule).__name__}", x, self.model.stack.sizes[0])
        self.model.stack.facts["command"] = self.command

    def after_fit(self) -> None:
        """Write last.ckpt where the last update was not followed by a validation, which writes it."""
        for keep in self.trainer.checkpoint_callbacks:
            last = (
                isinstance(keep, RunCheckpoint) and keep.monitor is None and keep.save_top_k != 0
            )
            if last and self.trainer.global_step != keep._last_global_step_saved:
                self.trainer.save_checkpoint(keep.format_checkpoint_name({}))


def main(arguments: list[str]) -> Path | None:
    """Run one of fit, validate, test; the run folder of a fit.

    Raises:
        SystemExit: where a signal ended the run: with code 130 after Ctrl-C, 143 after SIGTERM.
        CheckpointError, FileNotFoundError: for a `--ckpt_path` that cannot be used; nothing is then written.
        OSError: where a checkpoint could not be written, on a full disk, say; earlier ones are as they were.
    """
    if torch.cuda.is_available():  # a command may set what a library must not
        torch.set_float32_matmul_precision("high")
    folder = FitCLI(arguments).run_folder
    return None if helper_process() else folder


def signal_of(error: SystemExit) -> str | None:
    """The signal behind a SystemExit: Lightning turns Ctrl-C into one, and raises its own after SIGTERM."""
    if isinstance(error, Interrupted):
        return error.name
    if isinstance(error, SIGTERMException):
        return "SIGTERM"
    return "SIGINT" if isinstance(error.__context__, KeyboardInterrupt) else None
