"""Images turned over and shifted: anew in each epoch, the same on any number of processes."""

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from gendae import (
    Augmented,
    Binarised,
    Digits,
    FewLabels,
    Images,
    ImageSequences,
    Multimodal,
    PartlyLabelled,
    Shards,
    TargetPropRule,
    Toys2D,
    deep_autoencoder,
)
from gendae.commands.common import dataset_of
from gendae.data.augmented import ImageVariation
from gendae.data.base import facts_of
from gendae.data.loader import Split, TensorLoader
from gendae.registry import build
from tests.data.test_identity import QUIET

SHAPE = (3, 5, 4)
SHIFT = 2


def by_hand(image, flip, down, right):
    """One image, turned over, then moved by indices."""
    source = image.flip(-1) if flip else image
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                moved[:, i, j] = source[:, i - down, j - right]
    return moved


def test_every_flip_and_shift_is_that_of_indices():
    cases = torch.cartesian_prod(torch.arange(2), torch.arange(-6, 7), torch.arange(-5, 6))
    x = torch.rand(len(cases), 60, dtype=torch.float64)
    expected = [by_hand(*case) for case in zip(x.view(-1, *SHAPE), *cases.T.tolist(), strict=True)]
    varied = ImageVariation(SHAPE, True, 6)(x, cases)
    assert torch.equal(varied.view(-1, *SHAPE), torch.stack(expected))


def test_draws_are_uniform_and_none_without_a_choice():
    drawn = ImageVariation(SHAPE, True, SHIFT).draws(30_000, torch.Generator().manual_seed(0))
    for column, values in zip(drawn.T, (2, 5, 5), strict=True):
        share = column.unique(return_counts=True)[1] / len(column)
        assert len(share) == values
        assert (share - 1 / values).abs().max() < 0.015

    none = ImageVariation(SHAPE, False, 0)
    assert not none.draws(9, torch.Generator()).any()


X = torch.rand(24, 60, generator=torch.Generator().manual_seed(0))


def test_a_window_is_enlarged_without_a_loss_of_what_is_linear():
    """Catmull and Rom's cubic gives linear images exactly, away from their borders."""
    sides = torch.arange(9, dtype=torch.float64), torch.arange(7, dtype=torch.float64)
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    x = (0.1 + 0.05 * rows + 0.03 * columns).view(1, -1).repeat(3, 1)
    factor = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    place = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.2, -0.3]], dtype=torch.float64)
    varied = ImageVariation((9, 7), False, 0, 4.0).enlarged(x, factor, place)
    torch.testing.assert_close(varied[0], x[0], atol=1e-12, rtol=0)

    share = 1.0 / factor[:, :, None]
    down = 4.0 + share * (rows - 4.0) + 4.5 * (1.0 - share) * place[:, :1, None]
    right = 3.0 + share * (columns - 3.0) + 3.5 * (1.0 - share) * place[:, 1:, None]
    expected = 0.1 + 0.05 * down + 0.03 * right
    inside = (down >= 1) & (down <= 7) & (right >= 1) & (right <= 5)
    assert inside[1:].sum() > 60
    difference = (varied.view(3, 9, 7) - expected)[inside]
    assert difference.abs().max() < 1e-12

    drawn = ImageVariation(SHAPE, True, 1, 4.0).draws(20_000, torch.Generator().manual_seed(0))
    octaves = drawn[:, 3].log2()
    assert abs(octaves.mean() - 1.0) < 0.02
    assert octaves.min() >= 0
    assert octaves.max() <= 2
    plain = ImageVariation(SHAPE, True, 1).draws(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, :3].long(), plain)


