"""The house rules that a machine can hold: who imports whom, sizes, docstrings, no pickle, a fast `--help`."""

import ast
import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import halrp_np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"halrp_np": ROOT / "halrp_np", "halrp_np_cli": ROOT / "cli"}
EXAMPLES = ROOT / "examples"

FLOOR_0 = {"errors", "typing"}
ENGINE = {
    "files",
    "backend",
    "layers",
    "losses",
    "lowrank",
    "data",
    "runs",
    "models",
    "curvature",
    "training",
    "methods",
}

# room: (what it may import from halrp_np, what from elsewhere). Its own modules and the standard library are free;
# "public" stands for the names in halrp_np.__all__.
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), {"numpy"}),
    "typing": (set(), {"numpy"}),
    "files": (FLOOR_0, set()),
    # Numba compiles through llvmlite and multiplies matrices through SciPy's BLAS: here both are part of Numba.
    "backend": (FLOOR_0, {"numpy", "cupy", "cupyx", "numba", "llvmlite", "scipy", "threadpoolctl"}),
    "layers": (FLOOR_0 | {"backend"}, {"numpy", "scipy"}),
    "losses": (FLOOR_0 | {"backend"}, {"numpy", "scipy"}),
    "lowrank": (FLOOR_0 | {"backend"}, {"numpy", "scipy"}),
    "data": (FLOOR_0 | {"files", "backend.rng"}, {"numpy", "pooch", "PIL", "mlxtend", "scipy"}),
    "runs": (FLOOR_0 | {"files", "backend"}, {"numpy", "safetensors"}),
    "models": (FLOOR_0 | {"layers"}, {"numpy"}),
    "curvature": (FLOOR_0 | {"layers", "losses", "backend", "lowrank"}, {"numpy", "scipy", "cupyx"}),
    "training": (FLOOR_0 | {"layers", "losses", "backend"}, {"numpy"}),
    "methods": (FLOOR_0 | {"backend", "layers", "losses", "lowrank", "curvature", "training"}, {"numpy"}),
    "benchmarks": (FLOOR_0 | ENGINE, {"numpy"}),
    "reports": (
        FLOOR_0 | {"files", "runs", "benchmarks", "curvature", "methods", "training"},
        {"numpy", "scipy", "matplotlib", "jinja2"},
    ),
    "timing": (FLOOR_0 | ENGINE | {"benchmarks"}, {"numpy"}),
    "sweeps": (
        FLOOR_0 | {"files", "backend", "data", "methods", "runs", "benchmarks", "timing"},
        {"numpy", "dask", "distributed"},
    ),
    "public": (FLOOR_0 | ENGINE | {"benchmarks", "reports", "sweeps", "timing"}, set()),  # halrp_np/__init__.py itself
    "cli": ({"public"}, {"click", "rich"}),
    "examples": ({"public"}, {"numpy", "click", "rich"}),
}


# ---- reading the sources ------------------------------------------------------------------------------------------


def _modules() -> dict[str, Path]:
    """Every module of the two packages and every example, by dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found | {f"examples.{path.stem}": path for path in sorted(EXAMPLES.glob("*.py"))}


MODULES = _modules()
SOURCES = [*MODULES.values(), *sorted((ROOT / "tests").rglob("*.py"))]
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in SOURCES}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _absolute(module: str, path: Path, level: int, name: str) -> str:
    """The dotted name that a relative import with `level` dots means; without dots, the name itself."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parts = package[: len(package) - level + 1] if level else []
    return ".".join([*parts, *([name] if name else [])])


