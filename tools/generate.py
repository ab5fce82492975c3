"""Generates gen/ from protos/: Python messages, services and typed stubs, Go messages and gateway, OpenAPI.

The same protos and the same lock files give the same bytes, so `make check` can compare. Everything is
generated into a temporary folder first and moved into place when all of it succeeded: a proto that does not
compile leaves gen/ as it was.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
FOREIGN_PROTOS = ROOT / "third_party" / "protos"
ENVOY_PROTOS = FOREIGN_PROTOS / "envoyproxy"
SCRIPTS = Path(sys.executable).parent


def main() -> None:
    """Replaces python/, go/ and openapi/ under --out (default: gen/)."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "gen", help="where to write (default: gen/)")
    out = parser.parse_args().out
    (ROOT / ".build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".build") as folder:
        fresh = Path(folder)
        generate_python(fresh / "python")
        generate_go_and_openapi(fresh)
        out.mkdir(parents=True, exist_ok=True)
        for part in ("python", "go", "openapi"):
            shutil.rmtree(out / part, ignore_errors=True)
            shutil.move(fresh / part, out / part)


def generate_python(out: Path) -> None:
    """Writes the import packages `tollbook` and, of the protos of others that no distribution brings along without
    claiming names that are not its own, `envoyproxy`; google.api and google.rpc come from googleapis-common-protos.
    """
    out.mkdir(parents=True)
    protos = sorted(str(path) for root in (PROTOS, ENVOY_PROTOS) for path in root.rglob("*.proto"))
    run(
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={PROTOS}",
        f"--proto_path={FOREIGN_PROTOS}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *protos,
    )
    for folder in sorted({path.parent for path in out.rglob("*_pb2.py")}):
        for package in (folder, *folder.parents):
            if package == out:
                break
            (package / "__init__.py").touch()
    for name in ("tollbook", "envoyproxy"):
        (out / name / "py.typed").touch()


def generate_go_and_openapi(out: Path) -> None:
    """Writes go/ and openapi/ as buf.gen.yaml says, then tidies the merged document."""
    print("generate: Go and OpenAPI (the first time, this compiles the plugins: a minute or so)", flush=True)
    run(str(SCRIPTS / "buf"), "generate", "protos", "--template", "buf.gen.yaml", "--output", str(out))
    document = out / "openapi" / "tollbook.swagger.json"
    api = json.loads(document.read_text())
    # The plugin also lists the services that have no path, and writes < and > as escapes.
    used = {tag for path in api["paths"].values() for operation in path.values() for tag in operation["tags"]}
    api["tags"] = [tag for tag in api["tags"] if tag["name"] in used]
    document.write_text(json.dumps(api, indent=2, ensure_ascii=False) + "\n")


def run(*command: str) -> None:
    """Runs one generator from the checkout, with .venv's plugins first on PATH; its failure is ours."""
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if result.returncode:
        sys.exit(result.returncode)


if __name__ == "__main__":
    main()
