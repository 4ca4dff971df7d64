"""No key, password or token in what git has of this project, and no command of its documents would put one there."""

import configparser
import re
import subprocess

import pytest
from conftest import ROOT

KEYS = re.compile(
    rb"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"  # S3
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY"
    rb"|gh[pousr]_[0-9A-Za-z]{30}|glpat-[0-9A-Za-z_-]{20}|hf_[0-9A-Za-z]{30}|AIza[0-9A-Za-z_-]{30}"
    rb"|(?i:(?:secret|password|passphrase|token)[a-z_]*['\"]?\s*[=:]\s*['\"]?[0-9a-z+/]{20})"
    rb"|[a-z]+://[^/\s:@]+:[^/\s@{$]+@"  # an address with a password
)


def found(content: bytes) -> list[bytes]:
    return KEYS.findall(content)


@pytest.mark.parametrize(
    "content",
    [
        "AKIA" + "ABCDEFGH" * 2,
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "secret_access_key = " + "abcde12345" * 4,
        '"password": "' + "abcde12345" * 2 + '"',
        "ssh://someone:" + "word@storage.example.org/nepa",
    ],
)
def test_a_key_is_recognised(content: str) -> None:
    assert found(content.encode())


def test_no_tracked_file_holds_a_key() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git repository")
    names = list(filter(None, listed.stdout.split("\0")))
    assert names
    assert {name: found((ROOT / name).read_bytes()) for name in names if found((ROOT / name).read_bytes())} == {}


def test_the_tracked_configuration_of_remotes_has_no_place_for_one() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert {section: set(config[section]) for section in config.sections()} == {
        "core": {"analytics", "remote"},
        "'remote \"storage\"'": {"url", "verify"},
    }
    assert subprocess.run(["git", "check-ignore", "-q", ".dvc/config.local"], cwd=ROOT).returncode == 0


def test_the_documents_configure_remotes_outside_git_only() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    commands = [
        c for d in documents for c in re.findall(r"dvc (?:remote (?:add|modify)|config) [^`\n]*", d.read_text())
    ]
    assert commands and all("--local" in command for command in commands)
