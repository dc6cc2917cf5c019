"""AlexNet and ResNet18 as narrow as derivatives can be checked on, in every mode: whole networks as cases."""

from collections.abc import Callable

from cases import Case
from halrp_np.layers import Sequential, perturb
from halrp_np.models import alexnet, resnet18

SHAPES = {"alexnet": (2, 19, 20), "resnet18": (2, 16, 16)}
"""The smallest images, or nearly."""

CLASSES = 3
BUILDERS: dict[str, Callable[[str], Sequential]] = {
    "alexnet": lambda norm: alexnet(SHAPES["alexnet"], CLASSES, (3, 4, 4, 6, 5), norm),
    "resnet18": lambda norm: resnet18(SHAPES["resnet18"], CLASSES, (2, 3, 3, 4), norm),
}
"""By name, for either kind of normalisation; with projections wherever ResNet18 has them."""

CASES = [
    Case(
        f"nested {name} {norm} {'train' if train else 'eval'} {'perturbed' if later else 'base'}",
        perturb(make(norm)) if later else make(norm),
        (*SHAPES[name], 5),
        train=train,
    )
    for name, make in BUILDERS.items()
    for norm, train in (("running", True), ("running", False), ("batch", False))
    for later in (False, True)
]
