"""Every hyper-parameter and switch of the methods, and the presets that set them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def setting(default: Any, text: str, **limits: float) -> Any:
    """A field with its help text and limits, which the configuration reads."""
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained on one task, whatever the method; the defaults are those of permuted MNIST."""

    epochs: int = setting(12, "epochs of a task, warm-up included", min=1)
    batch_size: int = setting(128, "images a step", min=1)
    shuffle: bool = setting(True, "a new batch order every epoch")
    drop_last: bool = setting(True, "leave out the last partial training batch")
    optimizer: Literal["adam", "sgd"] = setting("adam", "update rule")
    learning_rate: float = setting(1e-3, "learning rate at the start of every phase", above=0.0)
    momentum: float = setting(0.0, "momentum of sgd", min=0.0, max=1.0)
    gamma_rule: Literal["task-size", "released", "fixed"] = setting(
        "task-size", "rate decay: 0.95 an epoch of the task; as released (50000/T images, any benchmark); or `gamma`"
    )
    gamma: float = setting(1.0, "rate factor a step under gamma_rule=fixed", above=0.0)
    gradient_scale: float = setting(1.0, "factor on every gradient (under Adam: divides epsilon)", above=0.0)
    weight_decay: float = setting(1e-3, "λ of the ½‖·‖² penalty on weights; later on R, S, A, B instead", min=0.0)


@dataclass(frozen=True)
class L2Settings(TrainingSettings):
    """What the method `l2` has besides."""

    l2_strength: float = setting(0.1, "λ of ½ λ ‖θ - θ of the task before‖²", min=0.0)


@dataclass(frozen=True)
class EwcSettings(TrainingSettings):
    """What the method `ewc` has besides."""

    ewc_strength: float = setting(300.0, "λ of ½ λ Σ F (θ - θ of an earlier task)²", min=0.0)
    fisher_labels: Literal["true", "predicted", "sampled"] = setting(
        "sampled", "labels of each sample's gradient: the data's, the network's first, or drawn from its softmax"
    )
    fisher_images: int = setting(
        0, "first training images, in the stream's order, for the Fisher information; 0 for all", min=0
    )
    ewc_online: bool = setting(False, "one running Fisher matrix, centred at the newest parameters")
    ewc_decay: float = setting(1.0, "factor on the running Fisher matrix a task, under ewc_online", min=0.0, max=1.0)


@dataclass(frozen=True)
class BeSettings(TrainingSettings):
    """What the method `be` has besides."""

    scaling_centre: float = setting(1.0, "the value that the penalty pulls R and S towards")


@dataclass(frozen=True)
class HalrpSettings(BeSettings):
    """The algorithm's constants; the defaults are the preset `paper` on permuted MNIST."""

    warmup_epochs: int = setting(1, "epochs of unrestricted fine-tuning before the ranks are chosen", min=0)
    scalings: bool = setting(True, "fit and train row and column scalings; else all of them stay 1")
    l1: float = setting(1e-6, "λ of the |·|₁ penalty on A and B", min=0.0)
    importance: Literal[
        "official",
        "batch-gradient",
        "fisher",
        "hessian-frobenius",
        "hessian-trace",
        "hessian-top",
        "directional",
    ] = setting(
        "batch-gradient", "how much the loss minds: squared gradients, curvature, or the cost of each component"
    )
    importance_images: int = setting(64, "first validation images for fisher, hessian-* and directional", min=1)
    importance_products: int = setting(
        24, "Hessian products for each estimate, where batch statistics or memory forbid exact values", min=4
    )
    compare_importances: bool = setting(True, "record in ranks.csv what each importance would have chosen")
    s_fit: Literal["least-squares", "official"] = setting("least-squares", "column scaling given the row scaling")
    rank_rule: Literal["importance", "flat"] = setting("importance", "global allocation, or rank_cap everywhere")
    rank_share: float = setting(0.9, "share α of the scores of all layers' components to keep", min=0.0)
    rank_cap: int = setting(100, "largest rank of a layer; 0 leaves the low-rank part out", min=0)
    full_share: Literal["all", "one"] = setting("all", "meaning of α ≥ 1: keep all, or collapse to rank 1 as released")
    prune_rule: Literal[
        "none",
        "absolute",
        "relative",
        "relativeAllLayer",
        "relativeAllLayerAllTask",
        "mixAR",
        "mixAR_AllLayer",
        "mixAR_AllLayerAllTask",
    ] = setting("mixAR_AllLayer", "what small factor entries are compared with")
    prune_values: tuple[float, ...] = setting((1e-5, 0.4), "absolute floor and/or relative value of the rule")
    prune_bounded: bool = setting(True, "read the relative value as 1 - budget for the model's growth")
    prune_solve: Literal["exact", "released"] = setting("exact", "fraction that meets the budget, or the released one")
    prune_floor_first: bool = setting(True, "apply the absolute floor also while growth is within the budget")
    prune_current_only: bool = setting(False, "prune the newest task only, so that earlier ones never change")


Preset = dict[str, Any]

PRESETS: dict[str, Preset] = {
    "paper": {},
    "official": {
        "gamma_rule": "released",
        "gradient_scale": 10.0,
        "scaling_centre": 0.0,
        "importance": "official",
        "s_fit": "official",
        "prune_solve": "released",
        "prune_floor_first": False,
    },
    "hessian": {"importance": "hessian-frobenius"},
}
"""`paper`: the formulas as intended. `official`: what the released code computes, a switch for each difference.

`hessian`: `paper`, with the norm of each layer's exact Hessian, as the bound has it, in place of squared gradients.
"""

PRESET_NOTES: dict[str, str] = {
    "gamma_rule": "the released schedule divides 50000 images by the number of tasks, whatever the benchmark",
    "gradient_scale": "the released code multiplies every gradient by 10; under Adam this only divides epsilon by 10",
    "scaling_centre": "the released penalty pulls R and S to 0 and shrinks the shared base; as intended they stay by 1",
    "importance": "the released mean over entries divides a layer's importance by its size, favouring small layers",
    "s_fit": "a broadcasting slip makes the released S a rescaled column fit instead of least squares given R",
    "prune_solve": "the released fraction ignores what cannot be pruned, so growth ends above the budget",
    "prune_floor_first": "the released code skips the absolute floor while growth is within the budget",
}
"""For each switch in which `paper` and `official` differ, one line on why."""
