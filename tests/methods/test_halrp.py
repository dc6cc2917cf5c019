"""HALRP as an algorithm: what stays frozen, how long it trains, which ranks it takes and why, and what it stores."""

import json
from typing import Any

import numpy as np
import pytest

from halrp_np.errors import ConfigError
from halrp_np.layers import EVALUATE, Mode, perturb
from halrp_np.lowrank import PRUNE_RULES, growth_dense, growth_released
from halrp_np.methods import Halrp
from halrp_np.models import lenet
from halrp_np.training import Hooks, PhasePlan, penalty_value
from methods.streams import CLASSES, SHAPE, learned, make, small_lenet, small_mlp, task
from training.blobs import Blobs


class Log(Hooks):
    """The phases with their updates and learning rates."""

    def __init__(self) -> None:
        self.phases: list[tuple[int, str, int]] = []
        self.rates: list[float] = []
        self.step = 0

    def before_update(self, plan: PhasePlan, state: Any, loss: Any) -> None:
        self.rates.append(plan.lr * plan.gamma**state.step)

    def finished(self, plan: PhasePlan, state: Any) -> None:
        self.phases.append((plan.task, plan.name, state.step))


def everything(method: Halrp, task: int) -> dict[str, np.ndarray]:
    """All numbers with which one task is answered."""
    return method.base if task == 0 else {**method.base_weights(), **method.tasks[task - 1]}


def bits(params: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in params.items()}


def logits(method: Halrp, position: int) -> np.ndarray:
    model, params = method.network(position)
    return model.forward(params, task(position).validation.x, EVALUATE)[0]


# ---- zero forgetting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"prune_rule": "none"}, {"prune_current_only": True, "prune_values": (1e-3, 0.3)}],
    ids=["no pruning", "current only"],
)
@pytest.mark.parametrize("build", [small_lenet, small_mlp])
def test_zero_forgetting_bit_for_bit(build: Any, changes: dict[str, Any], dtype: Any) -> None:
    method = make(build, dtype=dtype, **changes)
    kept: list[dict[str, bytes]] = []
    answers: list[bytes] = []
    for position in range(4):
        learned(method, position + 1, dtype=dtype)
        for earlier in range(position):
            assert bits(everything(method, earlier)) == kept[earlier]
            assert logits(method, earlier).tobytes() == answers[earlier]
        kept.append(bits(everything(method, position)))
        answers.append(logits(method, position).tobytes())
    assert {name.rpartition(".")[2] for name in kept[2]} >= {
        "weight",
        "R",
        "S",
        "A",
        "B",
        "bias",
        "gamma",
        "running_var",
    }
    if changes.get("prune_current_only"):  # the budget bites in the middle, with entries left that it could take
        factors = [value for name, value in method.tasks[1].items() if name.endswith((".A", ".B"))]
        assert any((value == 0).any() for value in factors)
        first = [value for name, value in method.tasks[0].items() if name.endswith((".A", ".B"))]
        assert sum((value != 0).sum() for value in first) > 50


def test_pruning_again_is_the_only_source_of_forgetting() -> None:
    method = learned(make(preset="official", prune_values=(1e-5, 0.9)), 2)
    before = {name: value.copy() for name, value in method.tasks[0].items()}
    learned(method, 4)
    changed = {name for name, value in method.tasks[0].items() if value.tobytes() != before[name].tobytes()}
    assert changed
    assert all(name.endswith((".A", ".B")) for name in changed)
    for name in changed:
        kept = method.tasks[0][name] != 0
        np.testing.assert_array_equal(method.tasks[0][name][kept], before[name][kept])


def test_train_mode_on_one_task_moves_no_running_statistics_of_another() -> None:
    method = learned(make(prune_rule="none"))
    before = [bits(everything(method, position)) for position in range(3)]
    for position in range(3):
        model, params = method.network(position)
        _, cache = model.forward(params, task(position).train.x, Mode(train=True))
        assert any(name.endswith("running_mean") for name in model.new_buffers(params, cache))
    assert [bits(everything(method, position)) for position in range(3)] == before


