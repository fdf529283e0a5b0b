"""The unit tier: the whole program on mocks, in seconds."""

import sys
from pathlib import Path

if sys.dont_write_bytecode:
    # Compiling the providers' SDKs takes longer than all the tests together: where nothing may be written beside the sources,
    # the result goes into pytest's cache, before anything of the SDKs is imported.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[2] / ".pytest_cache" / "bytecode")
