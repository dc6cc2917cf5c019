"""What moves and what does not: `wanted` parameters move with the bits of a full backward pass; pulls draw them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Streams, ops
from halrp_np.errors import ConfigError, ShapeError
from halrp_np.layers import Mode, Sequential, fuse, inference, merged_params, perturb
from halrp_np.losses import CrossEntropy
from halrp_np.lowrank import pack_sparse, unpack_sparse
from halrp_np.models import lenet, mlp
from halrp_np.training import SGD, Adam, Hooks, Optimizer, Penalty, PhasePlan, Pull, train_phase
from halrp_np.training.flat import Flat
from halrp_np.training.loop import Step, fresh_state
from models.narrow import BUILDERS, SHAPES
from training.blobs import Blobs

Params = dict[str, np.ndarray]
PLAN = PhasePlan(task=1, name="base", epochs=2, batch=8, lr=0.05, gamma=0.97)
IMAGES = (2, 8, 8)


def small_lenet() -> Sequential:
    return lenet(IMAGES, 3, widths=(3, 4, 9, 7))


NETWORKS: dict[str, tuple[Callable[[], Sequential], tuple[int, ...]]] = {
    "lenet": (small_lenet, IMAGES),
    "perturbed": (lambda: perturb(small_lenet()), IMAGES),
    "mlp": (lambda: mlp(IMAGES, 3, widths=(9, 7)), IMAGES),
    **{name: ((lambda make=make: make("running")), SHAPES[name]) for name, make in BUILDERS.items()},
}


def frozen_weights(model: Sequential) -> list[str]:
    """All but the weights of what lies below the head: what a method with a shared trunk trains."""
    return [name for name in model.trainable if not name.endswith("weight") or name.startswith("head")]


CHOICES: dict[str, Callable[[Sequential], list[str]]] = {
    "no weights": frozen_weights,
    "head": lambda model: [name for name in model.trainable if name.startswith("head")],
    "weights": lambda model: [name for name in model.trainable if name.endswith("weight")],
    "every third": lambda model: list(model.trainable[::3]),
    "biases": lambda model: [name for name in model.trainable if name.endswith("bias")],
}


def perturbed_params(model: Sequential, dtype: Any, rank: int = 2) -> Params:
    """The plain network's parameters with factors of this rank beside every decomposed weight."""
    draw, plain = np.random.default_rng(3), small_lenet()
    params = plain.init(draw, dtype)
    for name, layer in model.walk():
        if hasattr(layer, "base"):
            J, I = params[f"{name}.weight"].shape[:2]
            shapes = {"R": (J,), "S": (I,), "A": (rank, I), "B": (J, rank)}
            params |= {f"{name}.{entry}": 1 + draw.normal(size=shape).astype(dtype) for entry, shape in shapes.items()}
    return params


def initial(name: str, model: Sequential, dtype: Any) -> Params:
    return perturbed_params(model, dtype) if name == "perturbed" else model.init(np.random.default_rng(3), dtype)


def gradients(name: str, dtype: Any, wanted: Any) -> Params:
    """The gradients of one step, by name."""
    model, shape = NETWORKS[name][0](), NETWORKS[name][1]
    state = fresh_state(PLAN, model, initial(name, model, dtype), Streams(0))
    step = Step(
        PLAN, fuse(model), state, loss=CrossEntropy(), optimizer=SGD(), penalties={}, hooks=Hooks(), wanted=wanted
    )
    step.gradients(*Blobs(7, 19, shape, dtype=dtype).batch(np.arange(19)))
    return step.flat.grads


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_wanted_gradients_have_the_bits_of_a_full_pass(name: str, choice: str, dtype: Any) -> None:
    model = NETWORKS[name][0]()
    wanted = CHOICES[choice](model)
    whole, part = gradients(name, dtype, None), gradients(name, dtype, wanted)
    assert list(part) == [entry for entry in model.trainable if entry in wanted]
    for entry, value in part.items():
        assert value.tobytes() == whole[entry].tobytes(), entry


