"""What `gendae evaluate` scores and writes, on a small digits model."""

import io
import json
import math
import statistics
import sys

import numpy as np
import pytest
import torch

from gendae import annealed_log_prob, load
from gendae.commands import evaluate
from gendae.commands.progress import bar_of_steps
from gendae.data.binarised import Binarised
from gendae.data.images import Digits, Images
from gendae.data.toys import Toys2D
from gendae.laws import Discrete
from gendae.metrics import quality, report
from gendae.metrics.codes import codes_of, log_prob_of_codes
from gendae.metrics.fidelity import psnr, ssim
from gendae.priors.autoencoder import AutoencoderPrior
from gendae.priors.parzen import ParzenPrior
from gendae.sampling.samplers import seeded
from gendae.storage import atomic
from tests.commands.test_cli import gendae
from tests.conftest import small_stack


@pytest.fixture
def stack(digits):
    stack = small_stack([64, 20, 8])
    stack.prior.fit(stack.encode(digits.split("train").x)[-1].detach())
    return stack


ROWS = [
    "model",
    "ancestral",
    "decoded held-out codes",
    "training images",
    "held-out images",
    "k-means centroids",
    "mean image",
]
MEASURES = ["fid", "kid", "precision", "recall", "density", "coverage", "copying"]
SCORES = [
    "copying_pixels",
    "copying_codes",
    "authentic",
    "iw_bound",
    "iw_bound_se",
    "parzen_ll",
    "ancestral_ll",
]


def test_model_and_real_rows_with_all_measures(stack, digits, tmp_path):
    state = torch.get_rng_state()
    begun = []
    result = report.evaluation(stack, digits, 60, begin=begun.append)
    assert len(set(begun)) == len(begun) == report.steps(stack)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(result["parzen"]) == ROWS
    assert list(result["quality"]) == ROWS[:-1]
    assert all(isinstance(result[key], float) for key in (*MEASURES, *SCORES))
    assert result["fid"] == result["quality"]["model"]["fid"]
    assert (result["features"], result["classes"], result["confidence"]) == ("pixels", None, None)

    printed = "\n".join(evaluate.evaluation_table(result | {"classes": [0.25, 0.75]}))
    assert "classes 0 .. 1 of the model's samples, %: 25.0 75.0" in printed.splitlines()[-8:]
    assert "PSNR [dB] of these reconstructions: " in printed
    assert "; SSIM: " in printed
    for name in (*ROWS, "FID", "copying", "log p(h)", "log p(x) >=", "features: pixels"):
        assert name in printed
    for words in ("the model / decoded held-out codes: LL", f"FID {result['fid']:.3f} /"):
        assert words in printed

    path = atomic.write_json(tmp_path / "new" / "e.json", result | {"nan": float("nan")})
    stored = json.loads(path.read_text())
    assert stored["nan"] is None
    assert stored["coverage"] == result["coverage"]


def test_held_out_images_do_not_choose_their_own_bandwidth(stack, digits):
    """Validation images as samples would take the narrowest sigma, if chosen on themselves."""
    train, valid, test = (digits.split(n).x for n in ("train", "valid", "test"))
    sets = {"model": train[:299], "held-out images": valid, report.CEILING: valid}
    rows = report.parzen_rows(sets, train, valid, test)
    assert rows["held-out images"]["sigma"] > 0.11
    assert rows["held-out images"]["ll"] == pytest.approx(rows["model"]["ll"], abs=4.0)
    assert rows[report.CEILING] == rows["held-out images"]


def test_a_prior_that_needs_a_chain_has_no_ancestral_row(stack, digits):
    stack.prior.analytic = False
    begun = []
    result = report.evaluation(stack, digits, 30, begin=begun.append)
    assert len(begun) == report.steps(stack)
    assert result["ancestral_ll"] is None
    assert "ancestral" not in result["parzen"]


