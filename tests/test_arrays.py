"""What comes in from Python: NumPy arrays, other types, batches of one's own loaders."""

import inspect
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gendae
from gendae import checks, plots
from gendae.rules.ledger import TrainingDiverged
from tests import roles
from tests.roles import CLASSES, ROWS, WIDTH, rows
from tests.rules.test_base import trainer

# -- arrays where tensors are -----------------------------------------------------------------

HALF = np.arange(WIDTH) < 4


def stacked():
    return roles.stack()


def labels():
    return np.arange(ROWS) % CLASSES


#: Public functions, given x as an array.
FUNCTIONS = {
    "inpaint": lambda x: gendae.inpaint(stacked(), x, HALF, seed=0),
    "complete": lambda x: gendae.complete(
        roles.joint_stack(), {"image": x[:, :5], "label": labels()}, seed=0
    ).values["image"],
    "parzen": lambda x: gendae.parzen_log_prob(x, x, 0.2),
    "manifold": lambda x: gendae.precision_recall_density_coverage(x, x, 2),
    "copying": lambda x: gendae.data_copying(x, x, x, 1),
    "authenticity": lambda x: gendae.authenticity(x, 1.0 - x),
    "psnr": lambda x: gendae.psnr(x**2, x, HALF),
    "chains": lambda x: gendae.chain_report(x),
    "sigma": lambda x: gendae.nearest_neighbour_sigma(x),
    "bound": lambda x: gendae.importance_weighted_bound(stacked(), x, 2, 0.3, seeded()),
    "annealed": lambda x: (
        gendae.annealed_log_prob(stacked(), x, 2, 2, steps=1, generator=seeded()).values
    ),
    "trace": lambda x: gendae.log_joint_trace(stacked(), x, steps=2),
    "angles": lambda x: gendae.angles(gendae.BackpropRule(roles.classifier()), x, labels()),
    "encode": lambda x: stacked().encode(x),
    "reconstruct": lambda x: stacked().reconstruct(x),
    "decode": lambda x: stacked().decode(x[:, :4]),
    "log_joint": lambda x: stacked().log_joint((x, x[:, :6], x[:, :4])),
    "predict": lambda x: roles.classifier().predict(x),
    "sampler": lambda x: gendae.AncestralSampler().from_codes(stacked(), x[:, :4], seeded()),
    "infer": lambda x: gendae.TargetPropInference(2)(stacked(), x, HALF),
    "completer": lambda x: gendae.Completer.map(2)(stacked(), x, HALF, generator=seeded()).h,
    "noise": lambda x: gendae.GaussianNoise(0.5)(x, generator=seeded()),
    "law": lambda x: gendae.Gaussian(0.5).log_prob(x, x),
    "picture": lambda x: plots.tile(x, (2, 4), 3),
    "losses": lambda x: gendae.VariationalEMRule(stacked()).losses((x,), at_zero()),
    "labelled": lambda x: gendae.BackpropRule(roles.classifier()).losses((x, labels())),
}


def seeded():
    return torch.Generator().manual_seed(0)


def at_zero():
    return gendae.Moment(generator=seeded())


def on(values):
    """Every tensor of a result, in order, as one comparable list."""
    if isinstance(values, torch.Tensor):
        return values.double().flatten().tolist()
    if isinstance(values, dict):
        values = values.values()
    if isinstance(values, list | tuple | type({}.values())):
        return [number for value in values for number in on(value)]

    return [values]


