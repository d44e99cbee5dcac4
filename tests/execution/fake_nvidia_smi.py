"""An executable in the place of nvidia-smi: this project is tested on machines without a GPU.

It answers what the real one does to `--query-gpu=FIELDS --format=csv,noheader[,nounits]` and to `-L`, and refuses a
field that it does not know as the real one does.
"""

import json
import stat
import sys
from pathlib import Path

H100 = {"name": "NVIDIA H100 80GB HBM3", "memory.total": 81559, "memory.free": 81007, "mig.mode.current": "Disabled"}

SCRIPT = """\
#!{python} -S
import json, sys
from pathlib import Path

gpus = json.loads(Path(__file__).with_name("gpus.json").read_text())
options = dict(part.partition("=")[::2] for part in sys.argv[1:])
if "-L" in options:
    for gpu in gpus:
        print(f"GPU {{gpu['index']}}: {{gpu['name']}} (UUID: {{gpu['uuid']}})")
        for place, (profile, uuid) in enumerate(gpu.get("instances", [])):
            print(f"  MIG {{profile:<11}} Device {{place:>2}}: (UUID: {{uuid}})")
    sys.exit()
fields = options["--query-gpu"].split(",")
style = options["--format"].split(",")
assert "csv" in style and "noheader" in style, style
for field in fields:
    if field not in gpus[0]:
        print(f'Field "{{field}}" is not a valid field to query.')
        sys.exit(2)
for gpu in gpus:
    units = {{field: " MiB" * (field.startswith("memory") and "nounits" not in style) for field in fields}}
    print(", ".join(f"{{gpu[field]}}{{units[field]}}" for field in fields))
"""


def install(folder: Path, *gpus: dict[str, object]) -> Path:
    """Put it into `folder`, which is to lead PATH; each of `gpus` is an H100 with what is given in place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"index": index, "uuid": f"GPU-{index}aaa1111-22", **H100, **gpu} for index, gpu in enumerate(gpus)]
    (folder / "gpus.json").write_text(json.dumps(listed))
    script = folder / "nvidia-smi"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    return script