def loader(rank=0, ranks=1, size=8, **options):
    variation = ImageVariation(SHAPE, True, SHIFT)
    split = Split(X, torch.arange(24))
    return TensorLoader(split, size // ranks, True, 3, rank, ranks, variation=variation, **options)


def test_two_processes_see_the_batches_of_one():
    one, *two = loader(), loader(0, 2), loader(1, 2)
    for _ in range(2):
        for whole, *parts in zip(one, *two, strict=True):
            rows = torch.cat([part.y for part in parts])
            order = [rows.tolist().index(row) for row in whole.y.tolist()]
            assert torch.equal(torch.cat([part.x for part in parts])[order], whole.x)


def test_an_epoch_is_varied_anew_and_can_be_resumed():
    first, again, stopped = loader(passes=2), loader(passes=2), loader(passes=2)
    epochs = [list(first) for _ in range(2)]
    of_row = [
        {int(y): x for b in epoch for x, y in zip(b.x, b.y, strict=True)} for epoch in epochs
    ]
    assert sum(torch.equal(of_row[0][row], of_row[1][row]) for row in range(24)) < 6
    assert all(torch.equal(a.x, b.x) for a, b in zip(epochs[0][:3], epochs[0][3:], strict=True))
    assert all(torch.equal(a.x, b.x) for a, b in zip(again.first(4), epochs[0][:4], strict=True))

    for taken, batch in zip(range(2), stopped, strict=False):
        assert torch.equal(batch.x, epochs[0][taken].x)
    again.load_state_dict(stopped.state_dict())
    for batch, expected in zip(again, epochs[0][2:], strict=True):
        assert torch.equal(batch.x, expected.x)

    plain = TensorLoader(Split(X, torch.arange(24)), 8, True, 3)
    assert [b.y.tolist() for b in plain] == [b.y.tolist() for b in epochs[0][:3]]
    assert torch.equal(torch.cat([b.x for b in first.sequential()]), X)


def test_only_training_batches_are_varied(tmp_path):
    data = Augmented(Digits(), flip=False, shift=2, batch_size=1199)
    rows = Digits().split("train").x
    (batch,) = data.train_dataloader()
    assert not torch.equal(batch.x.sort(0).values, rows.sort(0).values)
    kept = (batch.x.sum(1)[:, None] - rows.sum(1)).abs().amin(1)
    assert (kept < 1e-5).float().mean() > 0.1

    for name, batches in (("valid", data.val_dataloader()), ("test", data.test_dataloader())):
        assert torch.equal(torch.cat([b.x for b in batches]), Digits().split(name).x)
        assert torch.equal(data.split(name).x, Digits().split(name).x)
    assert torch.equal(data.split("train").x, rows)

    np.save(tmp_path / "x.npy", X.numpy())
    shards = Augmented(Shards(str(tmp_path / "x.npy"), [5, 4], color="rgb"), shift=1, batch_size=5)
    assert shards.shape == SHAPE
    assert next(iter(shards.train_dataloader())).x.shape == (5, 60)


def test_a_model_remembers_what_was_augmented():
    data = Augmented(Digits(), flip=False, shift=1)
    rule = TargetPropRule(deep_autoencoder([64, 4]))
    Trainer(max_epochs=1, **QUIET).fit(rule, datamodule=data)
    facts = facts_of(data)
    assert rule.stack.facts["dataset"] == facts["dataset"]
    assert dataset_of(rule.stack) == "Digits"

    again = build(facts["dataset"])
    batches = [next(iter(each.train_dataloader())) for each in (data, again)]
    assert torch.equal(batches[0].x, batches[1].x)

    few = Augmented(PartlyLabelled(Digits(), FewLabels(100)))
    assert next(iter(few.train_dataloader())).y.min() == -1

    bits = next(iter(Augmented(Binarised(Digits())).train_dataloader())).x
    assert set(bits.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Augmented(Toys2D()), "source=Toys2D: x holds other things than images of shape"),
        (
            lambda: Augmented(Multimodal(Digits(), ["image", "label"])),
            "source=Multimodal: x holds",
        ),
        (lambda: Augmented(Digits(), shift=-1), "shift=-1"),
        (lambda: Augmented(Augmented(Digits())), "put Augmented around it"),
        (lambda: Multimodal(Augmented(Digits()), ["image"]), "Multimodal does not vary batches"),
        (lambda: PartlyLabelled(Augmented(Digits()), FewLabels(10)), "PartlyLabelled does not"),
        (lambda: ImageSequences(Augmented(Digits())), "ImageSequences does not vary batches"),
        (lambda: Augmented(3), "source"),
        (
            lambda: Augmented(PartlyLabelled(Binarised(Digits()), FewLabels(10)), zoom=2.0),
            "zoom=2",
        ),
        (lambda: Binarised(Augmented(Digits())), "Binarised does not vary batches; put Augmented"),
    ],
)
def test_what_cannot_be_augmented_is_refused(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make().setup()
    assert "\n" not in str(error.value)


def test_colour_is_moved_with_its_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), np.uint8)
    data = Augmented(Images(pixels, color="rgb"), shift=1)
    colours = {tuple(colour) for colour in (pixels.reshape(-1, 3) / np.float32(255)).tolist()}
    batch = next(iter(data.train_dataloader())).x.view(-1, *SHAPE).permute(0, 2, 3, 1)
    assert {tuple(colour) for colour in batch.reshape(-1, 3).tolist()} <= colours | {
        (0.0, 0.0, 0.0)
    }
