"""The benchmarks run, in their smallest form; bounds are loose: machines that test are busy."""

import importlib
import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsRegressor

import gendae
from benchmarks import (
    claims,
    commands,
    depth,
    estimators,
    feedback,
    fills,
    floor,
    gpu,
    memory,
    ngram,
    options,
    overhead,
    plain,
    scaling,
    scores,
    stability,
    steps,
    variance,
)
from gendae.data.images import Digits
from gendae.rules import by_feedback
from tests.rules.test_perturbation import all_draws, chances, drawn_network


@pytest.mark.parametrize("name", ["questions", "inpainting", "patches"])
def test_benchmarks_import_one_another_as_a_package(name):
    assert importlib.import_module(f"benchmarks.{name}").main


def test_a_depth_run_that_crashed_is_begun_again(monkeypatch, tmp_path):
    monkeypatch.setattr(depth, "OUT", tmp_path)
    monkeypatch.setattr(depth, "RECORD", tmp_path / "none")
    begun = []

    def crash(*arguments):
        begun.append([path.suffix for path in tmp_path.iterdir()])
        raise RuntimeError("out of memory")

    monkeypatch.setattr(depth, "trained", crash)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            depth.one("tune", "Algorithm 2", 3, 1e-3, 0.01, 0, 1, None)

    assert begun == [[".begun"], [".begun"]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_an_error_in_training_is_no_refusal(error, monkeypatch):
    def fails(*arguments):
        raise error("while fitting")

    monkeypatch.setattr(stability, "subset", lambda net: (Digits().split("train"),) * 2)
    monkeypatch.setattr(stability, "measures", lambda *arguments: {})
    monkeypatch.setattr(stability, "fitted", fails)
    with pytest.raises(error, match="while fitting"):
        stability.one_run(next(iter(stability.NETS)), 2, next(iter(stability.RULES)), 0)


def test_the_floor_is_made_of_the_recorded_products():
    a = torch.rand(20, 30)
    b = torch.rand(30, 40)
    c = torch.rand(40)

    with floor.MatrixProducts() as products:
        x = torch.addmm(c, a, b)
        (x @ b.T).relu()
        torch.nn.functional.linear(a, b.T)

    assert [func.overloadpacket.__name__ for func, _, _ in products.calls] == ["addmm", "mm", "mm"]
    assert products.flops == 3 * 2 * 20 * 30 * 40
    assert {t.data_ptr() for _, args, _ in products.calls for t in args}.isdisjoint(
        {a.data_ptr(), b.data_ptr()}
    )

    products.replay()


@pytest.mark.parametrize("name", steps.RULES)
def test_a_step_of_each_rule_is_not_far_above_its_products(name):
    row = steps.measured(name, repeats=15, device="cpu", compile=False)
    assert 0.9 < row["ratio"] < 12
    assert row["gflops"] > 1


def test_the_rule_written_out_in_plain_pytorch_is_the_same_and_no_faster(monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["plain", "--repeats", "3", "--json", str(tmp_path / "row.json")]
    )
    plain.main()
    (row,) = json.loads((tmp_path / "row.json").read_text())

    assert row["largest_relative_difference_of_losses"] < 1e-5
    assert row["plain_over_gendae"] > 0.6


def test_parzen_and_generate_are_not_far_above_their_products(mnist, monkeypatch):
    monkeypatch.setenv("GENDAE_PRODUCTS", "plain")  # packed products are not recorded
    row = scores.parzen(mnist, 600, 20)
    assert row["largest_difference"] < 1e-5
    assert row["ratio"] < 12
    assert row["times_faster_than_sklearn"] > 4
    assert scores.generating("mnist-variational-em", 1000)["ratio"] < 6


def test_a_sample_takes_little_more_than_its_imports_and_arithmetic():
    assert commands.sampling(1)["ratio"] < 2


@pytest.mark.parametrize("name", ["VariationalEMRule", "BackpropRule"])
def test_a_step_takes_little_more_memory_than_it_must(name):
    row = memory.measured(name, 100)
    assert 0 < row["activations_mib"] < row["peak_mib"]
    assert row["ratio"] < 1.5


def test_the_trainer_adds_little_to_the_step_of_the_2015_model(mnist):
    trainer = overhead.with_trainer("VariationalEMRule", mnist, 15)
    plain = overhead.plain_loop("VariationalEMRule", mnist, 15)
    assert trainer < 2 * plain
    assert overhead.seconds_of_help(3) < 3


def test_points_and_exponents_of_scaling():
    sizes = [1, 2, 4, 8, 16]
    seconds = [3 * n**1.5 for n in sizes]
    assert scaling.exponent(sizes, seconds) == pytest.approx(1.5)
    assert {"seconds", "mib"} == set(scaling.point("batch", 25))


def test_eq_12_is_measured_against_the_gradients_of_the_joint_density():
    stack = gendae.deep_autoencoder([6, 5, 4]).double()
    (f, g), *_ = ((pair.f, pair.g) for pair in stack.pairs)
    h = [torch.rand(3, width).double() for width in stack.sizes]
    own, joint = claims.own_gradients(stack, h), claims.joint_gradients(stack, h)

    torch.testing.assert_close(own[0] + claims.from_above(stack, h)[0], joint[0])
    torch.testing.assert_close(own[1], joint[1])
    torch.testing.assert_close(claims.differences(stack, h)[0], f(h[0]) - f(g(h[1])))

    # a linear pair with orthonormal g and f = g' / 2, the posterior mean under S = I / 2
    linear = gendae.deep_autoencoder([6, 4], ["linear"], visible="linear").double()
    pair = linear.pairs[0]
    with torch.no_grad():
        pair.g.weight.copy_(torch.linalg.qr(torch.randn(6, 4).double())[0])
        pair.f.weight.copy_(pair.g.weight.T / 2)

    cosine, scale = claims.compared(linear, (h[0], torch.rand(3, 4).double())).values()
    torch.testing.assert_close(cosine, torch.ones(3).double())
    torch.testing.assert_close(scale, torch.full((3,), 0.5).double())


def test_baselines_of_inpainting_see_observed_pixels_only():
    examples = torch.randn(400, 6) @ torch.randn(6, 6)
    x = torch.randn(3, 6)
    mask = claims.random_halves(3, 6, seed=0)
    assert mask.sum(1).tolist() == [3, 3, 3]

    nearest = claims.nearest(x, mask, examples)
    completed = claims.linear(x, mask, examples, noise=0.0)
    for i, seen in enumerate(mask):
        given, wanted = examples[:, seen].numpy(), examples.numpy()
        neighbours = KNeighborsRegressor(5).fit(given, wanted).predict(x[i : i + 1, seen])
        regression = LinearRegression().fit(given, wanted).predict(x[i : i + 1, seen])
        torch.testing.assert_close(nearest[i], torch.from_numpy(neighbours[0]))
        torch.testing.assert_close(completed[i], torch.from_numpy(regression[0]))

    ones = torch.ones(1, 9)
    middle = torch.arange(9) == 4
    around = claims.local_means(ones, middle[None], 0.5 * ones[0], (3, 3))
    assert around.tolist() == [[1.0] * 9]
    nothing = claims.local_means(ones, middle[None] & False, 0.5 * ones[0], (3, 3))
    assert nothing.tolist() == [[0.5] * 9]


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_fillings_of_a_gaussian_are_regressions(covariance):
    draw = np.random.RandomState(0)
    x = 0.1 * draw.normal(size=(500, 3)) @ draw.normal(size=(3, 3)) + 0.5
    gaussian = GaussianMixture(1, covariance_type=covariance, reg_covar=0.0)
    gaps = x[:5].copy()
    gaps[:, 2] = np.nan

    filled = estimators.Mixture(gaussian).fit(x).filled(gaps)
    expected = LinearRegression().fit(x[:, :2], x[:, 2]).predict(x[:5, :2])
    if covariance == "diag":
        expected = np.full(5, x[:, 2].mean())
    np.testing.assert_allclose(filled[:, 2], expected)


def test_options_have_scores_beside_their_controls_and_other_rows_stay(monkeypatch, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"pairs": {}}')
    trainer_of = options.trainer_of
    monkeypatch.setattr(options, "trainer_of", lambda epochs, callbacks: trainer_of(1, callbacks))
    names = ["iterated-targets", "real-outputs"]
    monkeypatch.setattr(sys, "argv", ["options", *names, "--seeds", "0", "--json", str(path)])

    options.main()

    rows = json.loads(path.read_text())
    assert list(rows) == ["pairs", *names]
    assert list(rows["real-outputs"]) == ["ridge regression", "learned", "encoders frozen"]
    assert rows["real-outputs"]["ridge regression"]["unexplained"][0] < 0.1
    assert all(0 < row["label"][0] < 95 for row in rows["iterated-targets"].values())


class NoFiles:
    """Stands for MNIST where it is not on the machine."""

    def __init__(self, download):
        pass

    def files(self):
        return None


def test_the_gpu_benchmark_runs_without_one(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "MNIST", NoFiles)
    monkeypatch.setattr(gpu, "Random", Digits)
    monkeypatch.setattr(gpu, "SIZES", (64, 20, 8))
    options = "--device cpu --epochs 1 --updates 3 --batches 50"
    monkeypatch.setattr(sys, "argv", ["gpu", *options.split()])

    gpu.main()

    printed = capsys.readouterr().out
    assert "static" in printed
    assert "utilisation" in printed


@pytest.mark.parametrize("name", feedback.RULES)
def test_the_table_of_feedback_has_every_rule(name, monkeypatch):
    """Back-propagation alone has cosine 1 with itself, and with the straight-through estimate."""
    small = partial(gendae.lenet, (1, 8, 8), [2], 3, [1], sizes=[6])
    monkeypatch.setitem(feedback.NETWORKS, "small", small)
    monkeypatch.setattr(by_feedback, "ALIGN", 2)
    options = ["--network", "small", "--steps", "3", "--rules", name]
    monkeypatch.setattr(sys, "argv", ["feedback", *options])
    x, y, _ = Digits().split("train")
    data = dict.fromkeys(("train", "valid", "test"), (x[:200], y[:200]))

    row = feedback.row_of(name, 0, data, feedback.arguments())

    cosines = row["cosine"]["first"]
    assert len(cosines) == 2
    assert all(-1.0 <= c <= 1.0 for c in cosines)
    assert (cosines == [1.0, 1.0]) == (name in ("back-propagation", "straight-through"))
    assert "ms" in next(feedback.table([row]))


def test_counts_of_five_characters_are_a_distribution_after_any_context():
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(6, (400,), generator=generator).tolist() + [0, 1, 2, 3] * 50
    model = ngram.KneserNey([text], order=5, symbols=8)  # two of them were never seen

    for context in ([], [0], [7], [1, 2, 3], [0, 1, 2, 3], [6, 7, 0, 1], [5, 5, 4, 0, 1, 2, 3]):
        p = model.distribution(context)
        assert abs(p.sum() - 1.0) < 1e-12
        assert (p > 0).all()
    assert model.distribution([0, 1, 2, 3])[0] > 0.8


def test_two_symbols_are_told_as_the_formula_has_it():
    """Of order 2: discounted counts, and how many symbols each one follows."""
    text = [0, 1, 0, 1, 0, 2, 1, 0, 0, 1]
    model = ngram.KneserNey([text], order=2, symbols=3)
    discounts = [0.0, 0.5, 1.0, 1.5]  # no count is 4, so these

    after_0 = {1: 3, 2: 1, 0: 1}
    follows = {0: 2, 1: 2, 2: 1}  # 10 00, 01 21, 02
    p_1 = {}
    for w, count in follows.items():
        left = sum(discounts[n] for n in follows.values()) / 5
        p_1[w] = (count - discounts[count]) / 5 + left / 3

    left = sum(discounts[n] for n in after_0.values()) / 5
    p = model.distribution([0])
    for w, count in after_0.items():
        assert abs(p[w] - ((count - discounts[count]) / 5 + left * p_1[w])) < 1e-12


def test_what_fills_in_without_a_model():
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand(60, 4, generator=generator).double()
    pixels = factors @ torch.rand(4, 3 * 7 * 8, generator=generator).double() / 4
    train, x = pixels[:50], pixels[50:]
    given = (torch.rand(7 * 8, generator=generator) < 0.5).repeat(3)

    (nearest,) = torch.cdist(x[:1, given], train[:, given]).topk(2, largest=False).indices
    expected = torch.where(given, x[:1], train[nearest].mean(0))
    torch.testing.assert_close(fills.nearest_fill(x[:1], given, train, k=2), expected)
    torch.testing.assert_close(fills.linear_fill(x, given, train, alpha=1e-9), x)
    assert torch.equal(fills.mean_fill(x, given, train)[:, given], x[:, given])


def test_the_biharmonic_surface_of_each_channel_and_the_line_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    given = torch.arange(16) % 3 != 1
    with pytest.raises(ValueError, match="pip install scikit-image"):
        fills.biharmonic_fill(torch.rand(1, 16), given, (4, 4))

    monkeypatch.undo()
    pytest.importorskip("skimage")
    plane = torch.linspace(0, 1, 16)[:, None] / 2 + torch.linspace(0, 1, 16) / 3
    x = torch.stack([plane, 1 - plane, plane / 2]).reshape(1, -1)
    given = (torch.rand(256, generator=torch.Generator().manual_seed(0)) < 0.5).repeat(3)

    filled = fills.biharmonic_fill(x, given, (3, 16, 16))
    assert torch.equal(filled[:, given], x[:, given])
    torch.testing.assert_close(filled, x, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="differs from channel to channel"):
        fills.biharmonic_fill(x, torch.arange(768) % 5 > 0, (3, 16, 16))


def test_turning_units_over_samples_the_gradient_of_drawn_bits():
    """Against all states of a network written out, and the slopes of a power law."""
    kinds = ("binary",) * 3
    stack = drawn_network(kinds, (3, 2, 3))
    x = torch.randn(1, 2, dtype=torch.float64)
    y = torch.tensor([1])

    draws = all_draws(stack, kinds)
    loss = -torch.log_softmax(stack.output(draws[-1]), -1)[:, 1]
    expected = (chances(stack, x, draws) * loss).sum()
    exact = torch.autograd.grad(expected, variance.hidden(stack))
    exact = torch.cat([part.flatten() for part in exact])

    copies = 20_000
    generator = torch.Generator().manual_seed(0)
    sampled = variance.exact_of_bits(stack, x.expand(copies, -1), y.expand(copies), generator)
    assert variance.cosine(sampled, exact) > 0.9999
    assert (sampled - exact).norm() < 0.01 * exact.norm()

    assert variance.slope([(width, 3.0 * width**-0.5) for width in (10, 30, 100)]) == -0.5