def called(name, x):
    torch.manual_seed(0)
    return on(FUNCTIONS[name](x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_give_what_tensors_give(name):
    x = rows("unit", dtype=torch.float32)
    expected = called(name, x)

    read_only = x.numpy().copy()
    read_only.flags.writeable = False
    swapped = x.numpy().astype(">f4")
    for same in (read_only, swapped, x.numpy()[:, ::-1].copy()[:, ::-1]):
        assert called(name, same) == pytest.approx(expected, rel=1e-5, nan_ok=True)


# -- the door that they come in by ------------------------------------------------------------


def members(name):
    return next(member for member in roles.RULES if member.name == name)


@pytest.mark.parametrize("name", ["VariationalEMRule", "TargetPropRule", "KLRule", "BackpropRule"])
def test_a_step_receives_its_batch_once(name, monkeypatch):
    """What a rule calls in turn holds what came in: receiving costs more than a small product."""
    rule = members(name).built(torch.float32)
    labelled = isinstance(rule.stack, gendae.Classifier)
    batch = (X, Y) if labelled else (X,)
    if rule.generative:
        rule.fit_prior([batch])

    times = []
    like = checks._like
    monkeypatch.setattr(checks, "_like", lambda *values: times.append(1) or like(*values))
    rule.losses(batch, at_zero())
    assert len(times) == 1


def test_arrays_come_in_within_a_call_too():
    class Arrays(gendae.VariationalEMRule):
        def losses(self, batch, moment=gendae.Moment()):
            self.code = self.stack.encode(batch[0].numpy())[-1]
            return super().losses(batch, moment)

    rule = Arrays(stacked())
    rule.losses((X,), at_zero())
    assert torch.equal(rule.code, rule.stack.encode(X)[-1])


def test_a_call_that_fails_leaves_the_door_as_it_was():
    stack = stacked()
    with pytest.raises(ValueError, match="x has shape"):
        stack.encode(X[:, :3])
    assert stack.encode(X.double())[-1].dtype == torch.float32


def test_the_door_of_a_thread_is_its_own():
    stack = stacked()
    with checks._door, ThreadPoolExecutor(1) as pool:
        code = pool.submit(stack.encode, X.double()).result()[-1]
    assert code.dtype == torch.float32


@pytest.mark.parametrize("prior", roles.DENSE, ids=lambda member: member.name)
def test_priors_take_arrays(prior):
    made = prior.built(torch.float32)
    (h,) = prior.batch(dtype=torch.float32)

    assert torch.equal(made.log_prob(h.numpy()), made.log_prob(h))
    assert torch.equal(made.reconstruct(h.numpy()), made.reconstruct(h))
    roles.fit(made, h.repeat(9, 1).numpy())


BAD = {
    "meta": torch.empty(2, WIDTH, device="meta"),
    "complex": torch.zeros(2, WIDTH, dtype=torch.cfloat),
    "complex array": np.zeros((2, WIDTH), dtype=complex),
    "sparse": torch.zeros(2, WIDTH).to_sparse(),
    "quantised": torch.quantize_per_tensor(torch.zeros(2, WIDTH), 0.1, 0, torch.quint8),
    "text": np.full((2, WIDTH), "a"),
    "objects": np.full((2, WIDTH), None),
    "dates": np.zeros((2, WIDTH), dtype="datetime64[s]"),
    "masked": np.ma.masked_array(np.zeros((2, WIDTH)), mask=True),
    "list": [[0.0] * WIDTH],
    "nothing": None,
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("name", ["encode", "inpaint", "parzen", "infer", "noise", "law"])
def test_what_holds_no_real_numbers_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=r"^(x|h) (is|hold)"):
        FUNCTIONS[name](value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_become_the_model_s(dtype):
    stack = stacked()
    x = rows("bits", dtype=torch.float32)
    for same in (x.to(dtype), x.bool(), x.to(torch.uint8), x.long()):
        assert torch.equal(stack.encode(same)[-1], stack.encode(x)[-1])


def test_a_model_without_numbers_is_named():
    with pytest.raises(ValueError, match="the Stack holds .* on the device meta"):
        stacked().to("meta").encode(rows("unit"))


def wants_tensors(function):
    """Whether a public function's own arguments are tensors."""
    parameters = inspect.signature(function).parameters.values()
    return any(p.annotation in (torch.Tensor, torch.Tensor | None) for p in parameters)


def test_every_public_function_of_tensors_takes_arrays():
    public = [getattr(gendae, name) for name in gendae.__all__]
    functions = [f for f in public if inspect.isfunction(f) and wants_tensors(f)]

    door = checks.takes_arrays(len).__code__
    assert [f.__name__ for f in functions if f.__code__ is not door] == []


# -- batches of one's own loader --------------------------------------------------------------


class Rows(Dataset):
    """A data set whose examples are anything."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


N = 12
X = torch.rand(N, WIDTH, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % CLASSES


def at_row(index, value):
    x = X.clone()
    x[index, 2] = value

    return x


def dictionary(x, y):
    return [{"image": a, "label": b} for a, b in zip(x, y, strict=True)]


BATCHES = {
    "dictionary": (lambda y: Rows(dictionary(X, Y)), "batch is a dict of image, label; .*tuple"),
    "bare tensor": (lambda y: Rows(X), "batch is a Tensor; a tuple .* is needed"),
    "channels": (lambda y: pairs(X.view(N, 2, 2, 2)[:, :1], y), "x has shape .*; the model takes"),
    "no channels": (lambda y: pairs(X.view(N, 2, 4), y), r"x has shape .*: flatten it, x.flatten"),
    "bytes": (lambda y: pairs((255 * X).byte(), y), "x holds values from .*: divide by 255"),
    "grey": (lambda y: pairs(255 * X, y), "x holds values from .*: divide by 255"),
    "NaN": (lambda y: pairs(at_row(1, torch.nan), y), "x holds 1 NaN or infinite values; replace"),
    "infinity": (lambda y: pairs(at_row(1, -torch.inf), y), "x holds 1 NaN or infinite values"),
    "complex": (lambda y: pairs(X.cfloat(), y), "x of the batch is a torch.complex64 tensor"),
    "more parts": (lambda y: TensorDataset(X, Y, Y), "batch has 3 parts; x, labels y and"),
    "two masks": (lambda y: TensorDataset(X, Y > 0, Y > 0), "batch has 3 parts"),
}
RULES = [member for member in roles.RULES if "joint" not in member.takes]


def pairs(x, labelled):
    return TensorDataset(x, Y) if labelled else TensorDataset(x)


def fitted(rule, data, **options):
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    ran = trainer(num_sanity_val_steps=2, **options)
    ran.fit(rule, data)

    return ran


def refused(member, kind):
    data, words = BATCHES[kind]
    rule = member.built(torch.float32)
    labelled = isinstance(rule.stack, gendae.Classifier)

    with pytest.raises(ValueError, match=words) as error:
        fitted(rule, DataLoader(data(labelled), 4))
    assert "batch" in str(error.value)


ONE_OF_EACH = [RULES[0], next(m for m in RULES if m.name == "KLRule"), RULES[-1]]


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("member", ONE_OF_EACH, ids=lambda m: m.name)
def test_a_batch_that_cannot_be_learned_from(member, kind):
    refused(member, kind)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("member", RULES, ids=lambda m: m.name)
def test_a_batch_that_no_rule_can_learn_from(member, kind):
    refused(member, kind)


@pytest.mark.parametrize("name", ["training", "validation"])
def test_the_batch_is_named(name):
    good, bad = (DataLoader(TensorDataset(x), 4) for x in (X, at_row(1, torch.nan)))
    loaders = [bad, good] if name == "training" else [good, bad]
    rule = gendae.VariationalEMRule(stacked())

    with pytest.raises(ValueError, match=f"^batch 0 of the {name} data: x holds 1 NaN"):
        trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
        trainer.fit(rule, *loaders)


def test_a_later_batch_of_the_validation_data_is_named():
    rule = gendae.VariationalEMRule(stacked())
    loaders = [DataLoader(TensorDataset(x), 4) for x in (X, at_row(-1, torch.nan))]
    with pytest.raises(ValueError, match="^batch 2 of the validation data: x holds 1 NaN"):
        trainer(max_epochs=1, num_sanity_val_steps=1).fit(rule, *loaders)


def test_examples_without_a_loader_are_refused():
    rule = gendae.VariationalEMRule(stacked())
    with pytest.raises(ValueError, match=r"shape \(8,\), which is one example.*DataLoader"):
        fitted(rule, TensorDataset(X))


class Transferring(LightningDataModule):
    """Data whose own hook stands in the place of the rule's."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def train_dataloader(self):
        return DataLoader(TensorDataset(X), 4)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.change(batch[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (x.double(),), "batch 0 .*: x is torch.float64.*on_after_batch_transfer"),
        (lambda x: (x[:, None, None],), "batch 0 .*: x has shape .*: flatten it"),
        (lambda x: {"image": x}, "batch is a dict of image"),
        (lambda x: (0.5 * x,), None),
    ],
    ids=["type", "shape", "dictionary", "as needed"],
)
def test_a_hook_of_the_data_has_to_give_what_the_model_takes(change, words):
    rule = gendae.VariationalEMRule(stacked())
    if words is None:
        assert fitted(rule, Transferring(change)).global_step == 3
        return

    with pytest.raises(ValueError, match=words):
        fitted(rule, Transferring(change))


def test_parts_of_a_batch_that_are_none_are_left_out():
    def collate(examples):
        return torch.stack([x for (x,) in examples]), None

    loader = DataLoader(TensorDataset(X), 4, collate_fn=collate)
    assert fitted(gendae.VariationalEMRule(stacked()), loader).global_step == 3


@pytest.mark.parametrize("change", [torch.Tensor.double, torch.Tensor.half, torch.Tensor.numpy])
def test_other_batches_are_converted(change):
    def collate(examples):
        return (change(torch.cat([x[None] for (x,) in examples])),)

    rule = gendae.VariationalEMRule(stacked())
    fitted(rule, DataLoader(TensorDataset(X), 4, collate_fn=collate))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (at_row(-1, torch.nan), "batch 2 of the training data, in order: x holds 1 NaN"),
        (X[:1].repeat(N, 1), f"all {N} training examples are equal, .*: use data that vary"),
        (X, "lower the learning rates or raise the corruption"),
    ],
    ids=["NaN", "constant", "neither"],
)
def test_the_advice_after_a_divergence_fits(x, words):
    class Diverging(gendae.VariationalEMRule):
        def losses(self, batch, moment):
            losses = super().losses(batch, moment)
            last = moment.update == 2
            return {name: loss + (torch.nan if last else 0.0) for name, loss in losses.items()}

    with pytest.raises(TrainingDiverged, match=words):
        fitted(Diverging(stacked()), DataLoader(TensorDataset(x), 4))


