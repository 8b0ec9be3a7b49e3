"""Train the network of checkpoints/features/: validation error each epoch, test error at the end.

python -m benchmarks.classifier [--out checkpoints/features/mnist-classifier.safetensors]
"""

import argparse
import time
from pathlib import Path

from pytorch_lightning.cli import LightningCLI

from gendae.data.base import Data
from gendae.metrics.features import ClassifierTraining, save_feature_classifier

ROOT = Path(__file__).parent.parent
CONFIG = "configs/mnist-classifier.yaml"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", default=str(ROOT / "checkpoints/features/mnist-classifier.safetensors")
    )
    parser.add_argument("--config", default=str(ROOT / CONFIG))
    args = parser.parse_args()

    cli = LightningCLI(
        ClassifierTraining,
        Data,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        args=["--config", args.config],
    )

    start = time.perf_counter()
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.model.network.normalise(cli.datamodule.split("train").x)
    seconds = time.perf_counter() - start

    validation = cli.trainer.callback_metrics["val/error"].item()
    test = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]["test/error"]

    path = save_feature_classifier(cli.model.network, args.out, facts_of(cli, validation, test))
    print(
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, validation error {100 * validation:.2f} %, "
        f"test error {100 * test:.2f} %, {seconds:.0f} s"
    )


def facts_of(cli, validation, test):
    """How the network was trained and how well it does: what its file says."""
    return {
        "dataset": type(cli.datamodule).__name__,
        "seed": cli.config["seed_everything"],
        "epochs": cli.trainer.current_epoch,
        "config": CONFIG,
        "command": "python -m benchmarks.classifier",
        "validation_error": round(validation, 5),
        "test_error": round(test, 5),
    }


if __name__ == "__main__":
    main()
