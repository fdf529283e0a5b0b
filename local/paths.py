"""Where the local stack lives on disk.

Everything is outside the checkout, so that `git clean` cannot remove a running database and two checkouts can share the tools.
"""

import hashlib
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """The folder that holds the tools and every local stack of this user."""
    chosen = os.environ.get("MLFLOW_EKS_HOME")
    if chosen:
        return Path(chosen).resolve()
    # PostgreSQL refuses to run as root, so root's runs as another user, who cannot enter /root.
    if os.geteuid() == 0:
        return Path("/var/cache/mlflow-eks")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlflow-eks"


def tools_dir() -> Path:
    """The programs the local stack needs, one folder per tool and version, shared by all checkouts."""
    return home() / "tools"


def stack_dir() -> Path:
    """The folder of this checkout's local stack; a plugin gets it from the command that started the engine."""
    given = os.environ.get("MLFLOW_EKS_STACK_DIR")
    if given:
        return Path(given)
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
