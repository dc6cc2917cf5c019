"""The training loop: which rows, which records, where it stops; and from any step it goes on with the same bits."""

import copy
import json
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Streams, restore_generator, saved_generator
from halrp_np.errors import ConfigError, DivergenceError
from halrp_np.layers import EVALUATE, BatchNorm1d, Dropout, Linear, Mode, ReLU, Sequential
from halrp_np.losses import CrossEntropy
from halrp_np.training import SGD, Adam, Hooks, Optimizer, Penalty, PhasePlan, evaluate, train_phase
from halrp_np.training.loop import LOSS_CHECK_STEPS, PhaseState
from training.blobs import Blobs

Params = dict[str, np.ndarray]
PLAN = PhasePlan(task=2, name="base", epochs=3, batch=8, lr=0.05, gamma=0.97)
PENALTIES = {"fc.weight": Penalty(l1=1e-3, l2=1e-2)}


def network(rate: float = 0.25) -> Sequential:
    return Sequential(
        {
            "fc": Linear(6, 5),
            "norm": BatchNorm1d(5),
            "relu": ReLU(),
            "dropout": Dropout(rate),
            "head": Linear(5, 3),
        }
    )


def initial(model: Sequential, dtype: Any = np.float64) -> Params:
    return model.init(np.random.default_rng(1), dtype)


def train(
    plan: PhasePlan = PLAN,
    examples: Blobs | None = None,
    hooks: Hooks | None = None,
    optimizer: Optimizer | None = None,
    *,
    seed: int = 4,
    params: Params | None = None,
) -> Params:
    model = network()
    return train_phase(
        plan,
        model,
        params or initial(model),
        examples or Blobs(7, 27),
        loss=CrossEntropy(),
        optimizer=optimizer or Adam(),
        penalties=PENALTIES,
        streams=Streams(seed),
        hooks=hooks or Hooks(),
    )


class Record(Hooks):
    """Every call, in order, and a copy of the state after each step as a checkpoint would hold it."""

    def __init__(self, start: PhaseState | None = None) -> None:
        self.start, self.calls, self.states, self.records, self.losses = start, [], [], [], []

    def restore(self, plan: PhasePlan) -> PhaseState | None:
        return self.start

    def before_update(self, plan: PhasePlan, state: PhaseState, loss: Any) -> None:
        self.losses.append(float(loss))

    def after_step(self, plan: PhasePlan, state: PhaseState, steps: int) -> None:
        self.calls.append((state.step, steps))
        self.states.append(snapshot(state))

    def after_epoch(self, plan: PhasePlan, record: dict[str, Any]) -> None:
        self.calls.append(f"epoch {record['epoch']}")
        self.records.append(dict(record))

    def finished(self, plan: PhasePlan, state: PhaseState) -> None:
        self.calls.append("finished")
        self.states.append(snapshot(state))


def snapshot(state: PhaseState) -> PhaseState:
    """The state through JSON and array copies, as a file would keep it."""
    cursor = {
        "order": state.order,
        "dropout": saved_generator(state.dropout),
        "losses": [float(value) for value in state.losses],
        "history": state.history,
    }
    cursor = json.loads(json.dumps(cursor))
    return PhaseState(
        params={name: value.copy() for name, value in state.params.items()},
        moments={name: value.copy() for name, value in state.moments.items()},
        order=cursor["order"],
        dropout=restore_generator(cursor["dropout"]),
        step=state.step,
        losses=cursor["losses"],
        history=cursor["history"],
    )


def assert_same(a: Params, b: Params) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


# ---- which rows, in which order -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [8, 8, 8]), (False, [8, 8, 8, 3])])
def test_drop_last_leaves_out_the_partial_batch(drop_last: bool, sizes: list[int]) -> None:
    examples = Blobs(7, 27)
    train(replace(PLAN, drop_last=drop_last), examples)
    assert [len(rows) for rows in examples.asked] == 3 * sizes
    for epoch in range(3):
        seen = list(chain(*examples.asked[epoch * len(sizes) : (epoch + 1) * len(sizes)]))
        assert len(set(seen)) == sum(sizes)  # no row twice in an epoch


