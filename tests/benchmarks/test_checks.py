"""What a run refuses to begin, and what a resume refuses or tells because the run is no longer the same."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiny
from halrp_np import HalrpError, RunConfig, TrainedRun, resume, run
from halrp_np.benchmarks import Reporter, RunInterruptedError, checks
from halrp_np.benchmarks.config import fingerprint, read_config
from halrp_np.errors import ConfigError, DeviceError, ResumeError
from halrp_np.lowrank import PRUNE_RULES
from halrp_np.runs import RunFolder, checkpoint
from halrp_np.runs import config as resolver
from halrp_np.runs.plain_json import line_text


class Notes(Reporter):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def stopped(data_dir: Path, out: Path, step: int, **changes: object) -> Path:
    """The folder of a run stopped by Ctrl-C after that step."""
    with pytest.raises(RunInterruptedError):
        run(tiny.config(data_dir, **changes), out, tiny.StopAt(step))
    return out


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file by hand."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refused(folder: Path, error: type[HalrpError], message: str) -> None:
    """A resume is refused and leaves every byte as it was."""
    before = everything(folder)
    with pytest.raises(error, match=message):
        resume(folder)
    assert everything(folder) == before


# ---- before a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 0.9}, r"momentum: expected 0 under optimizer=adam.*received 0\.9\. Add --set optimizer=sgd"),
        (
            {"gamma": 0.5},
            "gamma: expected 1 under gamma_rule=task-size.*--set gamma_rule=fixed, or leave gamma out",
        ),
        ({"batch_size": 1}, "batch_size: expected at least two images .*received 1. .*of at least 2"),
        ({"batch_size": 47, "drop_last": False}, "received 47, which leaves a last batch of 1 of 48 .*drop_last=true"),
        ({"prune_values": (0.4,)}, r"prune_values: expected 2 values .*received 1\..*--set prune_values=1e-5,0\.5"),
        ({"prune_rule": "relative"}, r"prune_values: .*1 value .*received 2\..*--set prune_values=0\.5\."),
        ({"prune_rule": "absolute"}, r"prune_values: .*1 value .*--set prune_values=1e-5\."),
        ({"prune_values": (-1.0, 0.4)}, r"prune_values: expected a finite floor .*received -1\.0"),
    ],
)
def test_what_would_fail_or_be_ignored_is_refused(
    changes: dict[str, Any], message: str, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tiny.config(data_dir, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rule", PRUNE_RULES)
@pytest.mark.parametrize("bounded", [True, False])
def test_the_example_of_pruning_values_is_accepted(rule: str, bounded: bool, data_dir: Path) -> None:
    wrong = tiny.config(data_dir, prune_rule=rule, prune_values=(), prune_bounded=bounded)
    with pytest.raises(ConfigError) as caught:
        checks.check_pruning(wrong)
    example = caught.value.next_step.partition("prune_values=")[2].removesuffix(".")
    checks.check_pruning(tiny.config(data_dir, prune_rule=rule, prune_values=example, prune_bounded=bounded))


def test_settings_in_use_are_not_refused(data_dir: Path) -> None:
    checks.check_ignored(tiny.config(data_dir, optimizer="sgd", momentum=0.9, gamma_rule="fixed", gamma=0.5))


def test_a_configuration_made_by_hand_is_checked_and_settled(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"epochs.*at least 1"):
        run(RunConfig(epochs=0, data_dir=data_dir), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    settings: dict[str, Any] = {**tiny.SETTINGS, "widths": [8, 6], "learning_rate": 1, "tasks": 1, "device": "auto"}
    folder = run(RunConfig(**settings, data_dir=data_dir), tmp_path / "run")  # 1 is written as the 1.0 it is read as
    before = everything(folder)
    resume(folder)
    assert everything(folder) == before


# ---- stop_after -----------------------------------------------------------------------------------------------------


def test_stop_after_learns_the_first_tasks_of_the_same_stream(whole: Path, data_dir: Path, tmp_path: Path) -> None:
    folder = run(tiny.config(data_dir, stop_after=2), tmp_path / "run")
    summary, full = (json.loads((path / "summary.json").read_text()) for path in (folder, whole))
    assert (summary["tasks_learned"], summary["tasks"]) == (2, 3)
    rows = (folder / "accuracy.csv").read_text()
    assert (whole / "accuracy.csv").read_text().startswith(rows)
    assert (whole / "metrics.jsonl").read_text().startswith((folder / "metrics.jsonl").read_text())
    protocols = [json.loads((path / "config.json").read_text())["protocol"] for path in (folder, whole)]
    assert protocols[0] == protocols[1]
    assert summary["metrics"] != full["metrics"]
    before = everything(folder)
    resume(folder, tiny.StopAt(1))  # finished: nothing is learned
    assert everything(folder) == before
    expected = tiny.contents(folder)
    tiny.assert_same_bytes(resume(stopped(data_dir, tmp_path / "stopped", 8, stop_after=2)), expected)


def test_the_released_rate_is_that_of_the_whole_stream(data_dir: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"gamma_rule": "released", "tasks": 3}
    folders = [
        run(tiny.config(data_dir, **changes, stop_after=1), tmp_path / "first"),
        run(tiny.config(data_dir, **{**changes, "tasks": 1}), tmp_path / "alone"),
    ]
    rates = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])["lr"] for folder in folders]
    assert rates[0] == pytest.approx(0.01 * 0.95 ** (5 * 16 / (50000 / 3 * 0.8)), rel=1e-12)
    assert rates[1] == pytest.approx(0.01 * 0.95 ** (5 * 16 / (50000 * 0.8)), rel=1e-12)


# ---- a state that got lost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", [["state.json"], ["state.json", "accuracy.csv"], ["state.json", "payload"]])
@pytest.mark.parametrize("step", [8, 0])
def test_a_lost_manifest_of_the_state_wipes_nothing(
    step: int, without: list[str], data_dir: Path, whole: Path, tmp_path: Path
) -> None:
    """Stopped in task 1, or finished."""
    out = tmp_path / "run"
    folder = stopped(data_dir, out, step) if step else Path(shutil.copytree(whole, out))
    (payload,) = (folder / "checkpoints").glob("state-*.safetensors")
    for name, path in (("payload", payload), ("state.json", folder / "checkpoints" / "state.json")):
        if name in without:
            path.unlink()
    if "accuracy.csv" in without:
        (folder / "accuracy.csv").unlink()
    refused(folder, ResumeError, r"state\.json: expected the manifest of the learned tasks.*Restore it from a copy")
    with pytest.raises(ResumeError, match=r"state\.json: expected the manifest"):
        TrainedRun(folder)


def test_a_kill_between_the_first_payload_and_its_manifest_loses_nothing(
    data_dir: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As kill -9."""

    write = checkpoint.write_whole

    def die(path: Path, content: Any) -> None:
        if path.name == "state.json":
            raise Killed
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", die)
        patch.setattr(checkpoint, "_remove_unnamed_payloads", lambda *_: None)
        with pytest.raises(Killed):
            run(tiny.config(data_dir), tmp_path / "run")
    assert checkpoint.names(tmp_path / "run" / "checkpoints") == ["base", "state"]
    tiny.assert_same_bytes(resume(tmp_path / "run"), expected)


