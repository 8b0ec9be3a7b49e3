"""Images as bits that are drawn once."""

from pathlib import Path

import pytest
import torch

from gendae import MNIST, Binarised, Digits, Toys2D
from gendae.commands.common import dataset_of
from gendae.data.base import SPLITS, facts_of
from gendae.data.binarised import bits_of
from gendae.models.architectures import deep_autoencoder
from gendae.registry import build
from gendae.storage.model_file import digest

#: Of the bits of MNIST, as bytes 0 and 1, that seed 0 draws.
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "likelihoods.md"
SHA_256 = "d265a87eb30751b7a4619ded1951704375270056e50c703e792b4f9edf5faf40"


def test_the_bits_have_the_grey_values_as_probabilities_and_stay():
    data = Binarised(Digits(), batch_size=1199)
    again = build(facts_of(data)["dataset"])
    other = Binarised(Digits(), draw=1)

    one = torch.Generator().manual_seed(0)  # for all splits, one after the other
    black = torch.zeros(2**20)  # among the draws of seed 12 is 0
    assert not bits_of(black, torch.Generator().manual_seed(12)).any()

    for name in SPLITS:
        bits = data.split(name)
        grey = Digits().split(name)
        assert set(bits.x.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(bits.x, (torch.rand(grey.x.shape, generator=one) < grey.x).float())
        assert torch.equal(bits.y, grey.y)
        assert torch.equal(bits.x[grey.x == 0.0], grey.x[grey.x == 0.0])
        assert torch.equal(bits.x[grey.x == 1.0], grey.x[grey.x == 1.0])
        assert torch.equal(again.split(name).x, bits.x)
        assert not torch.equal(other.split(name).x, bits.x)

        error = (grey.x * (1.0 - grey.x)).sum().sqrt()
        assert abs((bits.x - grey.x).sum()) < 4.0 * error

    batches = [next(iter(data.train_dataloader())).x for _ in range(2)]
    rows = [{tuple(row) for row in batch.tolist()} for batch in batches]
    assert rows[0] == rows[1] == {tuple(row) for row in data.split("train").x.tolist()}

    stack = deep_autoencoder([64, 4])
    stack.facts = facts_of(data)
    assert dataset_of(stack) == "Digits"


def test_the_bits_of_mnist_are_known(mnist):
    data = Binarised(mnist)
    bits = {name: data.split(name).x.to(torch.uint8) for name in SPLITS}
    assert digest(bits) == SHA_256
    assert SHA_256 in PAGE.read_text(encoding="utf-8")
    assert data.identity == mnist.identity
    assert isinstance(Binarised().source, MNIST)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Binarised(Toys2D()), "source=Toys2D: x holds other things than pixels"),
        (lambda: Binarised(Digits(), draw=-1), "draw=-1"),
        (lambda: Binarised(3), "source"),
    ],
)
def test_what_has_no_bits_is_refused(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make().setup()
    assert "\n" not in str(error.value)