def test_no_gradient_is_formed_for_a_weight_that_stays() -> None:
    """Of 2 convolutions and 3 linear layers only the head's weight gets one; and none below the lowest that moves."""
    counts: dict[str, list[Any]] = {}

    def watch(name: str, function: Callable[..., Any], arrays: Any, options: Any) -> Any:
        counts.setdefault(name, []).append(options)
        return function(*arrays, **options)

    with ops.observed(watch):
        gradients("lenet", np.float32, frozen_weights(small_lenet()))
    assert [options["weight_gradient"] for options in counts["conv_block_backward"]] == [False, False]
    assert len(counts["matmul"]) == 1 + 3  # the head's weight; gx of three layers
    counts.clear()
    with ops.observed(watch):
        gradients("lenet", np.float32, ["head.weight", "head.bias"])
    assert len(counts["matmul"]) == 1
    assert "conv_block_backward" not in counts


def train(
    optimizer: Optimizer | None = None,
    hooks: Hooks | None = None,
    params: Params | None = None,
    penalties: dict[str, Penalty] | None = None,
    **options: Any,
) -> Params:
    model = mlp((1, 2, 3), 3, widths=(5,))
    return train_phase(
        PLAN, model, params or model.init(np.random.default_rng(1), np.float64), Blobs(7, 27, (1, 2, 3)),
        loss=CrossEntropy(), optimizer=optimizer or Adam(), penalties=penalties or {}, streams=Streams(4),
        hooks=hooks or Hooks(), **options,
    )  # fmt: skip


START = mlp((1, 2, 3), 3, widths=(5,)).init(np.random.default_rng(1), np.float64)


@pytest.mark.parametrize("optimizer", [Adam(10.0), SGD(momentum=0.9), SGD()], ids=["adam", "momentum", "sgd"])
def test_only_what_is_wanted_moves(optimizer: Optimizer) -> None:
    wanted = [name for name in START if name.startswith("head")]
    trained = train(optimizer, params=START, wanted=wanted)
    for name, value in START.items():
        moves = name in wanted or "running" in name
        assert (trained[name] is value) is not moves, name
        assert (trained[name] != value).any() == moves, name
    names = tuple(mlp((1, 2, 3), 3, widths=(5,)).trainable)
    every = train(optimizer, params=START, wanted=names)
    for name, value in train(optimizer, params=START).items():
        assert every[name].tobytes() == value.tobytes()


class Kept(Hooks):
    """The states after every step, copied; starts from one of them."""

    def __init__(self, start: Any = None) -> None:
        self.start, self.states = start, []

    def restore(self, plan: PhasePlan) -> Any:
        return self.start

    def after_step(self, plan: PhasePlan, state: Any, steps: int) -> None:
        from training.test_loop import snapshot

        self.states.append(snapshot(state))


def test_restored_it_ends_with_the_same_bits_and_the_very_arrays_that_stay() -> None:
    draw = np.random.default_rng(2)
    pulls = {"head.bias": Pull(draw.random(3), draw.normal(size=3))}
    options: dict[str, Any] = {"params": START, "wanted": ["head.weight", "head.bias"], "pulls": pulls}
    hooks = Kept()
    whole = train(hooks=hooks, **options)
    for state in hooks.states:
        again = train(hooks=Kept(state), **options)
        for name, value in whole.items():
            assert again[name].tobytes() == value.tobytes(), name
        assert all(again[name] is START[name] for name in START if "head" not in name and "running" not in name)


@pytest.mark.parametrize("wanted", [["head.wieght"], ["head"], ["norm1.running_mean"]])
def test_a_name_that_cannot_move_is_refused(wanted: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"wanted: expected trainable parameters of the network, received '"):
        train(wanted=wanted)


def test_nothing_wanted_is_refused() -> None:
    with pytest.raises(ConfigError, match="a network with trainable parameters"):
        train(wanted=[])


# ---- pulls ----------------------------------------------------------------------------------------------------------