# ---- a configuration, a device or a machine that is another ---------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "key", "value"),
    [(3, "learning_rate", 0.02), (8, "seed", 1), (8, "stop_after", 2), (8, "device", "auto"), (0, "epochs", 3)],
)
def test_an_edited_configuration_is_refused(
    step: int, key: str, value: object, data_dir: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    folder = stopped(data_dir, out, step) if step else Path(shutil.copytree(whole, out))
    path = folder / "config.json"
    content = path.read_bytes()
    edit(path, lambda recorded: recorded["config"].update({key: value}))
    refused(folder, ResumeError, r"config\.json: expected the configuration that the checkpoint '.*Undo the change")
    if step != 3:  # something is learned
        with pytest.raises(ResumeError, match="Undo the change"):
            TrainedRun(folder)
    path.write_text(json.dumps(json.loads(content)))  # another layout is no change
    resume(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("order", [0, 1, 2]), ("split", "otherwise"), ("sizes", []), ("extra", True), ("data", "mnist-x")],
)
def test_every_part_of_the_protocol_is_compared(key: str, value: object, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    edit(folder / "config.json", lambda recorded: recorded["protocol"].update({key: value}))
    refused(folder, ResumeError, "Undo the change")
    shutil.rmtree(folder / "checkpoints")  # nothing is learned yet: then the stream itself is compared
    (folder / "accuracy.csv").unlink()
    refused(folder, ResumeError, f"run: {key}: expected the data of the run, ")


@pytest.mark.parametrize("key", ["pixels_sha256", "labels_sha256", "data", "image_shape", "tasks", "sizes"])
@pytest.mark.parametrize("value", [None, {}])
def test_a_protocol_without_its_parts_is_refused(key: str, value: object, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    edit(folder / "config.json", lambda recorded: recorded["protocol"].pop(key))
    refused(folder, ResumeError, rf"config\.json: protocol: expected .* under '{key}', received none.*damaged")
    edit(folder / "config.json", lambda recorded: recorded["protocol"].update({key: value}))
    refused(folder, ResumeError, f"under '{key}', received a ")
    with pytest.raises(ResumeError, match=f"under '{key}'"):
        TrainedRun(folder)


def test_a_setting_that_came_later_has_its_default_in_older_folders(
    data_dir: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run under a version without it: it goes on to the same tables, and its networks answer."""
    original = resolver.as_record
    with monkeypatch.context() as patch:
        patch.setattr(resolver, "as_record", lambda config: without(original(config), "curvature_images"))
        folder = stopped(data_dir, tmp_path / "run", 8)
    assert "curvature_images" not in json.loads((folder / "config.json").read_text())["config"]
    edit(folder / "config.json", lambda recorded: recorded["config"].update({"curvature_images": 64}))
    refused(folder, ResumeError, "expected the configuration that the checkpoint")  # no edit is an exception
    edit(folder / "config.json", lambda recorded: recorded["config"].pop("curvature_images"))
    assert TrainedRun(folder).config.curvature_images == 64
    resume(folder)
    for name in ("accuracy.csv", "ranks.csv", "capacity.csv", "changes.csv", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_setting_that_is_removed_by_hand_is_refused(data_dir: Path, tmp_path: Path) -> None:
    folder = stopped(data_dir, tmp_path / "run", 8)
    edit(folder / "config.json", lambda recorded: recorded["config"].pop("curvature_images"))
    refused(folder, ResumeError, "config.json: expected the configuration that the checkpoint")
    with pytest.raises(ResumeError, match="expected the configuration that the checkpoint 'state'"):
        TrainedRun(folder)


def test_checkpoints_of_earlier_versions_carry_the_same_checksum(whole: Path) -> None:
    """They took it of the configuration and the protocol in memory."""
    recorded = json.loads((whole / "config.json").read_text())
    config, protocol = read_config(RunFolder(whole))
    assert resolver.as_record(config) == recorded["config"]
    text = line_text({"protocol": protocol, "config": resolver.as_record(config)})
    assert fingerprint(RunFolder(whole)) == hashlib.sha256(text.encode()).hexdigest()


def test_a_state_without_the_later_tables_is_taken_up(data_dir: Path, tmp_path: Path) -> None:
    """What was not recorded stays so; what comes is."""
    folder = stopped(data_dir, tmp_path / "run", 14)
    arrays, meta = checkpoint.load(folder / "checkpoints", "state")
    checkpoint.save(folder / "checkpoints", "state", arrays, without(without(meta, "changes"), "curvature"))
    resume(folder)
    rows = RunFolder(folder).read_csv("changes.csv")[1]
    assert {(row["after_task"], row["task"]) for row in rows} == {(2, 0), (2, 1)}


def without(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The record with one key less."""
    return {name: value for name, value in record.items() if name != key}


def test_the_device_is_recorded_by_name_and_never_changes(data_dir: Path, tmp_path: Path) -> None:
    folder = stopped(data_dir, tmp_path / "run", 8, device="auto")
    device = json.loads((folder / "config.json").read_text())["config"]["device"]
    assert device in ("cpu", "gpu:0")
    resume(folder)
    assert json.loads((folder / "summary.json").read_text())["device"] == device


def test_a_device_that_is_gone_is_told_as_a_resume_can_use_it(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halrp_np.backend import device

    folder = stopped(data_dir, tmp_path / "run", 8)
    monkeypatch.setattr(device, "import_cupy", lambda: (None, "CuPy finds no CUDA device"))
    monkeypatch.setattr(checks, "fingerprint", lambda *_: next(iter(digests)))
    digests = {checkpoint.load_meta(folder / "checkpoints", "state")["config_sha256"]}
    edit(folder / "config.json", lambda recorded: recorded["config"].update({"device": "gpu:0"}))
    before = everything(folder)
    with pytest.raises(DeviceError, match=r"run: device gpu:0: .*CuPy finds no CUDA device") as caught:
        resume(folder)
    assert "resume it on a machine with that device" in caught.value.next_step
    assert "--device cpu" not in str(caught.value)
    assert everything(folder) == before


def test_other_kernels_are_refused_by_name(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(data_dir, tmp_path / "run", 8)
    began = os.environ.get("HALRP_NP_KERNELS", "fast")
    other = {"fast": "reference", "reference": "fast"}[began]
    assert json.loads((folder / "environment.json").read_text())["kernels"] == began
    monkeypatch.setenv("HALRP_NP_KERNELS", other)
    refused(folder, ResumeError, f"kernels: expected HALRP_NP_KERNELS={began}.*received {other}. Set HALRP_NP_KERNELS=")
    monkeypatch.undo()
    edit(folder / "environment.json", lambda found: found.update({"kernels": 3}))
    refused(folder, ResumeError, "kernels: expected fast or reference or winograd, received 3. Restore")


def test_another_machine_is_told_and_not_refused(data_dir: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    folder, reporter = stopped(data_dir, tmp_path / "run", 8), Notes()
    content = (folder / "environment.json").read_bytes()

    def elsewhere(found: Any) -> None:
        found["packages"]["numpy"] = "1.99"
        found["processor"] = "unknown"
        found["variables"]["OMP_NUM_THREADS"] = "77"  # no result depends on it
        found["system"]["release"] = "1.0"

    edit(folder / "environment.json", elsewhere)
    changed = (folder / "environment.json").read_bytes()
    resume(folder, reporter)
    (note,) = reporter.notes
    assert "packages.numpy 1.99 then and " in note
    assert "processor unknown then and " in note
    assert note.endswith("; bytes may differ from an uninterrupted run")
    assert "OMP" not in note
    assert "release" not in note
    assert (folder / "environment.json").read_bytes() == changed  # it says where the run began
    (folder / "environment.json").write_bytes(content)
    tiny.assert_same_bytes(folder, expected)
    again = Notes()
    resume(folder, again)
    assert again.notes == []


# ---- other ----------------------------------------------------------------------------------------------------------


def test_a_relative_data_folder_is_found_from_anywhere(
    data_dir: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir.parent)
    stopped(Path(data_dir.name), tmp_path / "run", 8)
    monkeypatch.chdir(tmp_path)
    tiny.assert_same_bytes(resume("run"), expected)


def test_a_method_can_warn_through_the_hooks(whole: Path, tmp_path: Path) -> None:
    from halrp_np import Device
    from halrp_np.benchmarks.session import Session
    from halrp_np.runs import RunFolder

    reporter = Notes()
    Session(RunFolder(tmp_path), Device("cpu"), reporter, 30.0).warn("the budget cannot be met")
    assert reporter.notes == ["the budget cannot be met"]