# ---- epochs, updates and learning rates -----------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "warm_up"), [(5, 1), (5, 2), (3, 3)])
def test_warm_up_and_perturbation_share_the_epochs_of_every_later_task(epochs: int, warm_up: int) -> None:
    log = Log()
    learned(make(small_mlp, epochs=epochs, warmup_epochs=warm_up), 3, log)
    steps = 26 // 8
    assert log.phases == [
        (0, "base", epochs * steps),
        *((1, "warm-up", warm_up * steps), (1, "perturbation", (epochs - warm_up) * steps)),
        *((2, "warm-up", warm_up * steps), (2, "perturbation", (epochs - warm_up) * steps)),
    ]


def test_updates_and_rates_of_cifar100_split() -> None:
    """4,000 images, batches of 128 with the partial one, 20 epochs: 640 updates, then 32 + 608, restarting at 1e-3."""

    class Sized(Blobs):
        """4,000 samples of which a batch holds four, as only the count of updates matters."""

        def __len__(self) -> int:
            return 4000

        def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return super().batch(np.arange(4))

    from halrp_np.methods import MethodTask

    log = Log()
    method = make(
        small_mlp, preset="official", epochs=20, batch_size=128, learning_rate=1e-3, drop_last=False, shuffle=False
    )
    for position in range(2):
        images = Sized(10, 4, SHAPE, CLASSES)
        method.learn(MethodTask(position, CLASSES, 10, 0.2, images, task(0).validation), log)
    assert log.phases == [(0, "base", 640), (1, "warm-up", 32), (1, "perturbation", 608)]
    for first in (0, 640, 672):
        assert log.rates[first] == 1e-3
    assert log.rates[1] == pytest.approx(9.983599609e-4, rel=1e-9)
    assert log.rates[32] == pytest.approx(9.488312324e-4, rel=1e-9)
    gamma = log.rates[1] / log.rates[0]
    assert log.rates[639] * gamma == pytest.approx(3.4977e-4, rel=1e-4)
    assert log.rates[-1] * gamma == pytest.approx(3.6863e-4, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "gamma"),
    [
        ({"gamma_rule": "task-size"}, 0.95 ** (8 / 26)),
        ({"gamma_rule": "released"}, 0.95 ** (8 / (50000 / 3 * 0.8))),
        ({"gamma_rule": "fixed", "gamma": 0.9}, 0.9),
    ],
)
def test_the_rate_factor_of_each_rule(changes: dict[str, Any], gamma: float) -> None:
    assert make(**changes).trainer.gamma(task(0)) == pytest.approx(gamma, rel=1e-14)


def test_a_warm_up_longer_than_the_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_epochs: expected at most epochs = 2, received 3"):
        make(warmup_epochs=3)


# ---- the start of a task, and penalties -----------------------------------------------------------------------------


def test_a_new_task_starts_at_task_0_with_a_fresh_head() -> None:
    class Start(Hooks):
        def before_update(self, plan: PhasePlan, state: Any, loss: Any) -> None:
            if plan.name == "warm-up" and state.step == 0:
                starts.append({name: value.copy() for name, value in state.params.items()})

    starts: list[dict[str, np.ndarray]] = []
    method = learned(make(), 1)
    base = {name: value.copy() for name, value in method.base.items()}
    learned(method, 3, Start())
    assert len(starts) == 2
    for start in starts:
        for name, value in base.items():
            same = start[name].tobytes() == value.tobytes()
            assert same != name.startswith("head."), name
    assert (starts[0]["head.weight"] != starts[1]["head.weight"]).all()
    assert bits(method.base) == bits(base)  # W and all else of task 0


