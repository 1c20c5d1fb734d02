import math

import numpy as np
import pytest
import torch

from benchmarks.frechet import Gaussian, Moments, frechet_distance


def gaussian(seed, size, rank=None, shift=0.0):
    """A Gaussian whose covariance has this rank, exactly up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, rank or 2 * size, generator=generator, dtype=torch.float64)
    mean = torch.randn(size, generator=generator, dtype=torch.float64) + shift
    return Gaussian(mean, root @ root.T / root.shape[1])


def diagonal(mean, variances):
    return Gaussian(torch.tensor(mean).double(), torch.tensor(variances).double().diag())


def test_equal_gaussians_are_no_distance_apart():
    for size in (1, 7, 64):
        assert frechet_distance(gaussian(0, size), gaussian(0, size)) < 1e-12 * size


def test_with_equal_covariances_it_is_the_squared_distance_of_the_means():
    a = gaussian(1, 32)
    step = torch.zeros(32, dtype=torch.float64)
    step[3], step[5] = 3, 4
    assert frechet_distance(a, Gaussian(a.mean + step, a.covariance)) == pytest.approx(25, rel=1e-9)


def test_diagonal_covariances_differ_by_their_standard_deviations():
    a, b = diagonal([0, 0, 1], [1, 4, 9]), diagonal([0, 0, 3], [4, 4, 16])
    assert frechet_distance(a, b) == pytest.approx(1 + 0 + 1 + 4)


def test_covariances_without_a_common_direction_share_nothing():
    assert frechet_distance(diagonal([0, 0], [1, 0]), diagonal([0, 0], [0, 1])) == pytest.approx(2)
    assert frechet_distance(diagonal([0, 0], [0, 0]), diagonal([3, 4], [0, 0])) == pytest.approx(25)


@pytest.mark.parametrize("size", [2, 16, 128])
def test_equals_scipys_matrix_root_to_1e6(size):
    linalg = pytest.importorskip("scipy.linalg")
    for seed in range(3):
        a, b = gaussian(seed, size), gaussian(seed + 10, size, shift=0.1)
        root = linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
        expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
        expected = float(expected) - 2 * root.trace()
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
        assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_fewer_vectors_than_features_are_handled_exactly():
    """The sum of singular values of X Y^T needs no root of a covariance at all."""
    x, y = (torch.randn(20, 100, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    x, y = x.double(), y.double()
    moments = []
    for values in (x, y):
        moments.append(Moments(100))
        moments[-1].update(values)
    x_apart, y_apart = x - x.mean(dim=0), y - y.mean(dim=0)
    shared = torch.linalg.svdvals(x_apart @ y_apart.T).sum() / 19
    spread = (x_apart.square().sum() + y_apart.square().sum()) / 19
    expected = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + spread - 2 * shared
    distance = frechet_distance(moments[0].gaussian(), moments[1].gaussian())
    assert distance == pytest.approx(float(expected), rel=1e-9)


def test_turning_all_features_changes_nothing_and_scaling_them_squares():
    a, b = gaussian(2, 12), gaussian(3, 12)
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q

    def changed(g, matrix):
        return Gaussian(matrix @ g.mean, matrix @ g.covariance @ matrix.T)

    distance = frechet_distance(a, b)
    assert frechet_distance(changed(a, turn), changed(b, turn)) == pytest.approx(distance)
    tripled = 3 * torch.eye(12, dtype=torch.float64)
    assert frechet_distance(changed(a, tripled), changed(b, tripled)) == pytest.approx(9 * distance)


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_moments_in_batches_are_those_of_all_vectors(offset):
    values = torch.randn(103, 5, dtype=torch.float64) + offset
    moments = Moments(5)
    for batch in (values[:1], values[1:1], values[1:64], values[64:]):
        moments.update(batch)
    result = moments.gaussian()
    assert moments.count == 103
    np.testing.assert_allclose(result.mean, values.mean(dim=0), rtol=1e-14)
    np.testing.assert_allclose(result.covariance, np.cov(values.T), rtol=1e-7, atol=1e-9)


def test_moments_of_half_precision_are_summed_in_double():
    moments = Moments(1)
    for _ in range(300):
        moments.update(torch.full((100, 1), 0.1).half())
    assert moments.gaussian().mean.item() == torch.tensor(0.1).half().item()


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_values_that_are_not_finite_have_no_distance(wrong):
    moments = Moments(2)
    moments.update(torch.tensor([[0.0, 1.0], [wrong, 2.0]]))
    with pytest.raises(ValueError, match="features hold NaN or infinite values"):
        moments.gaussian()
    with pytest.raises(ValueError, match="means and covariances must be finite"):
        frechet_distance(diagonal([0, 0], [1, 1]), diagonal([0, wrong], [1, 1]))


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="needs at least 2 vectors, but there were 0"):
        Moments(3).gaussian()
    moments = Moments(3)
    moments.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="there were 1"):
        moments.gaussian()
    with pytest.raises(ValueError, match=r"features must be \[B, 3\], but are \[2, 4\]"):
        moments.update(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="as many features as each other"):
        frechet_distance(gaussian(0, 3), gaussian(0, 4))


@pytest.mark.gpu
def test_devices_agree():
    a, b = gaussian(4, 256), gaussian(5, 256, rank=100)
    on_gpu = [Gaussian(g.mean.cuda(), g.covariance.cuda()) for g in (a, b)]
    assert frechet_distance(*on_gpu) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    features = torch.randn(500, 64) + 10
    moments = {device: Moments(64, device) for device in ("cpu", "cuda")}
    for device, kept in moments.items():
        for batch in features.split(77):
            kept.update(batch.to(device))
    there = moments["cuda"].gaussian()
    there = Gaussian(there.mean.cpu(), there.covariance.cpu())
    assert frechet_distance(there, moments["cpu"].gaussian()) < 1e-9
