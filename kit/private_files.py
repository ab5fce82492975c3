"""Small files that only their owner may read: passwords, keys, addresses that carry them."""

import contextlib
import os
import secrets
from pathlib import Path

_PASSWORD_BYTES = 32


def make_private_folder(path: Path) -> None:
    """Create the folder, with its missing parents, so that only its owner may enter it.

    A folder that exists is left as it is: its rights are its owner's choice.
    """
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)


def write_private_file(path: Path, text: str) -> None:
    """Replace the file as a whole, mode 0600: there is the old text or the new, also after a power cut."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def kept_password(path: Path) -> str:
    """Return the password kept in the file; on first use make one, of 256 bits that are safe in any URL."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        make_private_folder(path.parent)
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        write_private_file(path, password)
        return password