def test_pulls_join_the_gradient_before_it_is_scaled() -> None:
    """Step by step the formula: v ← μ v + s (∂L + l2 θ + F ⊙ (θ - θ*))."""
    draw, name = np.random.default_rng(2), "head.weight"
    pull = Pull(draw.random((3, 5)), draw.normal(size=(3, 5)))
    model, examples = mlp((1, 2, 3), 3, widths=(5,)), Blobs(7, 27, (1, 2, 3))
    params = {key: value.copy() for key, value in START.items()}
    state = fresh_state(PLAN, model, params, Streams(0))
    optimizer = SGD(scale=10.0, momentum=0.9)
    step = Step(
        PLAN, fuse(model), state, loss=CrossEntropy(), optimizer=optimizer, penalties={name: Penalty(l2=0.1)},
        hooks=Hooks(), pulls={name: pull},
    )  # fmt: skip
    theta, velocity = START[name], 0.0
    for n in range(3):
        batch = examples.batch(np.arange(8 * n, 8 * n + 8))
        step.gradients(*batch)
        g = step.flat.grads[name] + 0.1 * theta + pull.strength * (theta - pull.centre)
        step(*batch)
        velocity = 0.9 * velocity + 10.0 * g
        theta = theta - 0.05 * 0.97**n * velocity
        np.testing.assert_allclose(step.flat.params[name], theta, rtol=1e-12)


def test_without_strength_a_pull_changes_nothing_and_with_much_it_holds() -> None:
    free = train(SGD(), params=START)
    name = "head.weight"
    idle = train(SGD(), params=START, pulls={name: Pull(np.zeros((3, 5)), np.ones((3, 5)))})
    for entry, value in free.items():
        np.testing.assert_array_equal(idle[entry], value)
    held = train(SGD(), params=START, pulls={name: Pull(np.full((3, 5), 10.0), START[name])})
    assert np.linalg.norm(held[name] - START[name]) < 0.5 * np.linalg.norm(free[name] - START[name])


