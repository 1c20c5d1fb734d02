"""Probes trained together are the probes trained alone; intervals and chance are those of books."""

import pytest
import torch
from torch import nn

from benchmarks.pixel_cnn import PixelProbes
from benchmarks.probe_scores import chance, effective_count, wilson
from benchmarks.probe_table import table
from benchmarks.probes import Examples, MlpProbes, Probe, epoch_order, fit

GPU = pytest.mark.gpu
CPU_AND_CUDA = ["cpu", pytest.param("cuda", marks=GPU)]
ROWS = torch.arange(40)


def examples(labels, classes=None, seeds=(0, 1), train=30):
    labels = {task: torch.as_tensor(values) for task, values in labels.items()}
    return Examples(
        labels,
        classes or {task: int(values.max()) + 1 for task, values in labels.items()},
        train=dict.fromkeys(seeds, ROWS[:train]),
        test=dict.fromkeys(seeds, ROWS[train:]),
    )


@pytest.fixture
def questions():
    """Two sets of features of 40 examples, a question with two answers and one with five."""
    torch.manual_seed(0)
    return torch.randn(2, 40, 6), examples({"two": ROWS % 2, "five": ROWS % 5})


def stack(probes, data, features=6):
    classes = [data.classes[probe.task] for probe in probes]
    return MlpProbes(features, classes, [probe.seed for probe in probes], hidden=16)


def alone(network, probe, p, data, inputs, epochs, batch_size):
    """The same probe by nn.Sequential and a loop, from the stack's initial weights."""
    count = data.classes[probe.task]
    mlp = nn.Sequential(nn.Linear(6, 16), nn.ELU(), nn.Linear(16, count))
    values = network.weight1[p].T, network.bias1[p, 0]
    values += network.weight2[p, :, :count].T, network.bias2[p, 0, :count]
    with torch.no_grad():
        for parameter, value in zip(mlp.parameters(), values, strict=True):
            parameter.copy_(value)
    adam = torch.optim.Adam(mlp.parameters(), lr=1e-2)
    rows = data.train[probe.seed]
    for epoch in range(1, epochs + 1):
        order = rows[epoch_order(len(rows), probe.seed, epoch)]
        for batch in order[: len(rows) // batch_size * batch_size].split(batch_size):
            logits = mlp(inputs[probe.source, batch])
            loss = nn.functional.cross_entropy(logits, data.labels[probe.task][batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
    return mlp


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_a_probe_in_a_stack_learns_what_it_learns_alone(questions, device):
    inputs, data = questions
    probes = [Probe(0, "two", 0), Probe(1, "five", 0), Probe(1, "two", 1), Probe(0, "five", 1)]
    network = stack(probes, data)
    single = [alone(network, p, i, data, inputs, 2, 8) for i, p in enumerate(probes)]
    results = fit(
        network, inputs.to(device), data, probes, epochs=2, batch_size=8, learning_rate=1e-2
    )
    atol = 1e-5 if device == "cpu" else 1e-4
    for p, (probe, mlp) in enumerate(zip(probes, single, strict=True)):
        assert results[p].probe == probe
        torch.testing.assert_close(network.weight1[p].cpu(), mlp[0].weight.T, rtol=0, atol=atol)
        test = data.test[probe.seed]
        logits = mlp(inputs[probe.source, test])
        assert (logits.argmax(1) == data.labels[probe.task][test]).equal(results[p].correct)


def test_a_probes_weights_depend_on_its_own_seed_alone():
    pair, single = MlpProbes(6, [2, 5], [3, 7]), MlpProbes(6, [5], [7])
    assert pair.weight1[1].equal(single.weight1[0])
    assert pair.weight2[1].equal(single.weight2[0])
    assert not pair.weight1[0].equal(pair.weight1[1])
    assert pair.weight1.abs().max() <= 6**-0.5  # as in nn.Linear
    assert pair.weight1.std().item() == pytest.approx((3 * 6) ** -0.5, rel=0.1)


def test_an_answer_that_a_probe_does_not_have_is_never_given():
    logits = MlpProbes(6, [2, 5], [0, 0])(torch.randn(2, 4, 6))
    assert logits[0, :, 2:].eq(-torch.inf).all()
    assert logits[0, :, :2].isfinite().all()
    assert logits[1].isfinite().all()


def test_what_is_in_the_features_is_found_and_what_is_not_is_not():
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (400,))
    inputs = torch.randn(2, 400, 4)
    inputs[0, :, 0] += 6.0 * labels  # the second set of features knows nothing of them
    rows = torch.arange(400)
    data = Examples({"two": labels}, {"two": 2}, {0: rows[:300]}, {0: rows[300:]})
    probes = [Probe(0, "two", 0), Probe(1, "two", 0)]
    knows, guesses = fit(
        MlpProbes(4, [2, 2], [0, 0], hidden=32), inputs, data, probes, epochs=8, learning_rate=1e-2
    )
    assert knows.accuracy > 0.97
    low, high = wilson(guesses.accuracy, 100)
    assert low < 0.5 < high


def test_the_last_epoch_is_the_result_whatever_the_curve_says(questions):
    inputs, data = questions
    done = []
    probes = [Probe(0, "five", 0)]
    result = fit(stack(probes, data), inputs, data, probes, epochs=7, evaluations=3,
                 progress=done.append)[0]  # fmt: skip
    assert sum(done) == 7
    assert result.curve.epochs == [2, 4, 6, 7]
    assert result.curve.test[-1] == pytest.approx(result.accuracy, abs=1e-5)
    assert len(result.curve.loss) == len(result.curve.train) == 4
    assert result.correct.shape == (10,)


def test_fewer_examples_than_a_batch_are_one_batch(questions):
    inputs, data = questions
    probes = [Probe(0, "two", 0)]
    result = fit(stack(probes, data), inputs, data, probes, epochs=60, learning_rate=3e-2)[0]
    assert result.curve.train[-1] == 1.0


def test_an_epochs_order_is_a_permutation_that_seed_and_epoch_decide():
    order = epoch_order(100, seed=1, epoch=1)
    assert sorted(order.tolist()) == list(range(100))
    assert order.equal(epoch_order(100, seed=1, epoch=1))
    assert not order.equal(epoch_order(100, seed=1, epoch=2))
    assert not order.equal(epoch_order(100, seed=2, epoch=1))


@GPU
def test_the_order_is_the_same_on_a_gpu():
    assert epoch_order(5000, 3, 9).equal(epoch_order(5000, 3, 9, "cuda").cpu())


@GPU
def test_a_step_on_a_gpu_is_one_graph(questions):
    from benchmarks.probes import _Training

    inputs, data = questions
    probes = [Probe(0, "two", 0), Probe(1, "five", 1)]
    training = _Training(stack(probes, data), inputs.cuda(), data, probes, 8, 1e-3)
    training.epoch(1)
    training.epoch(2)
    assert training._graph is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 0}, "probes need training images, but there are none"),
        ({"train": 40}, "probes need test images, but there are none"),
        ({"labels": {"two": ROWS * 0}, "classes": {"two": 2}}, "two: all 30 training images are of "
         "class 0, so there is nothing to tell apart"),
        ({"labels": {"two": (ROWS < 20) * 1}}, "two: all 10 test images are of class 0"),
        ({"labels": {"two": ROWS % 3}, "classes": {"two": 2}}, "two has labels 0 to 1, but one of "
         "the training images has 2"),
        ({"labels": {"two": ROWS % 2 - 1}, "classes": {"two": 2}}, "training images has -1"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_probed_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        examples(**({"labels": {"two": ROWS % 2}} | change))


def test_labels_of_other_images_are_refused(questions):
    inputs, data = questions
    with pytest.raises(ValueError, match="39 examples need two labels, got 40"):
        fit(stack([Probe(0, "two", 0)], data), inputs[:, :39], data, [Probe(0, "two", 0)])


def test_networks_on_pixels_share_nothing_and_learn_together_what_they_learn_alone():
    torch.manual_seed(0)
    labels = ROWS % 2
    images = torch.randint(0, 100, (1, 40, 36, 36, 3), dtype=torch.uint8)
    images[0, :, :, :, 0] += (100 * labels[:, None, None]).to(torch.uint8)
    data = examples({"two": labels})
    probes = [Probe(0, "two", 0), Probe(0, "two", 1)]
    options = {"epochs": 6, "learning_rate": 1e-3, "batch_size": 10}
    both = PixelProbes(36, [2, 2], [0, 1])
    results = fit(both, images, data, probes, **options)
    single = PixelProbes(36, [2], [1])
    fit(single, images, data, probes[1:], **options)
    torch.testing.assert_close(both.trunks[1][0].weight, single.trunks[0][0].weight,
                               rtol=0, atol=1e-5)  # fmt: skip
    assert not both.trunks[0][0].weight.equal(both.trunks[1][0].weight)
    assert [result.accuracy for result in results] == [1.0, 1.0]


def test_building_networks_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    PixelProbes(36, [2], [5])
    MlpProbes(6, [2], [5])
    assert torch.rand(3).equal(expected)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (5, 10), (9, 10), (10, 10), (640, 1000)])