def test_the_penalties_fall_on_what_the_objective_names() -> None:
    method = make(preset="official", l1=0.25, weight_decay=0.5)
    learned(method, 2)
    rng = np.random.default_rng(0)
    own = {name: rng.normal(size=value.shape) for name, value in everything(method, 1).items()}
    for kind, l1 in (("R", 0.0), ("S", 0.0), ("A", 0.25), ("B", 0.25)):
        names = [f"{layer}.{kind}" for layer in method.layers()]
        penalties = {name: method.penalties()[name] for name in names}
        expected = sum(l1 * abs(own[n]).sum() + 0.25 * (own[n] ** 2).sum() for n in names)
        assert penalty_value(own, penalties) == pytest.approx(expected, rel=1e-12)
    assert set(method.penalties()) == {f"{layer}.{kind}" for layer in method.layers() for kind in "RSAB"}
    decay = [(name, p.l1, p.l2, p.centre) for name, p in method.trainer.decay(method.layers()).items()]
    assert decay == [(f"{layer}.weight", 0.0, 0.5, 0.0) for layer in ("conv1", "conv2", "fc1", "fc2")]
    assert {p.centre for name, p in learned(make(), 1).penalties().items() if name[-1] in "RS"} == {1.0}


def test_trained_scalars_of_lenet_10() -> None:
    """4,023 + 1,370 + 1,370 + 2,740 + 5,010 + 23 r₁ + 70 r₂ + 4000 r₃ + 1300 r₄."""
    model = lenet((3, 32, 32), 10)
    params = model.init(np.random.default_rng(0), np.float32)
    names = perturb(model).trainable
    for ranks in ((1, 1, 1, 1), (2, 5, 30, 20), (3, 20, 100, 100)):
        sizes = {name: params[name].size for name in names if name in params}
        for layer, rank in zip(("conv1", "conv2", "fc1", "fc2"), ranks, strict=True):
            J, I = params[f"{layer}.weight"].shape[:2]
            sizes |= {f"{layer}.R": J, f"{layer}.S": I, f"{layer}.A": rank * I, f"{layer}.B": J * rank}
        assert sizes.keys() == set(names)
        r1, r2, r3, r4 = ranks
        expected = 4023 + 1370 + 1370 + 2740 + 5010 + 23 * r1 + 70 * r2 + 4000 * r3 + 1300 * r4
        assert sum(sizes.values()) == expected


def test_importance_minds_neither_penalty_and_changes_nothing() -> None:
    found, states = [], []
    for changes in ({}, {"l1": 0.5, "weight_decay": 2.0}):
        method = learned(make(weight_decay=0.0, l1=0.0), 1)
        free = method.warm_up(task(1), Hooks())
        before = bits(free) | bits(method.base)
        method.settings = make(**changes).settings
        measured = method.importance(free, method.fit_scalings(free)[1], task(1))
        found.append({name: importance.layers for name, importance in measured.items()})
        assert bits(free) | bits(method.base) == before
        states.append(before)
    assert (found[0], states[0]) == (found[1], states[1])
    assert [list(layers) for layers in found[0].values()] == 7 * [method.layers()]


# ---- ranks ----------------------------------------------------------------------------------------------------------


def test_ranks_are_recorded_with_their_reasons() -> None:
    method = learned(make())
    rows = method.rank_rows()
    assert [(row["task"], row["layer"]) for row in rows] == [(t, name) for t in (1, 2) for name in method.layers()]
    for row in rows:
        own = method.tasks[row["task"] - 1]
        A, B = own[f"{row['layer']}.A"], own[f"{row['layer']}.B"]
        assert row["rank"] == A.shape[0] == B.shape[1]
        assert row["size"] == min(A.shape[1], B.shape[0])
        assert row["clamp"] == ("raised" if row["kept"] < 1 else "capped" if row["kept"] > 6 else "none")
        assert row["importance"] > 0
        choice = method.choices[row["task"] - 1]
        s, window = choice.spectra[row["layer"]], 25 if row["layer"].startswith("conv") else 1
        scores = window * row["importance"] * s**2
        assert len(s) == row["size"]
        assert row["score_sum"] == pytest.approx(scores.sum(), rel=1e-12)
        assert row["last_score"] == pytest.approx(scores[row["rank"] - 1], rel=1e-9)
        assert row["kept_fraction"] == pytest.approx(scores[: row["rank"]].sum() / scores.sum(), rel=1e-12)
    assert {row["clamp"] for row in rows} >= {"none", "capped"}


