"""`complete`: modalities or elements given others; conditional densities; inpainters."""

import itertools
import math

import pytest
import torch
from torch import distributions as laws

from gendae.completion.annealing import Annealing
from gendae.completion.completer import Completer
from gendae.completion.inpainting import Inpainter, inpaint
from gendae.completion.modalities import complete, log_conditional
from gendae.inference import TargetPropInference
from gendae.models.architectures import joint_autoencoder
from gendae.models.settings import Settings
from gendae.priors import gaussian, linear, parzen
from gendae.registry import build, describe
from gendae.sampling.samplers import seeded
from tests.conftest import small_stack

SEEN = torch.tensor([True, False, True])
HALF = torch.arange(6) < 3
QUIET = TargetPropInference(3, 0.2, 0.3)


def values(n=5, seed=1):
    g = seeded(seed)
    return {
        "image": torch.rand(n, 6, dtype=torch.float64, generator=g),
        "sound": torch.randn(n, 3, dtype=torch.float64, generator=g),
        "label": torch.randint(4, (n,), generator=g),
    }


def three(kind="onehot"):
    """An image and a sound with codes, and a label, under a tanh top; all is fitted."""
    members = {
        "image": {"sizes": [6, 4]},
        "sound": {"sizes": [3, 2], "kind": "real"},
        "label": {"sizes": [4], "kind": kind},
    }
    stack = joint_autoencoder(members, top=[7], activation="tanh").double()
    x = stack.join(values(50))[0]
    stack.prior.fit(stack.encode(x)[-1].detach())
    stack.fit_residuals(x)

    return stack


def fixed(rounds=4, **options):
    return Completer.map(rounds, tolerance=0.0, **options)


def one_hot(y):
    return torch.nn.functional.one_hot(y, 4).double()


SUBSETS = [*itertools.combinations(values(), 1), *itertools.combinations(values(), 2)]


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_any_modalities_complete_the_others_by_algorithm_6(names):
    stack = three()
    everything = values()
    given = {name: everything[name] for name in names}
    completed = complete(stack, given, completer=fixed())

    x, observed = stack.join(given)
    codes = stack.pairs[0].f(x)
    mask = stack.spread(observed, 1)
    # Missingness inputs in the first iteration only.
    h = torch.where(mask, codes, stack.loop(codes, observed))
    for _ in range(4):
        h = torch.where(mask, codes, stack.loop(h))

    expected = stack.separate(stack.pairs[0].g(h).detach())
    for name, value in completed.values.items():
        if name == "label" and name in names:
            assert torch.equal(value, one_hot(given[name]))
        elif name in names:
            assert torch.equal(value, given[name])
        else:
            assert torch.allclose(value, expected[name])
            assert not value.requires_grad

    assert completed.completion.rounds == 4
    assert torch.allclose(completed.completion.h, h)


def test_rows_may_miss_different_modalities():
    stack = three()
    given = values(3)
    given["image"][0] = math.nan
    given["label"][1] = -1
    completed = complete(stack, given, completer=fixed()).values

    alone = []
    for i, missing in enumerate(["image", "label", None]):
        row = {name: value[i : i + 1] for name, value in given.items() if name != missing}
        alone.append(complete(stack, row, completer=fixed()).values)

    for name in completed:
        assert torch.allclose(completed[name], torch.cat([row[name] for row in alone]))
    assert torch.equal(completed["image"][1:], given["image"][1:])


def test_the_completer_is_the_stack_s_own_unless_one_is_given():
    stack = three()
    given = {"image": values()["image"]}

    assert complete(stack, given).completion.rounds <= 50

    stack.settings = Settings(inpainter=Inpainter(2, QUIET, chains=1))
    assert complete(stack, given, seed=0).completion.h.shape == (5, 13)  # x

    stack.settings = Settings(inpainter=Inpainter(2, QUIET, chains=1), completer=fixed(7))
    assert complete(stack, given).completion.rounds == 7
    assert complete(stack, given, completer=fixed(3)).completion.rounds == 3


