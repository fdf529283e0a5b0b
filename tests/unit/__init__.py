"""The unit tier: the whole program on mocks, in seconds."""

import gc
import sys
from pathlib import Path

# A run of the program leaves some hundred thousand objects of the SDKs that are never freed, so collect garbage less
# often.
gc.set_threshold(100_000, 20, 100)

if sys.dont_write_bytecode:
    # Compiling the providers' SDKs takes longer than all tests together. If bytecode may not be written beside the
    # sources, it goes into pytest's cache. This must be set before the SDKs are imported.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[2] / ".pytest_cache" / "bytecode")
