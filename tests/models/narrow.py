"""AlexNet and ResNet18 as narrow as derivatives can be checked on, in every mode: whole networks as cases."""

from collections.abc import Callable

from cases import Case
from halrp_np.layers import Sequential, perturb
from halrp_np.models import alexnet, resnet18

SHAPES = {"alexnet": (1, 19, 19), "resnet18": (1, 16, 16)}
"""The smallest images."""

CLASSES = 3
BUILDERS: dict[str, Callable[[str], Sequential]] = {
    "alexnet": lambda norm: alexnet(SHAPES["alexnet"], CLASSES, (2, 3, 3, 5, 4), norm),
    "resnet18": lambda norm: resnet18(SHAPES["resnet18"], CLASSES, (2, 3, 3, 4), norm),
}
"""By name, for either kind of normalisation; with projections wherever ResNet18 has them."""

CASES = [
    Case(f"nested {name} {what}", perturb(make(norm)) if later else make(norm), (*SHAPES[name], 4), train=train)
    for name, make in BUILDERS.items()
    for what, norm, train, later in (
        ("train", "running", True, False),
        ("eval", "running", False, False),
        ("perturbed train", "running", True, True),
        ("perturbed eval by the batch", "batch", False, True),
    )
]