@pytest.mark.parametrize("names", [("image", "label"), ("image",)])
def test_masked_elements_are_completed_at_level_0_whatever_the_completer_s_level(names):
    stack = three()
    everything = values()
    given = {name: everything[name] for name in names}
    completed = complete(stack, given, {"image": HALF}, completer=fixed()).values

    x, observed = stack.join(given)
    mask = torch.cat([HALF.expand(5, 6), stack.spread(observed)[:, 6:]], 1)
    x = x.masked_fill(~mask, 0.0)
    pair = stack.pairs[0]

    h = torch.where(mask, x, pair.g(stack.loop(pair.f(x), observed)))
    for _ in range(4):
        h = torch.where(mask, x, pair.g(stack.loop(pair.f(h))))

    for name, value in stack.separate(h.detach()).items():
        assert torch.allclose(completed[name], value)
    assert torch.equal(completed["image"][:, :3], given["image"][:, :3])
    assert not torch.equal(completed["image"][:, 3:], given["image"][:, 3:])

    everything = complete(stack, given, {"image": WHOLE}, completer=fixed()).completion
    assert torch.equal(everything.h, complete(stack, given, completer=fixed()).completion.h)


@pytest.mark.parametrize("spoiled", [math.nan, 9.0])
def test_what_stands_in_hidden_elements_is_ignored_and_masks_may_differ_by_row(spoiled):
    stack = three()
    image = values()["image"]
    mask = torch.rand(5, 6) < 0.5
    mask[:, 0] = True
    dirty = image.masked_fill(~mask, spoiled)

    def completed(image, mask):
        return complete(stack, {"image": image}, {"image": mask}, completer=fixed()).values

    a = completed(image, mask)
    b = completed(dirty, mask)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(a["image"][mask], image[mask])

    rows = [completed(image[i : i + 1], mask[i : i + 1])["image"] for i in range(5)]
    assert torch.allclose(a["image"], torch.cat(rows))


def test_n_answers_of_a_chain_follow_each_other_and_differ():
    stack = three()
    given = {"label": values()["label"]}
    completed = complete(stack, given, n=3, completer=Completer.mcmc(3), seed=0).values

    assert torch.equal(completed["label"], one_hot(given["label"]).repeat_interleave(3, 0))

    image = completed["image"].view(5, 3, 6)
    assert ((image[:, 1:] - image[:, :1]).abs().amax(-1) > 1e-3).all()

    same = complete(stack, given, n=3, completer=fixed()).values["image"].view(5, 3, 6)
    assert torch.allclose(same, same[:, :1].expand(5, 3, 6), rtol=0.0, atol=1e-15)

    half = {"image": HALF.expand(5, 6)}
    masked = complete(stack, {"image": image[:, 0]}, half, 2, fixed()).values["image"]
    assert torch.equal(masked[::2, :3], image[:, 0, :3])

    with pytest.raises(ValueError, match="n=0"):
        complete(stack, given, n=0)


@pytest.mark.parametrize("begin", ["auto", "mask", "prior", "noise"])
def test_a_seed_fixes_the_answers_and_leaves_the_global_generator_alone(begin):
    stack = three()
    given = {"image": values()["image"]}
    chain = Completer.mcmc(3, begin=begin)
    before = torch.get_rng_state()
    a, b, c = (complete(stack, given, completer=chain, seed=seed).values for seed in (1, 1, 2))

    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["sound"], c["sound"])

    complete(stack, given, completer=chain)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("masks", [None, {"image": HALF.expand(5, 6)}])
def test_map_does_not_depend_on_the_batch_size(masks):
    stack = three()
    given = {"image": values()["image"]}
    whole, parts = (
        complete(stack, given, masks, completer=fixed(), batch_size=size) for size in (1000, 2)
    )

    assert all(torch.allclose(whole.values[name], parts.values[name]) for name in whole.values)
    assert torch.allclose(whole.completion.residuals, parts.completion.residuals)
    assert torch.allclose(whole.completion.h, parts.completion.h)


