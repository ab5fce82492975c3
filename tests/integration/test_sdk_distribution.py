"""What `pip install ./sdks/python` gives: built and installed from this checkout, and used without it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.e2e.running_suite import CHECKOUT

SDK = CHECKOUT / "sdks" / "python"
# No isolation: hatchling is in the environment already, so that a test needs no package registry.
_BUILD = [sys.executable, "-m", "hatchling", "build", "-d"]
_UV = [sys.executable, "-m", "uv"]
# Only what the SDK itself may stand on; in particular no kit and no services.
_USE = """
import sys
sys.path.insert(0, sys.argv[1])
from tollbook_sdk import Settings, Subject, Tollbook
from tollbook_sdk.memory import MemorySuite
suite = MemorySuite({"concurrent_agents": 1})
with Tollbook(Settings(quota="q:1", metering="m:1", check_budget_seconds=60), suite=suite) as tollbook:
    with tollbook.metered_task(Subject(task_id="t-1")):
        tollbook.record({"api_calls": 2})
    assert tollbook.flush(60)
assert suite.recorded("api_calls") == 2
assert not {"kit", "services", "cli"} & set(sys.modules)
print(sys.modules["tollbook_sdk"].__file__, sys.modules["tollbook"].__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([*_BUILD, str(folder)], cwd=SDK, check=True, capture_output=True)
    return {path.suffix: path for path in folder.iterdir()}


def test_the_wheel_runs_by_itself_in_an_empty_folder(built: dict[str, Path], tmp_path: Path) -> None:
    # Installed, and found before this environment's own copies; grpc and protobuf are the environment's.
    install = [*_UV, "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, str(built[".whl"])], check=True, capture_output=True)
    program = [sys.executable, "-I", "-c", _USE, str(tmp_path)]
    used = subprocess.run(program, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert used.split() == [
        str(tmp_path / "tollbook_sdk" / "__init__.py"),
        str(tmp_path / "tollbook" / "__init__.py"),
    ]


def test_the_wheel_holds_the_layer_the_generated_core_their_types_and_the_licence(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = set(wheel.namelist())
    generated = {
        str(path.relative_to(CHECKOUT / "gen" / "python"))
        for path in (CHECKOUT / "gen" / "python" / "tollbook").rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi", ".typed"}
    }
    written = {str(path.relative_to(SDK)) for path in (SDK / "tollbook_sdk").rglob("*.py")}
    assert generated | written | {"tollbook_sdk/py.typed"} <= names
    others = {name for name in names if not name.startswith(("tollbook/", "tollbook_sdk/"))}
    assert {name.split("/")[0] for name in others} == {"tollbook_sdk-0.1.0.dist-info"}
    assert "tollbook_sdk-0.1.0.dist-info/licenses/LICENSE" in others


def test_the_source_distribution_builds_the_same_wheel_away_from_the_checkout(
    built: dict[str, Path], tmp_path: Path
) -> None:
    with tarfile.open(built[".gz"]) as source:
        source.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = tmp_path / "again"
    subprocess.run([*_BUILD, str(again), "-t", "wheel"], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = again.iterdir()
    assert _contents(wheel) == _contents(built[".whl"])


def _contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist()}