def _imports(module: str, path: Path) -> Iterator[tuple[str, int]]:
    """Every import of a module, in functions too and by `import_module("...")`, with its line."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, path, node.level, node.module or "")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                public = base == "halrp_np" and alias.name != "__version__"
                yield (inner if public or inner in MODULES else base), node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called, name = getattr(node.func, "attr", getattr(node.func, "id", "")), node.args[0].value
            if called in {"import_module", "__import__"} and isinstance(name, str):
                plain = name.lstrip(".")
                yield _absolute(module, path, len(name) - len(plain), plain), node.lineno


def _room(module: str) -> str:
    """The row of the table that a module belongs to."""
    first, _, rest = module.partition(".")
    if first != "halrp_np":
        return {"halrp_np_cli": "cli"}.get(first, first)
    inner = rest.split(".")[0]
    return inner if inner in TABLE or (module in MODULES and rest) else "public"


def _allowed(module: str, target: str) -> bool:
    """Whether the table lets `module` import `target`."""
    room, top = _room(module), target.split(".")[0]
    inside, outside = TABLE[room]
    if top not in PACKAGES:
        return top in outside or top in sys.stdlib_module_names
    if (
        target == "halrp_np"
    ):  # `import halrp_np` gives all public names; `from halrp_np import __version__` lands here too
        return "public" in inside or room == "runs"
    if _room(target) == room:
        return True
    return any(_room(target) == key or f"{target}.".startswith(f"halrp_np.{key}.") for key in inside)


# ---- who may import whom ------------------------------------------------------------------------------------------


def test_every_room_stands_in_the_table() -> None:
    strangers = sorted(module for module in MODULES if _room(module) not in TABLE)
    assert not strangers, f"no row in TABLE for {strangers}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_what_the_table_allows(module: str) -> None:
    path = MODULES[module]
    wrong = [
        f"{_name(path)}:{line} imports {what}" for what, line in _imports(module, path) if not _allowed(module, what)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "target", "expected"),
    [
        ("halrp_np.layers.linear", "numpy.linalg", True),
        ("halrp_np.layers.linear", "halrp_np.backend.ops", True),
        ("halrp_np.layers.linear", "halrp_np.layers.base", True),
        ("halrp_np.layers.linear", "numba", False),
        ("halrp_np.layers.linear", "halrp_np.training.loop", False),
        ("halrp_np.data.mnist", "halrp_np.backend.rng", True),
        ("halrp_np.data.mnist", "halrp_np.backend.device", False),
        ("halrp_np.data.mnist", "halrp_np.backend", False),
        ("halrp_np.methods.halrp", "halrp_np.models.lenet", False),
        ("halrp_np.errors", "halrp_np.typing", False),
        ("halrp_np.reports.plots", "matplotlib.axes", True),
        ("halrp_np.reports.plots", "halrp_np.curvature.bounds", True),
        ("halrp_np.reports.plots", "halrp_np.layers.linear", False),
        ("halrp_np_cli.check", "matplotlib", False),
        ("halrp_np_cli.main", "halrp_np", True),
        ("halrp_np_cli.main", "halrp_np_cli.show", True),
        ("halrp_np_cli.main", "numpy", False),
        ("halrp_np_cli.main", "halrp_np.runs.record", False),
    ],
)
def test_the_table_itself_bites(module: str, target: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (module, target):
        monkeypatch.setitem(MODULES, name, ROOT)
    assert _allowed(module, target) is expected


def test_relative_and_hidden_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "linear.py"
    source = "from ..backend import ops\nfrom . import base\ndef f():\n    import numba\n"
    source += "    import_module('cupy.cuda')\n    import_module('.conv', __package__)\n"
    monkeypatch.setitem(TREES, path, ast.parse(source))
    for name in ("halrp_np.backend.ops", "halrp_np.layers.base"):
        monkeypatch.setitem(MODULES, name, path)
    seen = {target for target, _ in _imports("halrp_np.layers.linear", path)}
    assert seen == {"halrp_np.backend.ops", "halrp_np.layers.base", "numba", "cupy.cuda", "halrp_np.layers.conv"}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if _room(name) in {"cli", "examples"}))
def test_cli_and_examples_use_public_names_only(module: str) -> None:
    taken = {
        alias.name
        for node in ast.walk(TREES[MODULES[module]])
        if isinstance(node, ast.ImportFrom) and node.module == "halrp_np" and not node.level
        for alias in node.names
    }
    assert taken <= {*halrp_np.__all__, "__version__"} if taken else True


# ---- sizes, docstrings, forbidden things ----------------------------------------------------------------------------


def test_no_file_is_over_400_lines() -> None:
    long = [_name(path) for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long


def test_no_function_is_over_60_lines() -> None:
    long = [
        f"{_name(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def test_public_modules_functions_and_classes_have_docstrings() -> None:
    bare = []
    for module, path in MODULES.items():
        tree = TREES[path]
        bare += [] if ast.get_docstring(tree) else [_name(path)]
        public = (ast.FunctionDef, ast.ClassDef) if _room(module) != "examples" else ()
        for node in tree.body:
            if isinstance(node, public) and not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{_name(path)}:{node.lineno} {node.name}")
    assert not bare


def test_nothing_is_pickled() -> None:
    picklers = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    # The reader of other people's data sets, and the module that writes for its tests what it must read, or refuse.
    free = {"halrp_np/data/safe_pickle.py", "tests/data/pickle_files.py"}
    wrong = [
        f"{_name(path)}:{line} imports {what}"
        for path in SOURCES
        for what, line in _imports("any", path)
        if what.split(".")[0] in picklers and _name(path) not in free
    ]
    wrong += [
        f"{_name(path)}:{node.value.lineno} sets allow_pickle"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", True)
    ]
    assert not wrong


def test_no_cotangent_is_all_ones() -> None:
    """An all-ones cotangent makes BatchNorm's input gradient vanish, and with it the check."""
    wrong = [
        f"{_name(path)}:{node.lineno}"
        for path, tree in TREES.items()
        if {"layers", "curvature"} & set(path.relative_to(ROOT).parts[1:-1]) and path.is_relative_to(ROOT / "tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name) and getattr(node, "attr", getattr(node, "id", "")) == "ones_like"
    ]
    assert not wrong, f"draw the cotangent at random: {wrong}"


def test_require_gpu_makes_a_skip_a_failure(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    marked = "@pytest.mark.gpu\ndef test_gpu():\n    pytest.skip('no twin')\n"
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n{marked}\ndef test_other():\n    pytest.skip('no data')\n")
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", ".", "."]
    for option, code, ends in (([], 0, "2 skipped"), (["--require-gpu"], 1, "1 skipped, 1 (failed|error)")):
        done = subprocess.run([*command, *option], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        assert re.search(ends, done.stdout.splitlines()[-1])


# ---- the package as installed ---------------------------------------------------------------------------------------


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    present = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    assert set(config["options"]["packages"].split()) == present


def test_every_module_lies_in_a_package() -> None:
    """A folder without __init__.py would be left out of the wheel in silence."""
    folders = {path.parent for module, path in MODULES.items() if _room(module) != "examples"}
    assert not [_name(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_public_names_are_few_and_importable() -> None:
    names = list(halrp_np.__all__)
    assert names == sorted(set(names))
    assert len(names) <= 25
    assert not [name for name in names if not hasattr(halrp_np, name)]


def test_version_is_the_installed_one() -> None:
    try:
        installed = importlib.metadata.version("halrp_np")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("halrp_np is not installed: pip install -e '.[test]'")
    assert installed == halrp_np.__version__


def test_help_imports_nothing_heavy() -> None:
    if not (PACKAGES["halrp_np_cli"] / "main.py").is_file():
        pytest.skip("cli/main.py does not exist")
    program = (
        "import sys\n"
        "sys.argv = ['halrp-np', '--help']\n"
        "from halrp_np_cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'numba', 'llvmlite', 'matplotlib', 'cupy', 'scipy', 'sklearn', 'pandas', 'mlxtend', 'pooch'}\n"
        "print('HEAVY', *sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]