def ranks(**changes: Any) -> list[int]:
    return [row["rank"] for row in learned(make(**changes), 2).rank_rows()]


def test_flat_ranks_and_full_shares() -> None:
    sizes = [min(shape) for shape in ((3, 3), (4, 3), (10, 16), (8, 10))]
    assert ranks(rank_rule="flat", rank_cap=4) == [3, 3, 4, 4]
    assert ranks(rank_rule="flat", rank_cap=100) == sizes
    assert ranks(rank_share=1.0, rank_cap=100) == sizes
    assert ranks(rank_share=1.5, rank_cap=5) == [3, 3, 5, 5]
    assert ranks(rank_share=1.0, rank_cap=100, full_share="one") == [1, 1, 1, 1]
    assert ranks(rank_share=0.0) == [1, 1, 1, 1]
    low, high = ranks(rank_share=0.5), ranks(rank_share=0.99, rank_cap=100)
    assert all(a <= b for a, b in zip(low, high, strict=True))
    assert sum(low) < sum(high)


@pytest.mark.parametrize("s_fit", ["least-squares", "official"])
def test_full_rank_of_linear_layers_is_the_warm_started_network(s_fit: str) -> None:
    """No perturbation epoch, no pruning: R W S + B A = F, and the same logits in evaluation mode."""
    method = learned(make(small_mlp, prune_rule="none", warmup_epochs=2, rank_share=1.0, rank_cap=99, s_fit=s_fit), 1)
    free = method.warm_up(task(1), Hooks())
    learned(method, 2)
    model, merged = method.network(1)
    assert merged.keys() == free.keys()
    for name, value in free.items():
        np.testing.assert_allclose(merged[name], value, rtol=0, atol=1e-12, err_msg=name)
    x = task(1).validation.x
    free_logits = model.forward(free, x, EVALUATE)[0]
    np.testing.assert_allclose(model.forward(merged, x, EVALUATE)[0], free_logits, atol=1e-11)


# ---- pruning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("rule", PRUNE_RULES)
def test_every_rule_prunes_and_a_budget_is_met(rule: str, bounded: bool) -> None:
    mixed = rule.startswith("mixAR")
    values = (0.01,) if rule == "absolute" else (1e-3, 0.5) if mixed else (0.5,)
    method = learned(make(prune_rule=rule, prune_values=values, prune_bounded=bounded))
    sizes, base = method.sizes(), method.base_parameters()
    assert all(size.factors_sparse < size.factors_dense for size in sizes)
    if rule != "absolute" and bounded:
        assert growth_dense(base, sizes) > 0.5  # so the budget was worth something
        assert growth_released(base, sizes) == pytest.approx(0.5, abs=8 / base)  # up to one entry a pool
    if rule != "absolute" and not bounded:
        kept = sum(size.factors_sparse for size in sizes) / sum(size.factors_dense for size in sizes)
        assert kept == pytest.approx(0.5, abs=0.03)


def test_the_released_fraction_overshoots_the_budget_that_the_exact_one_meets() -> None:
    values = {"prune_rule": "mixAR_AllLayer", "prune_values": (0.0, 0.0), "rank_cap": 100, "rank_share": 0.999}
    grown = {}
    for solve in ("exact", "released"):
        method = learned(make(prune_solve=solve, **values), 3)
        base = method.base_parameters()
        grown[solve] = growth_released(base, method.sizes())
        fixed, dense = sum(size.fixed for size in method.sizes()) / base, growth_dense(base, method.sizes())
    assert dense > 1.0  # the budget
    assert grown["exact"] == pytest.approx(1.0, abs=8 / base)  # up to one entry a pool
    assert grown["released"] == pytest.approx(1.0 + fixed * (1 - 1 / dense), abs=8 / base)


