from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Command
from tests.support.files import files_with

CANARY = "canary-4f1c9a77-of-the-environment"
SECRETS = {
    "SOME_API_KEY": CANARY,
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "HF_TOKEN": CANARY,
    "MY_PASSWORD": CANARY,
}


@pytest.mark.network
def test_secrets_of_the_environment_stay_there(
    project: Path, command: Command, new_cache: Path
) -> None:
    """No command on `local` writes a secret of the environment into a file, environment, log,
    registry or output."""
    (project / "variants" / "other.toml").unlink()
    secrets = SECRETS | {"TEMPLATE_BUILDER_CACHE_DIR": str(new_cache)}
    outputs = []
    for arguments in (
        ["build", "--target", "local"],
        ["plan", "--json", "--target", "local"],
        ["verify", "light", "--target", "local"],
        ["promote", "light", "--channel", "prod"],
        ["revoke", "light", "prod", "--reason", "x"],
        ["restore", "light", "prod"],
        ["show", "light", "--json"],
        ["show", "light", "--sbom"],
        ["logs", "light"],
        ["doctor"],
        ["gc", "--dry-run", "--protect-days", "0", "--target", "local"],
        ["plan", "--target", "e2b"],
        ["adopt", "x", "abc", "--unchecked"],
    ):
        done = command(*arguments, cwd=project, **secrets)
        assert "Traceback" not in done.stderr
        outputs.append(done.stdout + done.stderr)
    assert (project / "registry.json").exists()
    assert not [text for text in outputs if CANARY in text]
    assert files_with(CANARY, project, new_cache) == []