def test_batches_that_settle_earlier_keep_their_last_residuals():
    stack = three()
    image = values()["image"]
    completer = Completer.map(100, tolerance=1e-6)

    together = complete(stack, {"image": image}, completer=completer, batch_size=1).completion
    alone = [complete(stack, {"image": row[None]}, completer=completer) for row in image]
    alone = [each.completion for each in alone]
    rounds = [each.rounds for each in alone]

    assert len(set(rounds)) > 1
    assert together.residuals.shape == (max(rounds), 5)
    assert together.converged.tolist() == [True] * 5
    for i, each in enumerate(alone):
        residuals = together.residuals[:, i]
        last = each.rounds - 1
        assert torch.allclose(residuals[: last + 1], each.residuals[:, 0], atol=1e-12)
        assert (residuals[last + 1 :] == residuals[last]).all()


IMAGE = torch.rand(2, 6)
ALL = ["image", "sound", "label"]
WHOLE = torch.ones(6, dtype=torch.bool)


@pytest.mark.parametrize(
    ("given", "masks", "words"),
    [
        ({"face": IMAGE}, None, ["'face'", *ALL]),
        ({}, None, ["all modalities are missing", *ALL]),
        ({"image": IMAGE * math.nan}, None, ["all modalities are missing in 2 rows", *ALL]),
        ({"image": IMAGE}, {"face": WHOLE}, ["'face'", *ALL]),
        ({"image": IMAGE}, {"sound": WHOLE[:3]}, ["'sound'", "no values", "given: image"]),
        (
            {"image": IMAGE},
            {"image": WHOLE[:5]},
            ["'image'", r"\(5,\)", r"\(6,\) or \(2, 6\)", *ALL],
        ),
        ({"image": IMAGE}, {"image": WHOLE.expand(3, 6)}, ["'image'", r"\(3, 6\)", *ALL]),
        ({"image": IMAGE}, {"image": WHOLE.expand(1, 2, 6)}, ["'image'", r"\(1, 2, 6\)", *ALL]),
        ({"image": IMAGE}, {"image": 0.5 * WHOLE}, ["'image'", "0 and 1; True or 1", *ALL]),
        ({"image": IMAGE[:, :5]}, None, ["image", r"\(2, 5\)", *ALL]),
        ({"image": IMAGE[:, :5]}, {"image": WHOLE}, ["image", r"\(2, 5\)", *ALL]),
        ({"image": IMAGE[0]}, {"image": WHOLE}, ["image", r"\(6,\)", *ALL]),
        ({"image": 255 * IMAGE}, None, ["image", r"\[0, 1\]", *ALL]),
        ({"label": torch.tensor([1, 4])}, None, ["label", "0 .. 3", *ALL]),
        (
            {"image": IMAGE, "label": torch.tensor([1])},
            None,
            ["different numbers of rows", "image", "label"],
        ),
        ({"image": IMAGE}, {"image": ~WHOLE}, ["missing", *ALL]),
    ],
)
def test_bad_input_is_refused_by_name(given, masks, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        complete(three(), given, masks)

    for word in words[1:]:
        caught.match(word)


def test_completers_clamp_values_or_codes_and_no_level_between():
    members = {"image": {"sizes": [6, 5, 4]}, "label": {"sizes": [3], "kind": "onehot"}}
    deep = joint_autoencoder(members, top=[4])
    with pytest.raises(ValueError, match=r"level=1.*level 0 .*or 2"):
        complete(deep, {"image": IMAGE}, completer=Completer(level=1))

    for level in (0, 2):
        completer = Completer(3, level=level, tolerance=0.0)
        completed = complete(deep, {"image": IMAGE}, completer=completer)
        assert completed.completion.h.shape == (2, deep.sizes[level])


def prior_of(covariance):
    codes = torch.randn(30, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 1.0
    return gaussian.GaussianPrior(covariance, variance_scale=2.0).fit(codes)


def law_of(prior):
    if prior.covariance == "full":
        cov = prior.factor @ prior.factor.T
    else:
        cov = prior.factor.square().diag()

    return prior.mean, prior.variance_scale * cov


@pytest.mark.parametrize("covariance", ["full", "diagonal", "identity"])
@pytest.mark.parametrize("seen", [SEEN, ~SEEN])
def test_gaussian_marginals_and_conditionals_are_exact(covariance, seen):
    prior = prior_of(covariance)
    mean, cov = law_of(prior)
    h = torch.randn(7, 3, dtype=torch.float64)
    marginal = laws.MultivariateNormal(mean[seen], cov[seen][:, seen])

    assert torch.allclose(prior.marginal(seen).log_prob(h[:, seen]), marginal.log_prob(h[:, seen]))

    gain = cov[~seen][:, seen] @ torch.linalg.inv(cov[seen][:, seen])
    centre = mean[~seen] + (h - mean)[:, seen] @ gain.T
    rest = laws.MultivariateNormal(centre, cov[~seen][:, ~seen] - gain @ cov[seen][:, ~seen])
    assert torch.allclose(log_conditional(prior, h, seen), rest.log_prob(h[:, ~seen]))


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_parzen_marginals_are_explicit_sums(leave_one_out):
    prior = parzen.ParzenPrior(bandwidth=0.4, leave_one_out=leave_one_out)
    prior.fit(torch.randn(20, 3, dtype=torch.float64))
    h = torch.randn(7, 3, dtype=torch.float64)
    windows = laws.Independent(laws.Normal(prior.codes[:, SEEN], 0.4), 1)
    mixture = laws.MixtureSameFamily(laws.Categorical(torch.ones(20).double()), windows)

    assert torch.allclose(prior.marginal(SEEN).log_prob(h[:, SEEN]), mixture.log_prob(h[:, SEEN]))

    weights = windows.log_prob(h[:, None, SEEN]).softmax(1)
    density = laws.Normal(prior.codes[:, 1], 0.4).log_prob(h[:, 1:2]).exp()
    explicit = (weights * density).sum(1).log()
    assert torch.allclose(log_conditional(prior, h, SEEN), explicit)


def line(h, seen=SEEN):
    """Copies of one h with its second element on a grid, and the grid's step."""
    grid = torch.linspace(-40.0, 40.0, 8001, dtype=torch.float64)
    return torch.where(seen, h, grid[:, None]), 0.01


@pytest.mark.parametrize(
    ("prior", "stored", "tolerance"),
    [
        (gaussian.GaussianPrior("full"), False, 1e-6),
        (parzen.ParzenPrior(0.4), False, 1e-6),
        (linear.LinearAutoencoderPrior(0.5), False, 1e-6),
        (parzen.ParzenPrior(0.4), True, 1e-3),
    ],
    ids=["Gaussian", "Parzen", "linear", "Parzen, of a stored code"],
)
def test_conditionals_integrate_to_one(prior, stored, tolerance):
    h = torch.randn(3, dtype=torch.float64)
    prior.fit(torch.randn(50, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64))
    if stored:
        h = prior.codes[4]

    states, step = line(h)
    total = log_conditional(prior, states, SEEN).exp().sum() * step
    assert total.item() == pytest.approx(1.0, abs=tolerance)


def test_the_temperature_falls_geometrically_and_linearly_to_or_from_zero():
    def schedule(start, end, rounds=5):
        return Annealing(start, end).temperatures(rounds)

    assert schedule(1.0, 0.0625) == pytest.approx([1.0, 0.5, 0.25, 0.125, 0.0625])
    assert schedule(1.0, 0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert schedule(0.0, 2.0, 3) == pytest.approx([0.0, 1.0, 2.0])
    assert schedule(0.5, 0.1, 1) == pytest.approx([0.1])

    settled = Annealing(1.0, 0.0, settle=0.5).temperatures(8)
    assert settled == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_completers_by_name_and_the_flat_arguments_of_earlier_files():
    for name, ends in (("map", (0.0, 0.0)), ("mcmc", (1.0, 1.0)), ("annealed", (1.0, 0.0))):
        made = getattr(Completer, name)(7, tolerance=0.5)
        assert (made.rounds, made.tolerance) == (7, 0.5)
        assert (made.annealing.start, made.annealing.end) == ends

        former = {"start": ends[0], "end": ends[1], "settle": made.annealing.settle}
        plain = {**describe(made), **former}
        assert plain.pop("annealing") == {"type": "Annealing", **former}
        assert describe(build(plain)) == describe(made)


def test_use_prior_reconstructs_the_top_under_the_prior():
    stack = three()
    codes = torch.randn(4, 10, dtype=torch.float64)
    top = stack.pairs[1]
    step = Completer.map(use_prior=True).step(stack, codes, None, 0.0, None)
    assert torch.equal(step, top.g(stack.prior.reconstruct(top.f(codes))))


def test_inpaint_is_the_written_out_loop_with_langevin_noise_and_several_chains():
    stack = small_stack([8, 6, 4])
    x = torch.rand(3, 8)
    mask = torch.arange(8) < 5
    inpainter = Inpainter(2, TargetPropInference(3, 0.2, 0.3, temperature=0.1), chains=4, level=2)

    g = seeded(1)
    given = x.masked_fill(~mask, 0.0).repeat(4, 1)
    filled = torch.where(mask, given, torch.rand(12, 8, generator=g))
    for _ in range(2):
        h = inpainter.inference(stack, filled, mask.expand(12, 8), g)
        filled = torch.where(mask, given, stack.decode(h[2], 2).detach())

    assert torch.allclose(inpaint(stack, x, mask, inpainter, seed=1), filled.view(4, 3, 8).mean(0))

    completion = inpainter(stack, x, mask, generator=seeded(1))
    assert torch.allclose(completion.h, filled.view(4, 3, 8).mean(0))
    assert completion.residuals.shape == (2, 3)


def test_encode_decode_inpainting_is_the_deterministic_completer_at_x():
    stack = small_stack([8, 6, 4])
    x = torch.rand(3, 8)
    mask = torch.arange(8) < 5
    completer = Completer.map(6, begin="noise", level=0, tolerance=0.0)

    plain = completer(stack, x, mask, generator=seeded(0))
    completion = Inpainter.encode_decode(6, chains=1)(stack, x, mask, generator=seeded(0))

    assert torch.allclose(completion.h, plain.h)
    assert torch.allclose(completion.residuals, plain.residuals, atol=1e-7)


def test_a_joint_stack_s_inpainter_completes_labels():
    stack = three()
    image = values()["image"]
    inpainter = Inpainter(3, QUIET, chains=2)
    stack.settings = Settings(inpainter=inpainter)
    completed = complete(stack, {"image": image}, seed=5)

    mask = torch.arange(13) < 6
    given = torch.cat([image, torch.zeros(5, 7).double()], 1).repeat(2, 1)
    filled = torch.where(mask, given, torch.rand(10, 13, dtype=torch.float64, generator=seeded(5)))
    for _ in range(3):
        h = QUIET(stack, filled, mask.expand(10, 13))
        filled = torch.where(mask, given, stack.pairs[0].g(h[1]).detach())

    assert torch.allclose(completed.values["label"], filled.view(2, 5, 13).mean(0)[:, 9:])
    assert torch.equal(completed.values["image"], image)
    assert completed.completion.residuals.shape == (3, 5)
    assert inpainter.clamped_level(stack) == 0

    masked = complete(stack, {"image": image}, {"image": HALF}, seed=5).values
    assert torch.equal(masked["image"][:, :3], image[:, :3])
