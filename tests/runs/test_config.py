"""config.py: every layer is checked, the last one wins, and an error names key, layer and next step."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halrp_np.errors import ConfigError
from halrp_np.runs.config import Row, as_record, describe, load_toml, parse_assignment, resolve


@dataclass(frozen=True)
class Example:
    """A schema with one field of each kind."""

    epochs: int = field(default=12, metadata={"help": "passes over a task", "min": 1})
    learning_rate: float = field(default=1e-3, metadata={"above": 0, "max": 1})
    verbose: bool = False
    label: str = "run"
    rule: Literal["importance", "flat"] = "importance"
    width: Literal[32, 64] = 32
    shares: tuple[float, ...] = field(default=(0.5, 0.9), metadata={"min": 0, "max": 1})
    cap: int | None = field(default=None, metadata={"min": 1})
    data_dir: Path | None = None
    mode: Literal["a", "b"] | None = None


def test_defaults_and_the_order_of_layers() -> None:
    assert resolve(Example) == Example()
    layers = ("preset", {"epochs": 5, "label": "p"}), ("config.toml", {"epochs": 7}), ("--set", {"epochs": "9"})
    assert resolve(Example, *layers) == Example(epochs=9, label="p")
    assert resolve(Example, *layers[:2]) == Example(epochs=7, label="p")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", "7", 7),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", 1, 1.0),
        ("verbose", "YES", True),
        ("verbose", "no", False),
        ("verbose", "1", True),
        ("verbose", 0, False),
        ("verbose", True, True),
        ("rule", "flat", "flat"),
        ("width", "64", 64),
        ("width", 64, 64),
        ("shares", "0.1, 1", (0.1, 1.0)),
        ("shares", "", ()),
        ("shares", [0, 0.25], (0.0, 0.25)),
        ("cap", "None", None),
        ("cap", "3", 3),
        ("cap", None, None),
        ("data_dir", "some/where", Path("some/where")),
        ("data_dir", Path("x"), Path("x")),
        ("data_dir", "~", Path.home()),
        ("mode", "b", "b"),
        ("mode", "none", None),
    ],
)
def test_values_take_the_type_of_their_field(key: str, value: object, expected: object) -> None:
    got = getattr(resolve(Example, ("--set", {key: value})), key)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("epochs", "7.5", "a whole number at least 1, received '7.5'"),
        ("epochs", 7.0, "a whole number"),
        ("epochs", True, "a whole number at least 1, received True"),
        ("epochs", "0", "at least 1"),
        ("epochs", None, "received None"),
        ("learning_rate", "fast", "a number above 0 and at most 1, received 'fast'"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", 1.5, "at most 1"),
        ("learning_rate", "nan", "Write a finite number"),
        ("learning_rate", float("inf"), "finite"),
        ("learning_rate", 10**400, "Write a number"),
        ("learning_rate", [1], "Write a number"),
        ("verbose", "maybe", "true or false, received 'maybe'"),
        ("verbose", 2, "true or false"),
        ("verbose", 1.0, "true or false"),
        ("label", 5, "text, received 5. Write it in quotes"),
        ("rule", "importanse", "Did you mean 'importance'"),
        ("rule", "x", "one of importance, flat, received 'x'. Choose one"),
        ("rule", ["flat"], "one of importance, flat"),
        ("width", 32.0, "one of 32, 64"),
        ("width", True, "one of 32, 64"),
        ("shares", "0.5,2", "a list of: a number at least 0 and at most 1"),
        ("shares", 0.5, "Write several values with commas"),
        ("shares", "0.5;1", "a list of"),
        ("cap", "many", "a whole number at least 1, or none, received 'many'"),
        ("cap", 0, "at least 1"),
        ("cap", {"a": 1}, "received a table with 1 keys"),
        ("data_dir", 3, "a path, or none"),
        ("mode", "c", "one of a, b, or none"),
    ],
)
def test_a_wrong_value_names_key_layer_and_what_was_expected(key: str, value: object, match: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Example, ("preset", {}), ("config.toml", {key: value}))
    assert str(caught.value).startswith(f"config.toml: key '{key}': expected ")
    assert match in str(caught.value)


def test_an_overridden_value_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="preset: key 'epochs'"):
        resolve(Example, ("preset", {"epochs": "x"}), ("--set", {"epochs": 3}))


@pytest.mark.parametrize(
    ("key", "next_step"),
    [
        ("epoch", "Did you mean 'epochs'"),
        ("learning-rate", "Did you mean 'learning_rate'"),
        ("Epochs", "Did you mean 'epochs'"),
        ("qqq", "The keys are: cap, data_dir, epochs"),
        (3, "The keys are"),
    ],
)
def test_an_unknown_key_meets_its_nearest(key: str, next_step: str) -> None:
    with pytest.raises(ConfigError, match=f"--set: key {key!r}.*{next_step}"):
        resolve(Example, ("--set", {key: "1"}))


def test_a_required_key_must_come_from_some_layer() -> None:
    @dataclass(frozen=True)
    class Needs:
        seed: int
        names: tuple[str, ...] = dataclasses.field(default_factory=lambda: ("a", "b"))

    with pytest.raises(
        ConfigError, match=r"key 'seed': expected a whole number, received no value\. Set it with --set"
    ):
        resolve(Needs)
    assert resolve(Needs, ("x", {"seed": 1, "names": "p,q"})) == Needs(1, ("p", "q"))
    assert [row.default for row in describe(Needs)] == ["required", "a,b"]


def test_a_check_of_the_schema_itself_passes_through() -> None:
    @dataclass(frozen=True)
    class Pair:
        low: float = 0.0
        high: float = 1.0

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ConfigError("low", expected="at most high", received=str(self.low), next_step="Lower it.")

    with pytest.raises(ConfigError, match="at most high"):
        resolve(Pair, ("--set", {"low": "2"}))


def test_a_schema_with_an_unsupported_type_is_a_mistake_of_its_author() -> None:
    @dataclass(frozen=True)
    class Odd:
        a: complex = 0j
        b: int | str | None = None

    with pytest.raises(TypeError, match="complex"):
        resolve(Odd, ("--set", {"a": "1"}))
    with pytest.raises(TypeError, match=r"int \| str"):
        resolve(Odd, ("--set", {"b": "1"}))


examples = st.builds(
    Example,
    epochs=st.integers(1, 10**20),
    learning_rate=st.floats(0, 1, exclude_min=True),
    verbose=st.booleans(),
    label=st.text(),
    rule=st.sampled_from(["importance", "flat"]),
    width=st.sampled_from([32, 64]),
    shares=st.lists(st.floats(0, 1), max_size=4).map(tuple),
    cap=st.none() | st.integers(1, 99),
    data_dir=st.none() | st.sampled_from([Path("a/b"), Path("/c")]),
    mode=st.sampled_from(["a", "b", None]),
)


@given(examples)
def test_a_configuration_survives_its_record_and_its_text(config: Example) -> None:
    record = as_record(config)
    assert resolve(Example, ("config.json", record)) == config
    as_text = {
        key: ",".join(map(repr, value)) if isinstance(value, list) else str(value) for key, value in record.items()
    }
    assert resolve(Example, ("--set", as_text)) == config


def test_describe_lists_the_fields_in_order() -> None:
    rows = {row.key: row for row in describe(Example)}
    assert list(rows) == [item.name for item in dataclasses.fields(Example)]
    assert rows["epochs"] == Row("epochs", "a whole number at least 1", "12", "passes over a task")
    assert rows["learning_rate"][1:3] == ("a number above 0 and at most 1", "0.001")
    assert rows["verbose"][1:3] == ("true or false", "false")
    assert rows["shares"].default == "0.5,0.9"
    assert rows["data_dir"][1:3] == ("a path, or none", "none")


def test_every_described_default_can_be_given_back() -> None:
    assert resolve(Example, ("--set", {row.key: row.default for row in describe(Example)})) == Example()


@pytest.mark.parametrize(
    ("text", "pair"), [("a=1", ("a", "1")), (" a = b=c ", ("a", "b=c")), ("a=", ("a", "")), ("a==", ("a", "="))]
)
def test_assignments(text: str, pair: tuple[str, str]) -> None:
    assert parse_assignment(text) == pair


@pytest.mark.parametrize("text", ["", "a", "=1", "  =1"])
def test_an_assignment_needs_a_key_and_an_equals_sign(text: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_assignment(text)


def test_a_flat_toml_file_is_a_layer(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbfepochs = 3 # few\nshares = [0, 0.5]\nrule = 'flat'\n")
    assert resolve(Example, (path.name, load_toml(path))) == Example(epochs=3, shares=(0.0, 0.5), rule="flat")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"epochs = 3\nlr = \n", "line 2"),
        (b"epochs = 3\nepochs = 4\n", "line 2"),
        (b"a = " + b"[" * 5000, "Correct that line"),
        (b"[model]\nwidth = 3\n", r"the table \[model\]. Move the keys"),
        (b"model.width = 3\n", r"the table \[model\]"),
        (b"[[model]]\nwidth = 3\n", r"the table \[model\]"),
        (b"label = '\xff'\n", "UTF-8"),
        (b"\x1f\x8b\x08\x00", "UTF-8|TOML"),
    ],
)
def test_a_bad_toml_file_is_named_with_its_line(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=match) as caught:
        load_toml(path)
    assert str(path) in str(caught.value)


def test_a_toml_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_toml(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="Check the path"):
        load_toml(tmp_path)


def test_a_toml_date_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("epochs = 2020-01-01\n")
    with pytest.raises(ConfigError, match="a whole number"):
        resolve(Example, ("c.toml", load_toml(tmp_path / "c.toml")))
