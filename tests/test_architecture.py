"""The direction of imports, and what must start without torch or MLflow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "bench.errors": set(),
    "bench.text": set(),
    "bench.processes": set(),
    "bench.data": {"bench.errors", "bench.processes"},
    "bench.mixing": set(),
    "bench.models": set(),
    "bench.evaluation": set(),
    "bench.results.store": {"bench.errors"},
    "bench.plan": {
        "bench.errors",
        "bench.text",
        "bench.data",
        "bench.mixing",
        "bench.models",
        "bench.results.store",
    },
    "bench.results": {"bench.errors", "bench.text", "bench.plan", "bench.results.store"},
    "bench.training": {
        "bench.errors",
        "bench.data",
        "bench.mixing",
        "bench.models",
        "bench.evaluation",
        "bench.plan",
        "bench.results.store",
    },
    "bench.execution": {
        "bench.errors",
        "bench.data",
        "bench.evaluation",
        "bench.plan",
        "bench.training",
        "bench.results.store",
    },
    "reports": {"bench.errors", "bench.text", "bench.processes", "bench.plan", "bench.results.store"},
}
"""What each room may import; bench/*.py, the command line and what it prints, may import everything."""


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("bench/**/*.py"), *ROOT.glob("reports/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def room(module: str) -> str | None:
    names = [name for name in ALLOWED if module == name or module.startswith(f"{name}.")]
    return max(names, key=len, default=None)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known = modules()
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            found |= submodules or {node.module}
    return found


@pytest.mark.parametrize("module", [m for m in modules() if room(m)])
def test_imports_go_one_way(module):
    own = room(module)
    for name in imported(modules()[module]):
        if name.partition(".")[0] in ("bench", "reports"):
            assert room(name) in {own} | ALLOWED[own], f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in modules() if not m.startswith("bench.results.mlflow")])
def test_only_the_publisher_imports_mlflow(module):
    assert not any(name == "mlflow" or name.startswith("mlflow.") for name in imported(modules()[module]))


@pytest.mark.parametrize("module", [m for m in modules() if m != "bench.execution.ray"])
def test_only_its_engine_imports_ray(module):
    assert not any(name == "ray" or name.startswith("ray.") for name in imported(modules()[module]))


HEAVY = ("torch", "torchvision", "timm", "mlflow", "ray", "sklearn", "pandas", "scipy", "matplotlib")


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_planning_and_supervising_load_nothing_heavy():
    modules = "bench.cli, bench.survey, bench.execution.local, bench.execution.ray, bench.execution.supervisor"
    modules += ", bench.plan.networks, bench.plan.schema, bench.progress"
    assert loaded_after(f"import {modules}") == set()


def test_the_report_never_loads_torch():
    assert loaded_after("import reports") & {"torch", "torchvision", "timm", "mlflow"} == set()


def test_training_can_be_imported_without_mlflow_and_ray():
    loaded = loaded_after("import bench.execution.preload")
    assert "torch" in loaded
    assert not loaded & {"mlflow", "ray"}