def test_the_interval_is_wilsons(right, count):
    from scipy.stats import binomtest

    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_views_that_fall_together_count_as_little_more_than_one():
    towers = torch.arange(10).repeat_interleave(16)
    together = (towers % 2).bool()
    assert effective_count(together, towers) == pytest.approx(9.0)  # ten towers, n - 1 as ever
    assert effective_count(together, torch.arange(160)) == 160
    half = torch.arange(160) % 2 == 0  # of each tower: views say as much as towers, but not more
    assert effective_count(half, towers) == 160
    assert effective_count(torch.ones(160).bool(), towers) == 10  # nothing to estimate it from


def test_chance_on_the_default_test_split_is_the_papers():
    scenarios = torch.tensor([646, 888, 702, 423, 257])
    level = chance(torch.arange(5).repeat_interleave(scenarios))
    assert level.frequency == pytest.approx(0.228, abs=1e-3)  # the paper's "random", 22.8 %
    assert level.majority == pytest.approx(888 / 2916)


def test_the_table_has_the_papers_numbers_where_nothing_was_measured():
    cells = table([], ["stability", "height", "view"])
    assert cells[0] == ["representation", "stability %", "paper", "height %", "paper", "view %",
                        "paper"]  # fmt: skip
    assert cells[1] == ["GENESIS", "", "64.0", "", "80.3", "", "99.3"]
    assert [line[0] for line in cells[1:]] == ["GENESIS", "GENESIS-S", "MONet", "BD-VAE", "DC-VAE",
                                               "chance: class frequencies"]  # fmt: skip
