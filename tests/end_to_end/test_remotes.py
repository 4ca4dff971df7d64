"""DVC's remotes as docs/at-scale.md sets them up: a folder, a real sshd and a bucket's server, both on loopback.

Another clone gets what one has pushed and runs nothing; what is damaged on the way does not count.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
import yaml
from clones import COMMANDS, IDLE, results, run
from conftest import ROOT

pytestmark = pytest.mark.slow
DOCUMENT = ROOT / "docs/at-scale.md"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
TRAINED = ["finetune@full-0", "segment@full-0"]
BACKBONE = "checkpoints/smallest/pretrain/full/seed-0"


@dataclass(frozen=True)
class Remote:
    """A place that is there, and the means to look at it other than DVC's.

    Attributes:
        replaced: what stands in the document for an example, and what it is here.
        secrets: of `replaced`, what must not reach git.
        write: an object's name, as md5 has it, and its new content.
    """

    address: str
    replaced: dict[str, str]
    write: Callable[[str, bytes], object]
    delete: Callable[[str], object]
    secrets: list[str] = field(default_factory=list)

    def configure(self, clone: Path) -> None:
        """Run the document's own commands for this kind of place."""
        block = next(b for b in blocks() if f" url {self.address}" in b)
        for example, real in self.replaced.items():
            assert example in block
            block = block.replace(example, real)
        run(clone, ["bash", "-euo", "pipefail", "-c", block])


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server process that answers on a port of loopback."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def in_folder(storage: Path, **further: object) -> Remote:
    def path(name: str) -> Path:
        return storage / "files/md5" / name[:2] / name[2:]

    def write(name: str, content: bytes) -> None:
        path(name).chmod(0o644)
        path(name).write_bytes(content)

    return Remote(write=write, delete=lambda name: path(name).unlink(), **further)


@contextmanager
def a_folder(folder: Path) -> Iterator[Remote]:
    example = "/shared/nepa"
    yield in_folder(folder / "storage", address=example, replaced={example: str(folder / "storage")})


@contextmanager
def a_server(folder: Path) -> Iterator[Remote]:
    if SSHD is None:
        pytest.skip("sshd is not installed; Debian's package is openssh-server")
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own, which the system's service would have made
    port = free_port()
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "PidFile": "none", "UsePAM": "no",
        "AuthorizedKeysFile": folder / "user.pub", "StrictModes": "no", "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password", "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    example = "ssh://someone@storage.example.org/shared/nepa"
    with served([SSHD, "-D", "-e", "-f", str(folder / "config")], port, folder / "log"):
        yield in_folder(
            folder / "storage",
            address=example,
            replaced={
                example: f"ssh://{user}@127.0.0.1{folder / 'storage'}",
                "port 22": f"port {port}",
                "~/.ssh/id_ed25519": str(folder / "user"),
            },
            secrets=[str(folder / "user"), (folder / "user").read_text().splitlines()[2]],
        )


@contextmanager
def a_bucket(folder: Path) -> Iterator[Remote]:
    port, key, secret = free_port(), secrets.token_hex(10), secrets.token_hex(20)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with served(command, port, folder / "log"):
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
        )
        client.create_bucket(Bucket="lab")

        def place(name: str) -> dict[str, str]:
            return {"Bucket": "lab", "Key": f"nepa/files/md5/{name[:2]}/{name[2:]}"}

        yield Remote(
            address="s3://bucket/nepa",
            replaced={
                "s3://bucket/nepa": "s3://lab/nepa",
                "https://s3.example.org": endpoint,
                " KEY": f" {key}",
                " SECRET": f" {secret}",
            },
            secrets=[key, secret],
            write=lambda name, content: client.put_object(**place(name), Body=content),
            delete=lambda name: client.delete_object(**place(name)),
        )


@pytest.fixture(scope="module", params=[a_folder, a_server, a_bucket], ids=["folder", "ssh", "s3"])
def remote(
    request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remote]:
    """A remote to which a copy of the finished repository has pushed; the folder of the copy is `pusher`."""
    folder = tmp_path_factory.mktemp("remote")
    with request.param(folder) as remote:
        yield remote


