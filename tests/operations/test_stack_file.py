from pathlib import Path

import pytest

from operations import stack_file


def test_a_file_that_pulumi_has_written_is_read_as_pulumi_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `pulumi config set` turns the booleans of the whole file into strings.
    written = (stack_file.ROOT / "Pulumi.dev.yaml").read_text().replace("protect: false", 'protect: "false"')
    assert '"false"' in written
    (tmp_path / "Pulumi.dev.yaml").write_text(f"{written}secretsprovider: awskms://alias/pulumi\n")
    monkeypatch.setattr(stack_file, "ROOT", tmp_path)
    assert stack_file.read("dev").protect is False
