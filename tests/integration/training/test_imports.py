from __future__ import annotations

import json
import subprocess
import sys

ALL_OF_TRAINING = """
import json, pkgutil, sys, warnings
from importlib import import_module
import training

for module in pkgutil.walk_packages(training.__path__, "training."):
    if not module.name.endswith(".__main__"):
        import_module(module.name)
import_module("training.__main__")
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] == "service")))
"""


def test_all_of_training_loads_nothing_of_the_service_but_contract_and_stores() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALL_OF_TRAINING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert {name.split(".")[1] for name in loaded if "." in name} == {"contract", "stores"}