def test_pruning_the_newest_task_only_makes_it_pay_for_the_earlier_ones() -> None:
    method = learned(make(prune_current_only=True, prune_values=(0.0, 0.1)), 4)
    sizes, base = method.sizes(), method.base_parameters()
    assert growth_dense(base, sizes) > 0.9 > growth_dense(base, sizes[:2])
    assert [size.factors_sparse < size.factors_dense for size in sizes] == [False, False, True]
    assert growth_released(base, sizes) == pytest.approx(0.9, abs=2 / base)


def test_the_floor_comes_before_the_budget_only_in_the_preset_paper() -> None:
    zeros = {}
    for preset in ("paper", "official"):
        method = learned(make(preset=preset, prune_values=(0.02, -9.0)), 2)  # a budget of 10: never reached
        factors = [value for name, value in method.tasks[0].items() if name.endswith((".A", ".B"))]
        zeros[preset] = sum(int((value == 0).sum()) for value in factors)
        if preset == "paper":
            assert min(abs(value[value != 0]).min(initial=1.0) for value in factors) > 0.02
    assert zeros["paper"] > 0
    assert zeros["official"] == 0


# ---- the state, and the network that answers ------------------------------------------------------------------------


def test_the_merged_network_computes_the_perturbed_one(dtype: Any) -> None:
    method = learned(make(dtype=dtype), dtype=dtype)
    for position in (1, 2):
        x = task(position, dtype=dtype).validation.x
        plain, merged = method.network(position)
        twin = perturb(small_lenet(CLASSES))
        outputs = twin.forward(everything(method, position), x, EVALUATE)[0]
        np.testing.assert_allclose(
            plain.forward(merged, x, EVALUATE)[0], outputs, rtol=0, atol=1e-12 if dtype is np.float64 else 2e-5
        )


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_state_and_load_round_trip_bit_for_bit(preset: str, dtype: Any) -> None:
    method = learned(make(preset=preset, dtype=dtype, prune_values=(1e-5, 0.9)), dtype=dtype)
    arrays, meta = method.state()
    assert any("#mask" in name for name in arrays)  # pruned factors are stored sparsely
    arrays = {name: value.copy() for name, value in arrays.items()}
    again = make(preset=preset, dtype=dtype, prune_values=(1e-5, 0.9))
    again.load(arrays, json.loads(json.dumps(meta)))
    for position in range(3):
        assert bits(everything(again, position)) == bits(everything(method, position))
    assert again.rank_rows() == method.rank_rows()
    assert (again.sizes(), again.stored_bytes()) == (method.sizes(), method.stored_bytes())
    fresh_arrays, fresh_meta = again.state()
    assert bits(fresh_arrays) == bits(arrays)
    assert fresh_meta == meta
    learned(method, 4, dtype=dtype)
    learned(again, 4, dtype=dtype)  # the loaded one goes on as the other does
    for position in range(4):
        assert bits(everything(again, position)) == bits(everything(method, position))


@pytest.mark.parametrize("position", [-1, 2, 99])
def test_a_task_that_was_not_learned_is_refused(position: int) -> None:
    with pytest.raises(ConfigError, match=f"task: expected a learned task, 0 to 1, received {position}"):
        learned(make(small_mlp), 2).network(position)


def test_sizes_by_hand() -> None:
    """LeNet with widths 3, 4, 10, 8 at 3x8x8 and 3 classes."""
    method = learned(make(prune_rule="none", rank_rule="flat", rank_cap=2), 2)
    weights = 3 * 3 * 25 + 4 * 3 * 25 + 10 * 16 + 8 * 10
    biases, norms, head = 3 + 4 + 10 + 8, 2 * (3 + 4 + 10 + 8), 8 * 3 + 3
    assert method.base_parameters() == weights + biases + norms + head
    (size,) = method.sizes()
    channels = (3 + 3) + (4 + 3) + (10 + 16) + (8 + 10)
    assert (size.scalings, size.factors_dense, size.factors_sparse) == (channels, 2 * channels, 2 * channels)
    assert (size.batchnorm, size.head, size.bias, size.running_stats) == (norms, head, biases, norms)
    numbers = channels * 3 + norms + head + biases + norms
    assert method.stored_bytes() == [8 * (method.base_parameters() + norms), 8 * numbers]
