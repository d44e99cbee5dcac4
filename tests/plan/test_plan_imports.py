"""Planning starts at once: nothing that takes seconds to import is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bench.plan


def test_planning_imports_neither_torch_nor_mlflow() -> None:
    modules = [f"bench.plan.{path.stem}" for path in Path(bench.plan.__file__).parent.glob("[a-z]*.py")]
    assert "bench.plan.networks" in modules
    script = f"import sys, {', '.join(modules)}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "bench" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "mlflow", "sklearn", "pandas", "scipy", "PIL", "matplotlib"}
