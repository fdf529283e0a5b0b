"""Folders of the local stack.

They are outside the checkout. So `git clean` cannot remove a running database, and two checkouts share the tools.
"""

import hashlib
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Return the folder that holds the tools and every local stack of this user."""
    chosen = os.environ.get("MLFLOW_EKS_HOME")
    if chosen:
        return Path(chosen).resolve()
    # PostgreSQL refuses to run as root. For root it runs as another user, and that user cannot enter /root.
    if os.geteuid() == 0:
        return Path("/var/cache/mlflow-eks")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlflow-eks"


def tools_dir() -> Path:
    """Return the folder of the installed programs.

    It has one folder per tool and version, and all checkouts share it.
    """
    return home() / "tools"


def stack_dir() -> Path:
    """Return the folder of this checkout's local stack. Plugins get it from the environment of the engine."""
    chosen = os.environ.get("MLFLOW_EKS_STACK_DIR")
    if chosen:
        return Path(chosen)
    name = f"{CHECKOUT.name}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]}"
    return home() / "stacks" / name


def make_traversable(folder: Path) -> None:
    """Create a folder that the database's user may pass through but not list."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)


def make_private(folder: Path) -> None:
    """Create a folder that only its owner may enter."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