def test_constant_data_under_the_kl_rule():
    rule = gendae.KLRule(
        gendae.deep_autoencoder([WIDTH, 4], noise=9.0, prior=gendae.GaussianPrior("full"))
    )
    with pytest.raises(TrainingDiverged, match="all 12 training examples are equal"):
        fitted(rule, DataLoader(TensorDataset(torch.full((N, WIDTH), 0.5)), 4))


def test_a_prior_that_cannot_be_fitted_names_the_data():
    rule = gendae.KLRule(gendae.deep_autoencoder([WIDTH, 4]), prior_every=1)
    with pytest.raises(ValueError, match="codes holds .*; batch 2 of the training data"):
        fitted(rule, DataLoader(TensorDataset(at_row(-1, torch.nan)), 4))

    rule = gendae.TargetPropRule(gendae.deep_autoencoder([WIDTH, 4], prior=gendae.ParzenPrior()))
    with pytest.raises(ValueError, match="codes are all equal.*; all 12 training examples"):
        fitted(rule, DataLoader(TensorDataset(X[:1].repeat(N, 1)), N))


# -- weights and types ------------------------------------------------------------------------


@pytest.mark.parametrize("member", ONE_OF_EACH, ids=lambda m: m.name)
def test_another_default_type_trains(member):
    torch.set_default_dtype(torch.float64)
    try:
        rule = member.built()
        labelled = isinstance(rule.stack, gendae.Classifier)
        fitted(rule, DataLoader(pairs(X.float(), labelled), 4))
    finally:
        torch.set_default_dtype(torch.float32)

    assert rule.stack.dtype == torch.float64


