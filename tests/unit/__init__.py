"""The unit tier: the whole program on mocks, in seconds."""

import gc
import sys
from pathlib import Path

# A run of the program leaves some hundred thousand objects of the SDKs behind that stay for good: look for garbage less often.
gc.set_threshold(100_000, 20, 100)

if sys.dont_write_bytecode:
    # Compiling the providers' SDKs takes longer than all the tests together: where nothing may be written beside the sources,
    # the result goes into pytest's cache, before anything of the SDKs is imported.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[2] / ".pytest_cache" / "bytecode")