@pytest.mark.parametrize(
    ("pulls", "error", "message"),
    [
        ({"head.wieght": Pull(np.ones(3), np.ones(3))}, ConfigError, "pull on head.wieght: expected a parameter that"),
        ({"fc1.bias": Pull(np.ones(5), np.ones(5))}, ConfigError, "pull on fc1.bias: expected a parameter that"),
        ({"head.bias": Pull(np.ones(3), np.ones(4))}, ShapeError, r"shape \(3,\), received shape \(4,\)"),
        ({"head.bias": Pull(np.ones(()), np.ones(3))}, ShapeError, r"shape \(3,\), received shape \(\)"),
    ],
)
def test_pulls_that_do_not_fit(pulls: dict[str, Pull], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(wanted=["head.weight", "head.bias"], pulls=pulls)


# ---- parameters without entries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [Adam(2.0), SGD(momentum=0.9), SGD()], ids=["adam", "momentum", "sgd"])
@pytest.mark.parametrize("order", [("a", "b", "empty", "none"), ("none", "a", "empty", "b"), ("empty", "none")])
def test_parameters_without_entries_are_no_trouble(optimizer: Optimizer, order: tuple[str, ...], dtype: Any) -> None:
    draw = np.random.default_rng(0)
    shapes = {"a": (3, 4), "b": (17,), "empty": (0, 5), "none": (6, 0)}
    params, grads = ({name: draw.normal(size=shapes[name]).astype(dtype) for name in order} for _ in range(2))
    pulls = {name: Pull(abs(grads[name]), grads[name]) for name in order}
    flat = Flat(params, order, optimizer.moments, {}, {name: Penalty(0.1, 0.2) for name in order}, pulls)
    flat.set_gradients(grads)
    flat.pull()
    optimizer.update(flat, flat.on_device(optimizer.factors(0.1, 1)))
    for name in order:
        assert flat.params[name].shape == shapes[name]
        penalty, pull = {name: Penalty(0.1, 0.2)}, {name: pulls[name]}
        alone = Flat({name: params[name]}, (name,), optimizer.moments, {}, penalty, pull)
        alone.set_gradients({name: grads[name]})
        alone.pull()
        optimizer.update(alone, alone.on_device(optimizer.factors(0.1, 1)))
        assert alone.params[name].tobytes() == flat.params[name].tobytes()


def of_rank(rank: int, dtype: Any) -> tuple[Sequential, Params]:
    """A perturbed network at some scalings, with factors of this rank that are 0."""
    model, draw = perturb(small_lenet()), np.random.default_rng(5)
    params = {**perturbed_params(model, dtype, rank), **small_lenet().init(draw, dtype)}
    for name, value in params.items():
        if name.endswith((".R", ".S")):
            params[name] = 1 + 0.1 * draw.normal(size=value.shape).astype(dtype)
        elif name.endswith((".A", ".B")):
            params[name] = np.zeros_like(value)
    return model, params


def test_a_perturbed_network_of_rank_0_is_one_whose_factors_are_0(dtype: Any) -> None:
    """Its factors are (0, I) and (J, 0): outputs, gradients and tangents in every mode, merged and for inference."""
    ways: list[dict[str, Any]] = []
    draw = np.random.default_rng(6)
    x, gy = draw.normal(size=(*IMAGES, 19)).astype(dtype), draw.normal(size=(3, 19)).astype(dtype)
    moved = {name: draw.normal(size=(2, *v.shape)).astype(dtype) for name, v in of_rank(0, dtype)[1].items()}
    for rank in (0, 1):
        model, params = of_rank(rank, dtype)
        found: dict[str, Any] = {}
        tangents = {name: moved[name] for name in model.trainable if moved[name].size}
        for mode in (Mode(), Mode(train=True)):
            y, cache = model.forward(params, x, mode)
            gx, grads = model.backward(params, cache, gy)
            _, gys = model.cotangents(params, cache, gy)
            ry, rcache = model.r_forward(params, cache, tangents, None)
            rgx, rgrads = model.r_backward(params, cache, rcache, gys, ry)
            found |= {f"y {mode}": y, f"gx {mode}": gx, f"ry {mode}": ry, f"rgx {mode}": rgx}
            found |= {f"g {name} {mode}": value for name, value in grads.items()}
            found |= {f"rg {name} {mode}": value for name, value in rgrads.items()}
        fused = fuse(model)
        y, cache = fused.forward(params, x, Mode(train=True))
        found["fused"] = y
        found |= {f"fused {name}": value for name, value in fused.backward(params, cache, gy)[1].items()}
        fast, dense = inference(model, params)
        found["inference"] = fast.forward(dense, x)[0]
        found["merged"] = small_lenet().forward(merged_params(model, params), x)[0]
        ways.append(found)
    for name, value in ways[0].items():
        if value.size:
            atol = (1e-4 if dtype == np.float32 else 1e-11) * np.abs(ways[1][name]).max(initial=1.0)
            np.testing.assert_allclose(value, ways[1][name], rtol=0, atol=atol, err_msg=name)
        else:
            assert ".A" in name or ".B" in name


def test_a_network_of_rank_0_trains() -> None:
    """As one of rank 1 whose factors are 0 and stay."""
    ends = []
    for rank in (0, 1):
        model, params = of_rank(rank, np.float64)
        wanted = [name for name in model.trainable if not name.endswith((".A", ".B"))] if rank else None
        ends.append(
            train_phase(
                PLAN, model, params, Blobs(7, 27, IMAGES), loss=CrossEntropy(), optimizer=Adam(),
                penalties={"conv1.A": Penalty(l1=0.1)}, streams=Streams(0), hooks=Hooks(), wanted=wanted,
            )
        )  # fmt: skip
    for name, value in ends[0].items():
        if value.size:
            np.testing.assert_allclose(value, ends[1][name], rtol=0, atol=1e-9, err_msg=name)
        else:
            assert name.endswith((".A", ".B"))


def test_nothing_is_packed_and_unpacked() -> None:
    for shape in ((0, 5), (6, 0)):
        empty = np.zeros(shape, np.float32)
        again = unpack_sparse(pack_sparse(empty))
        assert (again.shape, again.dtype) == (shape, empty.dtype)
