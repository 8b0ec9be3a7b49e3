"""Few labels spread along the neighbours of codes."""

from functools import partial

import numpy as np
import pytest
import torch

import gendae
from gendae.data.base import Data
from gendae.data.labels import PartlyLabelled, SpreadLabels, neighbour_graph
from gendae.data.loader import Split
from gendae.data.multimodal import FewLabels
from gendae.models.architectures import deep_autoencoder
from tests.training.resuming import FewDigits

MODEL = "digits-variational-em"


def few(**options):
    return PartlyLabelled(FewDigits(), FewLabels(20, **options))


def test_the_graph_is_written_out():
    """One of three neighbours each, of either; a distance in units of both last neighbours'."""
    codes = np.random.default_rng(0).normal(size=(9, 2))
    graph = neighbour_graph(codes, 3).toarray()

    distance = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    order = distance.argsort(1)[:, 1:4]
    scale = distance[np.arange(9), order[:, -1]]
    for i in range(9):
        for j in range(9):
            near = i != j and (j in order[i] or i in order[j])
            expected = np.exp(-(distance[i, j] ** 2) / (scale[i] * scale[j])) if near else 0.0
            assert graph[i, j] == pytest.approx(expected, rel=1e-6)


def test_labels_are_those_of_the_closed_form():
    """F = (1 - alpha) (I - alpha S)^-1 Y, the fixed point of the spreading."""
    data = SpreadLabels(few(), MODEL, neighbours=4, alpha=0.9, share=1.0)
    x, y, _ = data.split("train")
    known = few().split("train").y

    codes = gendae.load(MODEL).encode(x)[-1].detach()
    codes = torch.nn.functional.normalize(codes - codes.mean(0)).numpy()
    graph = neighbour_graph(codes, 4).toarray()
    root = graph.sum(1) ** -0.5
    matrix = np.eye(len(x)) - 0.9 * root[:, None] * graph * root[None]
    one_hot = np.zeros((len(x), 10))
    one_hot[known >= 0, known[known >= 0]] = 1.0
    expected = torch.from_numpy(np.linalg.solve(matrix, one_hot).argmax(1))

    free = known < 0
    assert (y[free] == expected[free]).float().mean() > 0.99  # it stops before it settles
    assert torch.equal(y[~free], known[~free])


def test_only_the_more_certain_examples_get_one():
    whole = SpreadLabels(few(), MODEL, share=1.0).split("train").y
    half = SpreadLabels(few(), MODEL, share=0.5).split("train").y
    truth = FewDigits().split("train").y
    some = half >= 0

    assert some.sum() == len(truth) // 2
    assert torch.equal(half[some], whole[some])
    assert (half != truth)[some].float().mean() < (whole != truth)[~some].float().mean()
    for name in ("valid", "test"):
        split = SpreadLabels(few(), MODEL).split(name)
        assert torch.equal(split.y, FewDigits().split(name).y)


def test_labels_stay_for_examples_that_no_neighbour_reaches(tmp_path):
    """Two far clusters of which one has no label: it gets none of the share."""

    class Clusters(Data):
        kind = "points"

        def read(self):
            x = torch.randn(40, 2) * 0.1
            x[20:] += 100.0
            y = torch.full((40,), -1)
            y[:2] = torch.tensor([3, 5])
            return {name: Split(x, y) for name in ("train", "valid", "test")}, (1, 2)

    model = gendae.save(deep_autoencoder([2, 2]), tmp_path / "model.safetensors")
    y = SpreadLabels(Clusters(), str(model), level=0, neighbours=3, share=0.5).split("train").y

    assert (y[:20] >= 0).all()
    assert (y[20:] == -1).all()
    assert set(y[:20].tolist()) <= {3, 5}


OF_DIGITS = partial(SpreadLabels, codes_of=MODEL)
REFUSED = [
    (lambda: OF_DIGITS(few(share=0.5)), "share=0.5, only=False.* several times"),
    (lambda: OF_DIGITS(few(only=True)), "only=True.* several times"),
    (lambda: OF_DIGITS(few(), alpha=1.0), "alpha=1.0: a number between 0 and 1"),
    (lambda: OF_DIGITS(few(), share=1.5), "share=1.5"),
    (lambda: OF_DIGITS(few(), neighbours=0), "neighbours=0"),
    (lambda: OF_DIGITS(FewDigits()).setup(), "source=FewDigits: some training examples with"),
    (lambda: OF_DIGITS(few(), level=3).setup(), "level=3: .* has levels 0 .. 2"),
    (lambda: OF_DIGITS(few(), neighbours=200).setup(), "neighbours=200: 200 training examples"),
    (lambda: SpreadLabels(few(), "mnist-variational-em").setup(), "64"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()

    assert "\n" not in str(caught.value)
