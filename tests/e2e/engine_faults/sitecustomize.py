"""On a worker's PYTHONPATH, breaks its engine once, when the file that FAULT_FILE names appears.

The file's content says how. The next worker process finds no file, and works.
"""

import os
import sys
import time
from pathlib import Path

if "worker.main" in sys.orig_argv:
    import torch

    from worker.engine.engine import Engine
    from worker.engine.slot_runner import SlotRunner

    _fault = Path(os.environ["FAULT_FILE"])
    _step = Engine.step
    _run = SlotRunner.run

    def _faulty_step(engine):
        if _fault.exists():
            how = _fault.read_text()
            _fault.unlink()
            if how == "raise":
                raise RuntimeError("the engine has a bug")
            if how == "hang":
                time.sleep(3600)
            if how == "lose the device":
                SlotRunner.run = _lost
        return _step(engine)

    def _lost(runner, chunks):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    Engine.step = _faulty_step
