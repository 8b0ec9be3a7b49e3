"""Train a network of checkpoints/features/: validation error each epoch, test error at the end.

    python -m benchmarks.classifier [configs/mnist-classifier.yaml]
    python -m benchmarks.classifier configs/fashion-mnist-classifier.yaml --out mine.safetensors

The file has the name of its configuration.
"""

import argparse
import time
from pathlib import Path

from pytorch_lightning.cli import LightningCLI

from gendae.data.base import Data
from gendae.metrics.features import ClassifierTraining, save_feature_classifier

ROOT = Path(__file__).parent.parent
CONFIG = "configs/mnist-classifier.yaml"
FOLDER = ROOT / "checkpoints/features"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", nargs="?", default=CONFIG)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or FOLDER / f"{Path(args.config).stem}.safetensors"

    cli = LightningCLI(
        ClassifierTraining,
        Data,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        args=["--config", str(ROOT / args.config)],
    )

    start = time.perf_counter()
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.model.network.normalise(cli.datamodule.split("train").x)
    seconds = time.perf_counter() - start

    validation = cli.trainer.callback_metrics["val/error"].item()
    test = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]["test/error"]

    facts = facts_of(cli, args.config, validation, test)
    path = save_feature_classifier(cli.model.network, out, facts)
    print(
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, validation error {100 * validation:.2f} %, "
        f"test error {100 * test:.2f} %, {seconds:.0f} s"
    )


def facts_of(cli, config, validation, test):
    """How the network was trained and how well it does: what its file says."""
    return {
        "dataset": cli.datamodule.identity.name,
        "seed": cli.config["seed_everything"],
        "epochs": cli.trainer.current_epoch,
        "config": config,
        "command": f"python -m benchmarks.classifier {config}",
        "validation_error": round(validation, 5),
        "test_error": round(test, 5),
    }


if __name__ == "__main__":
    main()
