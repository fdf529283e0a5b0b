"""Run each script in a fork of a process that has imported MLflow, whose import takes seconds of CPU.

It runs in the virtualenv of an MLflow. Its standard input is a socket. A request is a line of JSON there: the script, its environment and
the files of its output. The answer is a line with the exit status.
"""

import json
import os
from typing import Any

# The virtualenv of this checkout has no MLflow.
import mlflow  # noqa: F401 # pyright: ignore[reportMissingImports, reportUnusedImport]


def next_request() -> dict[str, Any] | None:
    """Answer requests until the socket is closed. Return each request in its fork, and None in this process."""
    # Without a buffer, no fork has read a part of the requests that follow.
    with os.fdopen(0, "rb", buffering=0, closefd=False) as requests:
        while line := requests.readline():
            fork = os.fork()
            if not fork:
                return json.loads(line)
            os.write(0, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))
    return None


if request := next_request():
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, file in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), descriptor)
    # The script is the test's own. The fork ends as any interpreter does, with what MLflow does at the exit.
    exec(compile(request["script"], "<script>", "exec"), {"__name__": "__main__"})  # noqa: S102