def tied_stack(share):
    stack = gendae.stack_of([gendae.Pair(gendae.Affine(4, 4), gendae.Affine(4, 4))])
    pair = stack.pairs[0]
    pair.g.weight = share(pair.f.weight)

    return stack


@pytest.mark.parametrize(
    "share", [lambda w: w, lambda w: torch.nn.Parameter(w.T)], ids=["one tensor", "a view"]
)
@pytest.mark.parametrize(
    "use", [gendae.VariationalEMRule, lambda s: gendae.save(s, "a.safetensors")]
)
def test_tied_weights_are_refused_by_name(use, share, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="pairs.0.f.weight and pairs.0.g.weight share"):
        use(tied_stack(share))

    assert list(tmp_path.iterdir()) == []


def test_a_compiled_stack_is_the_stack(tmp_path):
    stack = stacked()
    compiled = torch.compile(stack, backend="eager")
    x = rows("unit", dtype=torch.float32)

    path = gendae.save(compiled, tmp_path / "a.safetensors")
    assert torch.equal(gendae.load(path).encode(x)[-1], stack.encode(x)[-1])
    assert gendae.inpaint(compiled, x, HALF).shape == x.shape
    assert gendae.VariationalEMRule(compiled).stack is stack

    rule = gendae.VariationalEMRule(stack)
    rule.stack = compiled
    trainer = fitted(rule, DataLoader(TensorDataset(X), 4))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert rule.stack is stack
    assert torch.equal(gendae.load(tmp_path / "a.ckpt").encode(x)[-1], stack.encode(x)[-1])
