"""Pictures of what is learned: kept by epoch, given to loggers, no trace in the training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

import gendae
from gendae import plots
from gendae.training.callbacks import ParzenMonitor
from gendae.training.pictures import Pictures, show
from gendae.training.run import ValidationAtEnd
from tests.training.resuming import EPOCHS, QUIET, RULES, data_of, differences, train


class Codes(gendae.Picture):
    """Also draws random numbers, as a picture of one's own may."""

    name = "codes"

    def draw(self, rule, x):
        assert not torch.is_grad_enabled()
        return plots.curves(rule.stack.encode(x)[-1] + torch.rand(1))


class Plain(gendae.Picture):
    """A figure of matplotlib's own."""

    name = "plain"

    def draw(self, rule, x):
        figure, axes = pyplot.subplots()
        pyplot.close(figure)
        axes.plot(x[0])
        return figure


def test_training_is_the_same_with_and_without_pictures(tmp_path):
    names = ["samples", "reconstructions", "inpainting", "chains"]
    pictures = Pictures(2, [*names, Codes(), Plain()])
    names += ["codes", "plain"]
    shown = train("em", callbacks=[pictures], default_root_dir=tmp_path)
    assert differences(train("em"), shown) == []

    epochs = {2, EPOCHS}
    files = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert files == {f"{name}_{epoch:04d}.png" for name in names for epoch in epochs}


class Stop(Callback):
    """Ends a fit as `max_time` does."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= 6


@pytest.mark.parametrize(
    ("callbacks", "options"),
    [([], {"max_epochs": -1, "max_steps": 6}), ([Stop()], {"max_epochs": 9})],
)
def test_the_end_has_a_picture_and_a_score_whatever_ends_the_fit(callbacks, options, tmp_path):
    seen = ParzenMonitor(n=10, grid=[0.3], every=5, picture=False)
    added = [ValidationAtEnd(), *callbacks, Pictures(5, ["samples"]), seen]
    rule = RULES["em"]()
    options = {**QUIET, **options, "limit_train_batches": 4, "check_val_every_n_epoch": 5}
    trainer = Trainer(
        callbacks=added, default_root_dir=tmp_path, enable_checkpointing=False, **options
    )
    trainer.fit(rule, data_of("em"))

    assert trainer.global_step == 6
    assert [path.name for path in tmp_path.glob("pictures/*")] == ["samples_0002.png"]
    assert "val/parzen_ll" in trainer.callback_metrics

    (result,) = trainer.validate(rule, data_of("em"), verbose=False)
    assert "val/parzen_ll" in result


def test_what_a_model_cannot_be_shown_by_is_refused_or_left_out(tmp_path):
    with pytest.raises(ValueError, match=r"which='nonsense'.*samples, reconstructions"):
        Pictures(1, ["nonsense"])
    with pytest.raises(ValueError, match=r"which=5: .*samples, reconstructions"):
        Pictures(1, 5)

    codes = Codes()
    assert Pictures(1, codes).pictures == [codes]
    assert [picture.name for picture in Pictures(1, "samples").pictures] == ["samples"]

    with pytest.raises(ValueError, match=r"which='samples': a Classifier under BackpropRule"):
        train("backprop", callbacks=[Pictures(1, ["samples"])], default_root_dir=tmp_path)

    train("backprop", callbacks=[Pictures(1)], default_root_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_loggers_get_what_the_file_shows(tmp_path):
    seen = []
    wandb = SimpleNamespace(log_image=lambda *arguments: seen.append(arguments))
    csv = SimpleNamespace()
    board = TensorBoardLogger(tmp_path)
    added = []
    board._experiment = SimpleNamespace(add_image=lambda *a, **k: added.append((*a, k)))

    trainer = SimpleNamespace(
        default_root_dir=tmp_path, current_epoch=6, global_step=70, loggers=[csv, board, wandb]
    )
    figure = plots.image_grid(torch.rand(4, 64), (8, 8))
    trainer.callbacks = [Pictures(every=0)]
    show(trainer, "samples", figure)
    assert not seen + added + list(tmp_path.iterdir())

    trainer.callbacks = [Pictures()]
    show(trainer, "samples", figure)

    pixels = np.asarray(Image.open(tmp_path / "pictures/samples_0007.png").convert("RGB"))
    ((tag, [image], step),) = seen
    ((board_tag, board_pixels, board_step, options),) = added

    assert (tag, step) == (board_tag, board_step) == ("pictures/samples", 70)
    assert options == {"dataformats": "HWC"}
    assert np.array_equal(np.asarray(image), pixels) and np.array_equal(board_pixels, pixels)