def test_without_shuffling_the_rows_come_in_stored_order() -> None:
    examples = Blobs(7, 27)
    train(replace(PLAN, shuffle=False), examples)
    assert examples.asked == 3 * [list(range(first, first + 8)) for first in (0, 8, 16)]


def test_examples_hear_of_every_epoch_with_a_stream_of_its_own() -> None:
    examples = Blobs(7, 27)
    train(examples=examples)
    streams = Streams(4)
    expected = [int(streams.generator("augment base", 2, epoch).integers(2**32)) for epoch in range(3)]
    assert examples.begun == expected
    assert len(set(expected)) == 3


def orders(**changes: Any) -> list[list[int]]:
    examples, seed = Blobs(7, 27), changes.pop("seed", 4)
    train(replace(PLAN, **changes), examples, seed=seed)
    return examples.asked


def test_the_shuffled_order_belongs_to_seed_task_and_phase() -> None:
    first = orders()
    assert orders() == first
    assert first[:3] != first[3:6]  # another order every epoch
    for changes in ({"seed": 5}, {"task": 3}, {"name": "warm-up"}):
        assert orders(**changes) != first
    assert orders(epochs=1) == first[:3]
    assert orders(lr=0.01, batch=8) == first  # nothing else moves it


# ---- what it computes -----------------------------------------------------------------------------------------------