@pytest.fixture(scope="module")
def pusher(remote: Remote, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished repository, which has pushed to the remote."""
    folder = tmp_path_factory.mktemp("pusher") / "repository"
    shutil.copytree(finished, folder)
    remote.configure(folder)
    run(folder, ["dvc", "push", "--run-cache"])
    return folder


@pytest.fixture
def clone(pusher: Path, tmp_path: Path) -> Path:
    """A clone that has pulled nothing yet."""
    folder = tmp_path / "clone"
    run(tmp_path, ["git", "clone", "--quiet", str(pusher), str(folder)])
    shutil.copy(pusher / ".dvc/config.local", folder / ".dvc")  # configured alike
    return folder


def test_a_clone_pulls_and_runs_nothing(clone: Path, pusher: Path) -> None:
    assert not (clone / "checkpoints").exists()
    run(clone, ["dvc", "pull"])
    assert results(clone) == results(pusher)
    assert IDLE["dvc"] in run(clone, ["dvc", "status"])
    for engine, command in COMMANDS.items():
        assert IDLE[engine] in run(clone, command)
    assert not run(clone, ["git", "status", "--porcelain"])


def test_repro_fetches_instead_of_running(clone: Path, pusher: Path) -> None:
    shown = run(clone, ["dvc", "repro", "--pull"])
    assert "Running stage" not in shown and IDLE["dvc"] in shown
    assert results(clone) == results(pusher)


def test_the_run_cache_knows_what_the_ledger_does_not(clone: Path, pusher: Path) -> None:
    """With the ledger of the commit before: another fine-tuning, and neither segmentation nor report."""
    run(clone, ["git", "checkout", "--quiet", "HEAD~1"])
    run(clone, ["git", "checkout", "--quiet", "origin/HEAD", "--", "params.yaml"])
    shown = run(clone, ["dvc", "repro", "--pull", *TRAINED])
    assert "Running stage" not in shown
    for stage in TRAINED:
        assert f"Stage '{stage}' is cached - skipping run, checking out outputs" in shown
    expected = results(pusher)
    del expected["results/table.csv"]
    assert {name: (clone / name).read_bytes() for name in expected} == expected


def test_a_damaged_object_is_named_and_thrown_away(clone: Path, pusher: Path, remote: Remote) -> None:
    stage = yaml.safe_load((pusher / "dvc.lock").read_text())["stages"]["pretrain@full-0"]
    folder = next(out["md5"] for out in stage["outs"] if out["path"] == BACKBONE)
    path = Path(BACKBONE) / "backbone.safetensors"
    [entry] = [e for e in yaml.safe_load(cached(pusher, folder).read_text()) if e["relpath"] == path.name]
    content = cached(pusher, entry["md5"]).read_bytes()
    remote.write(entry["md5"], content[:-1] + bytes([content[-1] ^ 1]))
    try:
        shown = run(clone, ["dvc", "pull", "--verbose"], status=1)
        assert f"Checkout failed for following targets:\n{BACKBONE}" in shown
        assert f"corrupted cache file '{cached(clone, entry['md5'])}'" in shown
        assert not (clone / path).exists() and not cached(clone, entry["md5"]).exists()
        assert f"not in cache:       {BACKBONE}" in run(clone, ["dvc", "status"])
    finally:
        remote.delete(entry["md5"])
        remote.delete(folder)
    run(pusher, ["dvc", "push"])
    run(clone, ["dvc", "pull"])
    assert (clone / path).read_bytes() == content


def cached(clone: Path, name: str) -> Path:
    return clone / ".dvc/cache/files/md5" / name[:2] / name[2:]


def test_credentials_stay_out_of_git(pusher: Path, remote: Remote) -> None:
    local = (pusher / ".dvc/config.local").read_text()
    assert all(value.removeprefix("port ").strip() in local for value in remote.replaced.values())
    run(pusher, ["git", "add", "--all"])
    tracked = [(pusher / name).read_bytes() for name in run(pusher, ["git", "ls-files"]).splitlines()]
    history = run(pusher, ["git", "log", "--all", "--patch"])
    for secret in [*remote.secrets, *remote.replaced.values()]:
        assert secret not in history and not any(secret.encode() in content for content in tracked)
