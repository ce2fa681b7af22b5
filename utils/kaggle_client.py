"""Kaggle's own client, the program `kaggle`: where it is, whether it finds a token, what it answers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.errors import UserError

ADVICE = {
    "401": "the token was refused; make a new one in your Kaggle settings, under API",
    "403": "accept the competition's rules on its page at Kaggle first",
    "404": "no such competition; its name is the last part of its page's address",
}
"""Status that Kaggle answers with -> what helps."""
UNSAID = ("Could not submit", "Could not find competition", "User cancelled")
"""How the client says that it failed where its exit code does not."""
NO_TOKEN = (
    "no Kaggle token found; make one in your Kaggle settings, under API, and save it as ~/.kaggle/access_token "
    "(or set KAGGLE_API_TOKEN to it)"
)


def find_client() -> str:
    """The path of the client: the first on PATH, else the one beside this Python.

    Raises:
        UserError: it is not installed.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which("kaggle") or shutil.which("kaggle", path=beside)
    if found is None:
        raise UserError("the program kaggle is not installed; pip install -e '.[kaggle]'")
    return found


def check_token(environment: Mapping[str, str] = os.environ) -> None:
    """See that there is a token where the client looks for one; whether it is a good one, Kaggle says.

    Raises:
        UserError: there is none; the line says where it goes.
    """
    home = Path(environment.get("HOME") or Path.home())
    own = home / ".kaggle"
    elsewhere = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    settings = Path(environment.get("KAGGLE_CONFIG_DIR") or (own if own.exists() else elsewhere))
    files = [own / "access_token", own / "access_token.txt", own / "credentials.json", settings / "kaggle.json"]
    if notebook := environment.get("KAGGLE_API_V1_TOKEN"):  # in Kaggle's own notebooks
        files.append(Path(notebook))
    given = environment.get("KAGGLE_API_TOKEN") or (
        environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY")
    )
    if not given and not any(path.is_file() and path.stat().st_size for path in files):
        raise UserError(NO_TOKEN)


def ask_kaggle(client: str, words: Sequence[str]) -> str:
    """Run the client and return what it answers; on a terminal its progress bar is shown.

    Raises:
        UserError: it failed; the line has its reason, and what helps.
    """
    with subprocess.Popen(
        [client, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            errors = _echoed(child.stderr.fileno())
            answer = child.stdout.read().decode(errors="replace").strip()
        except BaseException:
            child.terminate()
            raise
    if child.returncode or any(text in answer for text in UNSAID):
        raise UserError(f"kaggle: {_reason(answer, errors)}")
    return answer


def _echoed(descriptor: int) -> str:
    """The last that a pipe had to say; a terminal sees all of it meanwhile, as a progress bar comes this way."""
    shown, tail = sys.stderr.isatty(), b""
    while chunk := os.read(descriptor, 4096):
        if shown:
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
        tail = (tail + chunk)[-4096:]
    return tail.decode(errors="replace").strip()


def _reason(answer: str, errors: str) -> str:
    if answer.startswith("Authentication required"):
        return ADVICE["401"]
    said = (errors or answer or "it failed without a word").splitlines()[-1].strip()
    advice = next((text for status, text in ADVICE.items() if said.startswith(f"{status} ")), None)
    return f"{said}; {advice}" if advice else said