def test_the_best_that_a_decoder_allows_is_decoded_held_out_codes(stack, digits):
    """A prior that holds the validation codes as they are reaches it, and only that one."""
    train, valid, test = (digits.split(n).x for n in ("train", "valid", "test"))
    codes = stack.encode(valid)[-1].detach()
    stack.prior = ParzenPrior(1e-6, noise_scale=1.0).fit(codes)
    judge = quality.Quality(train, test, quality.PixelFeatures())
    row = report.measures(stack, train, valid, test, n=len(valid), judge=judge)
    best = row["ceiling"]

    names = ("fid", "precision", "recall", "coverage", "copying", "copying_codes", "authentic")
    for name in names:
        assert row[name] == pytest.approx(best[name], abs=0.02)
    assert abs(best["copying_codes"]) < 3.0 < abs(best["copying"])

    assert judge(stack.reconstruct(valid))["fid"] == pytest.approx(best["fid"])

    stack.prior = ParzenPrior(0.2, noise_scale=0.0).fit(stack.encode(train)[-1].detach())
    copies = report.measures(stack, train, valid, test, n=len(valid), judge=judge)
    assert copies["copying_codes"] < -10.0
    assert copies["ceiling"] == best


@pytest.mark.parametrize(
    ("prior", "missing"),
    [
        (AutoencoderPrior([6], 5), "AutoencoderPrior has no density"),
        (ParzenPrior(), "ParzenPrior is not fitted"),
    ],
    ids=["a chain", "nothing fitted"],
)
def test_log_p_of_codes_is_their_mean_or_says_why_there_is_none(stack, digits, prior, missing):
    x = [digits.split(n).x for n in ("train", "valid", "test")]
    codes = codes_of(stack, *x)
    density = log_prob_of_codes(stack.prior, codes)["log_prob"]
    expected = stack.prior.log_prob(codes.test).mean().item()
    assert density["test codes"]["mean"] == pytest.approx(expected, rel=1e-5)
    assert density["training codes"]["n"] == len(codes.train) > density["test codes"]["n"]

    many = codes._replace(test=codes.test.repeat(9, 1))
    assert log_prob_of_codes(stack.prior, many)["log_prob"]["test codes"]["n"] == 2000
    stack.prior.slow_density = True
    assert log_prob_of_codes(stack.prior, many)["log_prob"]["test codes"]["n"] == 250

    none = log_prob_of_codes(prior, codes)
    assert none["log_prob"] is None
    assert missing in none["log_prob_missing"]
    assert "no log p(h): " in evaluate._density_line(none)


def test_a_model_without_a_density_says_why_there_is_no_bound(stack, digits):
    stack.pairs[-1].recognition = Discrete("binary")
    bound = report.bound(stack, digits.split("test").x[:5])
    assert list(bound) == ["iw_bound", "iw_bound_missing"]
    assert "deterministic" in bound["iw_bound_missing"]


