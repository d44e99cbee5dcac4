"""torch.compile of a trial's network, and where the compiled code is kept."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import cast

import torch
from torch import nn

from bench.errors import UserError


def keep_compiled_code(cache_root: Path) -> None:
    """Have torch keep what it compiles below `cache_root`: every process of a run shares it, and no home is filled.

    Where TORCHINDUCTOR_CACHE_DIR is set, that holds; unless torch did so, which sets it to a folder in /tmp as soon as
    torch._dynamo is imported (torch 2.15), as the first optimizer does.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, os.path.abspath(default_cache_dir())):  # noqa: PTH100
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_root.absolute() / "compiled")


def compiled(model: nn.Module, *, name: str, device: torch.device) -> nn.Module:
    """The network with its forward and backward pass compiled; it shares weights and statistics with `model`.

    `model` itself stays as it is, so that its state has the names that every trial's has, and evaluation runs it.
    name: of the network: the reference networks are known to be one graph, and one that breaks is an error; timm's may
    fall into several.
    Raises UserError where there is no C++ compiler for the code of a CPU.
    """
    import torch._inductor.config as inductor

    if device.type == "cpu":
        _check_compiler()
    # One process per trial, without helpers of its own: they would outlive it when it is killed.
    inductor.compile_threads = 1
    # Precompiled headers would lie in the system's folder for temporary files, wherever the cache is.
    inductor.cpp_cache_precompile_headers = False
    network = torch.compile(model, fullgraph=not name.startswith("timm/"), dynamic=False)
    return cast(nn.Module, network)


def _check_compiler() -> None:
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"training.compile needs a C++ compiler on a CPU, and {compiler!r} is not there: install one (g++ with "
            "Python's headers, on Debian and Ubuntu the packages g++ and python3-dev; the command line tools of Xcode "
            "on a Mac), name one in CXX, or leave out training.compile"
        )