def test_a_phase_is_the_formula_step_by_step() -> None:
    """Written again without the loop: forward, loss, backward, momentum step at lr γⁿ, running statistics."""
    examples, model, hooks = Blobs(7, 24), network(), Record()
    trained = train(PLAN, examples, hooks, SGD(scale=10.0, momentum=0.9))
    params, velocity, losses = initial(model), {}, []
    dropout = Streams(4).generator("dropout base", 2)
    for n, rows in enumerate(examples.asked):
        y, cache = model.forward(params, examples.x[:, rows], Mode(train=True, dropout=dropout))
        value, gy = CrossEntropy().value_and_grad(y, examples.y[rows])
        losses.append(float(value))
        _, grads = model.backward(params, cache, gy)
        penalty = PENALTIES["fc.weight"]
        W = params["fc.weight"]
        grads["fc.weight"] = grads["fc.weight"] + penalty.l1 * np.sign(W) + penalty.l2 * W
        buffers = model.new_buffers(params, cache)
        for name, g in grads.items():
            velocity[name] = 0.9 * velocity.get(name, 0.0) + 10.0 * g
            params[name] = params[name] - 0.05 * 0.97**n * velocity[name]
        params.update(buffers)
    assert len(losses) == 9
    np.testing.assert_allclose(hooks.losses, losses, rtol=1e-12)
    for name, value in params.items():
        np.testing.assert_allclose(trained[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


def test_the_starting_parameters_stay_as_they_are() -> None:
    start = initial(network())
    before = copy.deepcopy(start)
    trained = train(params=start)
    assert_same(start, before)
    assert not any(trained[name] is start[name] for name in start)
    assert all((trained[name] != start[name]).any() for name in start)  # running statistics too


def test_frozen_weights_are_shared_and_never_copied() -> None:
    """A perturbed layer's base weight is a buffer: the trained dict holds the very same array."""
    from halrp_np.layers import perturb

    model = perturb(Sequential({"fc": Linear(6, 5), "head": Linear(5, 3)}))
    draw = np.random.default_rng(0)
    shapes = {"weight": (5, 6), "R": (5,), "S": (6,), "A": (2, 6), "B": (5, 2), "bias": (5,)}
    params = {f"fc.{name}": draw.normal(size=shape) for name, shape in shapes.items()}
    params |= {"head.weight": draw.normal(size=(3, 5)), "head.bias": np.zeros(3)}
    params["fc.weight"].flags.writeable = False
    trained = train_phase(
        PLAN,
        model,
        params,
        Blobs(7, 27),
        loss=CrossEntropy(),
        optimizer=Adam(),
        penalties={},
        streams=Streams(0),
        hooks=Hooks(),
    )
    assert trained["fc.weight"] is params["fc.weight"]
    assert all((trained[f"fc.{name}"] != params[f"fc.{name}"]).any() for name in "RSAB")


def test_zero_epochs_change_nothing() -> None:
    hooks = Record()
    assert_same(train(replace(PLAN, epochs=0), hooks=hooks), initial(network()))
    assert hooks.calls == ["finished"]


# ---- records and hooks ----------------------------------------------------------------------------------------------


def test_epoch_records_and_the_order_of_calls() -> None:
    hooks = Record()
    train(hooks=hooks)
    assert hooks.calls == [
        *((1, 9), (2, 9), "epoch 1", (3, 9)),
        *((4, 9), (5, 9), "epoch 2", (6, 9)),
        *((7, 9), (8, 9), "epoch 3", (9, 9)),
        "finished",
    ]
    for number, record in enumerate(hooks.records):
        losses = hooks.losses[3 * number : 3 * number + 3]
        assert record == {
            "task": 2,
            "phase": "base",
            "epoch": number + 1,
            "steps": 3,
            "loss": pytest.approx(sum(losses) / 3, rel=1e-15),
            "lr": pytest.approx(0.05 * 0.97 ** (3 * number + 2), rel=1e-15),
        }


# ---- going on from any step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [Adam(10.0), SGD(momentum=0.9), SGD()], ids=["adam", "momentum", "sgd"])
def test_restored_at_every_step_it_ends_with_the_same_bits(optimizer: Optimizer) -> None:
    whole = Record()
    trained = train(hooks=whole, optimizer=optimizer)
    assert len(whole.states) == 10  # nine steps and the end
    for state in whole.states:
        step, later = state.step, Record(state)
        assert_same(train(hooks=later, optimizer=optimizer), trained)
        assert later.records == whole.records  # finished epochs are told again
        assert later.losses == whole.losses[step:]
        assert later.calls[-1] == "finished"
        assert_same(later.states[-1].moments, whole.states[-1].moments)


def test_the_dropout_stream_is_part_of_what_is_restored() -> None:
    whole = Record()
    trained = train(hooks=whole)
    state = whole.states[3]
    state.dropout = Streams(4).generator("dropout base", 2)  # as if it had not been saved
    assert any((train(hooks=Record(state))[name] != trained[name]).any() for name in trained)


# ---- a loss that is not finite --------------------------------------------------------------------------------------


def poisoned(step: int) -> Blobs:
    """Data of which batch number `step` (from 1) of every epoch holds a NaN, in stored order."""
    examples = Blobs(7, 27)
    examples.x[0, 8 * (step - 1)] = np.nan
    return examples


def test_a_loss_that_is_not_finite_names_task_phase_epoch_and_step() -> None:
    plan = replace(PLAN, shuffle=False)
    with pytest.raises(
        DivergenceError, match="task 2, phase base, epoch 1, step 2: expected a finite loss, received nan"
    ):
        train(plan, poisoned(2))


def test_the_step_is_counted_over_the_phase() -> None:
    class Poison(Record):
        """A NaN in the parameters after step 4, in the second epoch."""

        def after_step(self, plan: PhasePlan, state: PhaseState, steps: int) -> None:
            if state.step == 4:
                state.params["head.bias"][0] = np.nan

    with pytest.raises(DivergenceError, match="epoch 2, step 5: expected a finite loss"):
        train(hooks=Poison())


def test_a_long_epoch_is_stopped_before_its_end() -> None:
    plan, examples, hooks = replace(PLAN, batch=2, shuffle=False), Blobs(7, 200), Record()
    examples.x[:, 4] = np.inf
    with pytest.raises(DivergenceError, match="epoch 1, step 3:"), np.errstate(invalid="ignore"):
        train(plan, examples, hooks)
    assert len(hooks.losses) <= LOSS_CHECK_STEPS


def test_too_large_a_batch_is_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="batch_size: expected at most the 27 training images of task 2"):
        train(replace(PLAN, batch=28))


# ---- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, 27, 100])
def test_accuracy_counts_every_sample_once_in_evaluation_mode(batch: int) -> None:
    model, examples = network(), Blobs(7, 27)
    params = train(examples=examples)
    outputs, _ = model.forward(params, examples.x, EVALUATE)
    expected = 100.0 * np.mean(outputs.argmax(axis=0) == examples.y)
    examples.asked.clear()
    assert evaluate(model, params, examples, batch) == pytest.approx(expected, rel=1e-15)
    assert list(chain(*examples.asked)) == list(range(27))
    assert 40 < expected <= 100
