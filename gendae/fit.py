"""`gendae fit`, `validate` and `test`: LightningCLI with numbered run folders."""

import contextlib
import shlex
from importlib import import_module
from pathlib import Path

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

import gendae.models  # noqa: F401 - class paths of configurations name it
from gendae.callbacks import CreditMonitor, ParzenMonitor
from gendae.data import ImageData
from gendae.rules import Rule, SupervisedRule

#: best.ckpt by what the rule is scored with on validation images, last.ckpt after every validation; each in its own
#: callback, since ModelCheckpoint's save_last follows its monitor.
CHECKPOINTS = ("best", "last")


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
        except BaseException:  # a failed start leaves no empty folder behind
            if self.run_folder is not None:
                with contextlib.suppress(OSError):
                    self.run_folder.rmdir()
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
                "num_sanity_val_steps": 0, "default_root_dir": "runs", "max_epochs": 20,
                "log_every_n_steps": 1,
            },
            parser_kwargs={"prog": "gendae"},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """LightningCLI's own, without predict."""
        return {k: v for k, v in LightningCLI.subcommands().items() if k != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The sections `parzen`, `credit`, `best` and `last`: scores of samples, of targets, and what is kept."""
        parser.add_lightning_class_args(ParzenMonitor, "parzen")
        parser.add_lightning_class_args(CreditMonitor, "credit")
        for name in CHECKPOINTS:
            parser.add_lightning_class_args(ModelCheckpoint, name)
            parser.set_defaults({f"{name}.filename": name, f"{name}.enable_version_counter": False})

    def _parse_ckpt_path(self) -> None:
        """Checkpoints hold hyper-parameters in gendae's own plain form; the command line has its own."""

    def before_instantiate_classes(self) -> None:
        """Make the run folder, and put the CSV log there."""
        config = self.config[self.subcommand]
        trainer = config.trainer
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
        self.run_folder = new_run_folder(root)
        trainer.default_root_dir = str(self.run_folder)
        for name in CHECKPOINTS:
            config[name].dirpath = str(self.run_folder / "checkpoints")
        csv = {"class_path": "pytorch_lightning.loggers.CSVLogger",
               "init_args": {"save_dir": str(self.run_folder), "name": "", "version": ""}}
        others = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        others = [other for other in others if other not in (None, True, False)
                  and not other.class_path.endswith("CSVLogger")]
        for other in others:  # wandb's default is the current folder
            if other.init_args.get("save_dir", "") in (None, "."):
                other.init_args.save_dir = str(self.run_folder)
        trainer.logger = [csv, *others]

    def before_fit(self) -> None:
        """Look at the data before a run begins; remember what was typed: it travels with the model."""
        if isinstance(self.model, SupervisedRule):
            self.model.check_data(self.datamodule)
        self.model.stack.facts["command"] = self.command


def main(arguments: list[str]) -> Path | None:
    """Run one of fit, validate, test; the run folder of a fit."""
    if torch.cuda.is_available():  # a command may set what a library must not
        torch.set_float32_matmul_precision("high")
    return FitCLI(arguments).run_folder
