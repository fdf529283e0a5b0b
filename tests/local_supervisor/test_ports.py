"""The ports of the load balancer, and the process of a local stack that has them."""

import json
from pathlib import Path

from local.__main__ import balancers


def test_a_load_balancer_is_known_by_its_ports_whatever_its_namespace(tmp_path: Path) -> None:
    specs = tmp_path / "supervisor" / "specs"
    specs.mkdir(parents=True)
    configuration = "frontend http\n  bind 127.0.0.1:8081\nfrontend https\n  bind 127.0.0.1:8443 ssl crt x\n"
    for name, text in {"edge.edge-haproxy": configuration, "mlflow.mlflow-1": "server 127.0.0.1:8081\n"}.items():
        (specs / f"{name}.json").write_text(json.dumps({"name": name, "files": {"/file": text}}))
    assert [*balancers(tmp_path, 8081)] == ["edge.edge-haproxy"]
    assert [*balancers(tmp_path, 8443)] == ["edge.edge-haproxy"]
    assert [*balancers(tmp_path, 808)] == []
