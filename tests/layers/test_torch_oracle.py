"""Every case against PyTorch in float64 at 1e-10: outputs, all gradients, running statistics; and LeNet as a whole."""

import numpy as np
import pytest

from cases import CASES, Case, LossLayer
from halrp_np.layers import BatchNorm2d, Mode, Sequential, perturb
from halrp_np.losses import CrossEntropy
from halrp_np.models import lenet

torch = pytest.importorskip("torch", reason="PyTorch, an oracle of the layers, is not installed")
import torch_twins  # noqa: E402  it imports torch


# torch refuses a low-rank part without rank; formulas.py covers it
@pytest.mark.parametrize("case", [case for case in CASES.values() if case.rank], ids=lambda case: case.name)
def test_value_and_gradients(case: Case) -> None:
    torch_twins.check(case.layer, case)


class WithLoss(Sequential):
    """A network with its loss on top: one scalar."""

    def __init__(self, network: Sequential, labels: np.ndarray) -> None:
        super().__init__({"network": network, "loss": LossLayer(CrossEntropy(), labels)})


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("later", [False, True], ids=["base", "perturbed"])
def test_lenet_with_its_loss(later: bool, train: bool, rng: np.random.Generator) -> None:
    network = lenet((3, 16, 16), 10, widths=(5, 6, 20, 12))
    network = perturb(network) if later else network
    layer = WithLoss(network, rng.integers(0, 10, size=9))
    torch_twins.check(layer, Case(f"lenet {train} {later}", layer, (3, 16, 16, 9), train=train, rank=3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_over_some_steps(dtype: type, rng: np.random.Generator) -> None:
    """Five train-mode batches in a row, then an evaluation: the whole bookkeeping of torch's BatchNorm2d."""
    ours, theirs = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    theirs = theirs.to(torch.float64 if dtype == np.float64 else torch.float32)
    params = ours.init(rng, dtype)
    for _ in range(5):
        x = rng.normal(2.0, 3.0, size=(3, 4, 2, 6)).astype(dtype)
        _, cache = ours.forward(params, x, Mode(train=True))
        params = {**params, **ours.new_buffers(params, cache)}
        theirs(torch.tensor(np.moveaxis(x, -1, 0).copy()))
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(params["running_mean"], theirs.running_mean.numpy(), rtol=tolerance)
    np.testing.assert_allclose(params["running_var"], theirs.running_var.numpy(), rtol=tolerance)
