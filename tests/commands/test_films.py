"""Films: every step a frame, the last of them the picture of the result."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from gendae import Inpainter, TargetPropInference, generate, inpaint, save
from gendae.completion.inpainting import inpainting_steps
from gendae.data import films
from gendae.data.films import write_film
from gendae.priors.denoiser import LevelMLP
from gendae.priors.denoising import DenoisingPrior
from gendae.priors.descents import HeunDescent
from gendae.priors.fitting import AveragedLearning
from gendae.sampling.level import LevelSampler
from gendae.sampling.samplers import (
    AncestralSampler,
    GenerateSampler,
    JointChainSampler,
    LatentChainSampler,
    sampling_steps,
)
from tests.commands.test_cli import gendae, one_line
from tests.conftest import small_stack

NOISE = np.random.default_rng(0).integers(0, 256, (5, 61, 40), np.uint8)


def frames_of(path):
    if path.suffix == ".mp4":
        reader = pytest.importorskip("imageio.v2")
        return [np.asarray(Image.fromarray(each).convert("L")) for each in reader.mimread(path)]

    with Image.open(path) as film:
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]


@pytest.mark.parametrize("suffix", films.FILMS)
def test_a_film_is_read_back(suffix, tmp_path):
    smooth = np.stack([np.full((61, 40), level, np.uint8) for level in (0, 60, 120, 180, 240)])
    frames = smooth if suffix == ".mp4" else NOISE
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")

    path = write_film(list(frames), tmp_path / f"folder/a{suffix}")
    read = np.stack(frames_of(path))
    again = write_film(list(frames), tmp_path / f"b{suffix}")

    assert len(read) == 5
    assert np.abs(read[:, :61, :40].astype(int) - frames).max() <= 2 * (suffix == ".mp4")
    assert path.read_bytes() == again.read_bytes()


def test_what_cannot_be_a_film(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="two frames or more; there is 1"):
        write_film(list(NOISE[:1]), tmp_path / "a.gif")

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"a\.mp4: a \.mp4.* needs imageio_ffmpeg; pip install"):
        write_film(list(NOISE), tmp_path / "a.mp4")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sampler",
    [GenerateSampler(2), LatentChainSampler(3), JointChainSampler(4), LevelSampler(0, 3)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_the_last_step_of_sampling_is_the_sample(sampler):
    stack = small_stack()
    steps = sampling_steps(stack, 7, sampler, seed=3)
    assert len(steps) == sampler.rounds + 1
    assert torch.equal(steps[-1], generate(stack, 7, sampler, seed=3))
    assert not torch.equal(steps[0], steps[-1])


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("begin", ["noise", "prior"])
def test_the_last_step_of_inpainting_is_what_is_filled_in(steps, begin):
    stack = small_stack()
    x = torch.rand(5, 8)
    mask = torch.arange(8) < 4
    inpainter = Inpainter(2, TargetPropInference(steps, 0.3, 0.1), chains=3, begin=begin)

    states = inpainting_steps(stack, x, mask, inpainter, seed=1, batch_size=6)
    filled = inpaint(stack, x, mask, inpainter, seed=1, batch_size=6)
    assert len(states) == 1 + 2 * (steps + 1)
    assert torch.equal(states[-1], filled)
    assert torch.equal(states[:, :, mask], x[:, mask].expand(len(states), 5, 4))


def test_films_of_the_commands_end_with_their_pictures(tmp_path, digits, capsys):
    stack = small_stack([64, 20, 8])
    stack.facts = {"dataset": {"type": "Digits"}, "shape": [8, 8]}
    for pair in stack.pairs:
        pair.g.weight.data *= 20.0  # so that no two frames are the same
    model = save(stack, tmp_path / "m.safetensors")
    chain = ["--sampler", "level", "--sampler.level", 0, "--sampler.rounds", 4]

    def written(name, *arguments):
        assert gendae(*arguments, "--out", tmp_path / name) == 0
        return tmp_path / name

    still = np.asarray(Image.open(written("a.png", "sample", model, "--n", 4, *chain)))
    moving = frames_of(written("a.gif", "sample", model, "--n", 4, *chain))
    assert len(moving) == 5 and np.array_equal(moving[-1], still)
    assert moving[0].shape[1] >= 600

    halves = ["inpaint", model, "--n", 2, "--inpainter.rounds", 2]
    still = np.asarray(Image.open(written("b.png", *halves)).convert("L"))
    moving = frames_of(written("b.webp", *halves))
    assert len(moving) == 1 + 2 * 5 and np.array_equal(moving[-1], still)

    arguments = ["chain", model, "--level", 0, "--n", 4, "--steps", 6]
    assert len(frames_of(written("c.gif", *arguments))) == 7
    capsys.readouterr()

    ancestral = ["sample", model, "--sampler", "ancestral", "--out", tmp_path / "d.gif"]
    assert gendae(*ancestral) == 2
    assert "AncestralSampler with 0 rounds makes samples in one step" in one_line(capsys)


def test_without_transitions_the_steps_are_those_of_the_prior():
    learning = AveragedLearning(1)
    prior = DenoisingPrior(LevelMLP(8, 1), learning=learning, descent=HeunDescent(5))
    stack = small_stack()
    stack.prior = prior.fit(torch.randn(60, stack.sizes[-1]))
    sampler = AncestralSampler()

    steps = sampling_steps(stack, 7, sampler, seed=3)
    assert len(steps) == 5
    assert torch.equal(steps[-1], generate(stack, 7, sampler, seed=3))
    assert steps[0].std(0).max() < steps[-1].std(0).max()