def test_sigma_x_is_stated(stack, digits):
    x = digits.split("test").x[:5]
    bound = report.bound(stack, x, sigma_x=0.3)
    assert bound["iw_bound_law"] == "N(x; g_1(h_1), 0.3^2)"
    assert bound["iw_bound"] != report.bound(stack, x)["iw_bound"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_step_and_a_log_nothing(terminal, monkeypatch):
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    with bar_of_steps(2) as begin:
        begin("samples")
        begin("their score")

    shown = stderr.getvalue()
    assert ("1/2" in shown and "samples" in shown and "2/2" in shown) == terminal
    assert terminal or shown == ""


def test_too_few_images_leave_quality_out(stack, digits):
    result = report.evaluation(stack, digits, 3)
    assert result["quality"] == {}
    assert result["fid"] is None is result["copying_codes"]
    assert evaluate.remarks(result) == []
    assert "more than 5" in "\n".join(evaluate.evaluation_table(result))


def test_classifier_features_for_mnist_pixels_for_all_else(tmp_path, mnist):
    network, words = report.feature_network(mnist)
    assert network.classes == 10
    assert "0.77 % test error" in words

    np.save(tmp_path / "x.npy", np.zeros((10, 28, 28), np.uint8))
    network, words = report.feature_network(Images(str(tmp_path / "x.npy")))
    assert isinstance(network, quality.PixelFeatures)
    assert words == "pixels"


@pytest.mark.parametrize(
    ("sigma_x", "code", "words"), [("0", 2, "--sigma-x=0.0"), ("0.2", 0, "N(x; g_1(h_1), 0.2^2)")]
)
def test_sigma_x_on_the_command_line(capsys, sigma_x, code, words):
    arguments = ["digits-variational-em", "--n", 30, "--sigma-x", sigma_x]
    assert gendae("evaluate", *arguments) == code
    printed = capsys.readouterr()
    assert words in {0: printed.out, 2: printed.err}[code]


def test_coloured_images_are_measured_on_pixels_and_their_reconstructions_in_colour():
    x = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 3), np.uint8)
    data = Images(x, color="rgb")
    stack = small_stack([192, 20, 8])
    stack.prior.fit(stack.encode(data.split("train").x)[-1].detach())
    result = report.evaluation(stack, data, 12)

    assert result["features"] == "pixels"
    assert isinstance(result["fid"], float)
    test = data.split("test").x
    decoded = [stack.reconstruct(test, level).detach() for level in (1, 2)]
    measured = result["reconstruction_fidelity"]
    assert measured["psnr"] == pytest.approx([psnr(y, test).mean().item() for y in decoded])
    assert measured["ssim"] == pytest.approx(
        [ssim(y, test, (3, 8, 8)).mean().item() for y in decoded]
    )


def test_points_have_no_psnr():
    points = Toys2D("moons", n=90)
    stack = small_stack([2, 5, 3])
    measured = report.reconstructions(stack, points, points.split("test").x)
    assert measured["reconstruction_fidelity"] is None
    assert len(measured["reconstruction"]) == 2
    assert evaluate._fidelity_line(measured) == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (
            "--sigma-x 0.3 --hidden means --bits 1 --seed 2",
            0,
            "2 test images drawn by seed 2 as bits of seed 1, 3 chains",
        ),
        ("--hidden mean", 2, "--hidden='mean' is unknown"),
        ("--chains 0", 2, "--chains=0"),
        ("--bits -1", 2, "--bits=-1"),
        ("--annealed 0", 2, "--chains is of annealing; --annealed IMAGES is needed too"),
    ],
)
def test_annealing_on_the_command_line(options, code, words, tmp_path, capsys):
    """The JSON holds what `annealed_log_prob` gives, and the progress that is told ends."""
    chosen = options.split()
    counts = ["--annealed", 2, "--chains", 3, "--temperatures", 4]
    arguments = ["digits-variational-em", "--n", 5, "--json", tmp_path / "e.json"]
    assert gendae("evaluate", *arguments, *counts, *chosen) == code
    printed = capsys.readouterr()
    assert words in {0: printed.out, 2: printed.err}[code]

    if code == 0:
        result = json.loads((tmp_path / "e.json").read_text())
        stack = load("digits-variational-em")
        x = Binarised(Digits(), 1).split("test").x
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[:2]]
        measure = {"hidden": "means", "sigma_x": 0.3, "generator": seeded(2)}
        own = annealed_log_prob(stack, x, 3, 4, **measure)
        assert "0.3^2 I), integrated over h_2, h_1 = g_2(h_2)" in printed.out
        assert result["annealed"] == pytest.approx(own.mean)
        deviation = statistics.stdev(own.values.tolist())
        assert result["annealed_se"] == pytest.approx(deviation / 2**0.5)
        one = annealed_log_prob(stack, x[:1], 3, 4, **measure)
        assert math.isnan(one.se)
        assert result["annealed_images"] == 2
        assert result["annealed_gap"] > 0.0

    begun = []
    told = report.in_parts("work", begun.append)
    for share in (0.0, 0.01, 0.04, 0.5, 1.0):
        told(share)
    assert len(begun) == report.TOLD
