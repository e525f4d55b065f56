from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import uv

pytestmark = pytest.mark.network
PACKAGES = ["matplotlib", "threadpoolctl", "huggingface_hub"]
TOO_LATE = {
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "svg",
    "MPLCONFIGDIR": "/tmp/elsewhere",
    "HF_HOME": "/elsewhere",
    "HF_ENDPOINT": "http://elsewhere",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}
OBEYED = {"HF_TOKEN": "token", "HTTPS_PROXY": "http://proxy:1"}
LOOK = """
import json, os, sys
moment, variables = sys.argv[1], json.loads(sys.argv[2])
if moment == "before": os.environ.update(variables)
import urllib.request
import huggingface_hub, matplotlib, matplotlib.pyplot, numpy, threadpoolctl
from huggingface_hub import constants
if moment == "after": os.environ.update(variables)
print(json.dumps({
    "OPENBLAS_NUM_THREADS": str(threadpoolctl.threadpool_info()[0]["num_threads"]),
    "MPLBACKEND": matplotlib.get_backend(),
    "MPLCONFIGDIR": matplotlib.get_configdir(),
    "HF_HOME": constants.HF_HOME,
    "HF_ENDPOINT": constants.ENDPOINT,
    "HF_HUB_OFFLINE": str(int(constants.HF_HUB_OFFLINE)),
    "PYTHONHASHSEED": str(sys.flags.hash_randomization),
    "HF_TOKEN": huggingface_hub.get_token(),
    "HTTPS_PROXY": urllib.request.getproxies().get("https"),
}))
"""


def test_variables_that_a_warm_interpreter_has_read(tmp_path: Path) -> None:
    """The variables that the docs say are too late after the warm-up change nothing then, those that
    they say are obeyed are; before it all count but Python's own."""
    tool, python = uv.find_uv_bin(), str(tmp_path / "bin" / "python")
    subprocess.run([tool, "venv", "--quiet", tmp_path], check=True)
    words = [tool, "pip", "install", "--quiet", "--python", python, *PACKAGES]
    subprocess.run(words, check=True)
    outside = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def seen(moment: str) -> dict[str, str]:
        words = [python, "-W", "ignore", "-c", LOOK, moment, json.dumps(TOO_LATE | OBEYED)]
        # Two threads, on a machine of one processor, too, until the variable says one.
        env = outside | ({} if moment == "before" else {"OPENBLAS_NUM_THREADS": "2"})
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=env)
        variables: dict[str, str] = json.loads(done.stdout)
        return variables

    never, after, before = seen("never"), seen("after"), seen("before")
    assert {name: after[name] for name in TOO_LATE} == {name: never[name] for name in TOO_LATE}
    assert {name: after[name] for name in OBEYED} == OBEYED
    expected = TOO_LATE | {"PYTHONHASHSEED": never["PYTHONHASHSEED"]}
    assert {name: before[name] for name in TOO_LATE} == expected
