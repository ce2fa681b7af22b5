"""Test the Docker image and its services: their commands in a clean folder, and how Docker's programs read them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.container import copy_kept, instructions, kept, programs_folder, rules_of, sent_by_docker
from helpers.scripts import ROOT
from helpers.waiting import HANGS

import report
from utils.core.cli import parse

STEPS = instructions()
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
NAMES = ("shell", "train", "tensorboard", "report", "notebook")
SOURCES = ("train.py", "net/loops.py", "utils/report/page.css", "recipes/demo.sh", "requirements.txt")
PRIVATE = (
    *(".env", ".git/config", ".venv/bin/python", "data/train.csv", "demo/masks.npy", "nuclei/a.png", "mlflow.db"),
    *("experiments/a_fold0/state.pt", "submissions/a.csv", "masks.npy", "net/__pycache__/engine.pyc", "report.html"),
)
INSTALL_CRF = "uv pip install --quiet --python /opt/venv/bin/python --no-deps pydensecrf2"
ON_A_REAL_SYSTEM = ("apt-get", "useradd", "pip install", INSTALL_CRF)
"""Steps that a test cannot run because they need root or the network."""


def moved(text, root):
    """Return a step of the Dockerfile with its absolute folders moved below `root`."""
    return re.sub(r"(?<![\w/.])/(?=opt|home|strata)", f"{root}/", text)


def take_steps(root):
    """Run the steps of the Dockerfile below `root`; return the environment variables of the image."""
    programs = programs_folder(root / "programs")
    (programs / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    (programs / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    asked = subprocess.run([programs / "uv", "cache", "dir"], capture_output=True, text=True, check=True)
    cache = Path(asked.stdout.strip())
    one_disk = cache.is_dir() and cache.stat().st_dev == root.stat().st_dev
    of_the_test = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(cache)}
    of_the_test["UV_LINK_MODE"] = "hardlink" if one_disk else "symlink"  # avoids a copy of 6 GB
    of_the_test["UV_COMPILE_BYTECODE"] = "0"  # takes minutes and tests nothing
    image = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(root), "LANG": "C.UTF-8"}
    (root / "strata").mkdir()
    for _stage, word, rest in STEPS:
        words = [part for part in moved(rest, root).split() if not part.startswith("--")]
        if word == "RUN" and not rest.startswith(ON_A_REAL_SYSTEM):
            command = ["sh", "-c", moved(rest, root)]
            done = subprocess.run(command, cwd=root, env=image | of_the_test, capture_output=True, text=True)
            if "network was disabled" in done.stderr:
                pytest.skip("uv's cache does not hold all of requirements.txt, and tests do not use the network")
            assert done.returncode == 0, done.stderr
        elif word == "ENV":
            for name, _, value in (setting.partition("=") for setting in words):
                image[name] = value.replace("$PATH", image["PATH"])
        elif word == "COPY" and words == [".", "."]:
            copy_kept(root / "strata")
        elif word == "COPY" and "--from=" not in rest:
            shutil.copy(ROOT / words[0], words[1])
    return image


def test_the_steps_of_the_image_run_in_a_clean_folder(tmp_path):
    image, folder = take_steps(tmp_path), tmp_path / "strata"
    for command in (
        "python utils/make_demo.py --out_dir data --n_train 4 --n_test 2",
        "python utils/stack_and_save.py --data_dir data",
        "cd recipes && python -c 'import cv2, net.geometry, train'",
        "python train.py --help",
    ):
        done = subprocess.run(["sh", "-c", command], cwd=folder, env=image, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (folder / "data" / "train_images.npy").is_file()
    asked = "import sys; from importlib.metadata import version; print(sys.prefix, version('torch'))"
    done = subprocess.run(["python", "-c", asked], env=image, capture_output=True, text=True, check=True)
    (pinned,) = re.findall(r"^torch==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert done.stdout.split() == [str(tmp_path / "opt" / "venv"), pinned]
    shutil.rmtree(tmp_path / "opt")  # 60,000 links


def test_a_change_of_the_code_reinstalls_nothing():
    last = max(stage for stage, _, _ in STEPS)
    (installed,) = (place for place, (_, word, rest) in enumerate(STEPS) if word == "RUN" and "requirements" in rest)
    whole = [place for place, (_, word, rest) in enumerate(STEPS) if word == "COPY" and rest.split()[-2:] == [".", "."]]
    assert len(whole) == 1
    assert whole[0] > installed
    assert not [rest for _, word, rest in STEPS[whole[0] :] if word == "RUN"]
    left = " ".join(rest for stage, word, rest in STEPS if stage == last and word == "RUN")
    assert "pip" not in left
    assert "rm -rf /var/lib/apt/lists/*" in left


def test_the_image_does_not_run_as_root_and_installs_as_make_does():
    users = [rest for _, word, rest in STEPS if word == "USER"]
    assert users[-1] not in ("root", "0")
    makefile, installing = (ROOT / "Makefile").read_text(), " ".join(rest for _, word, rest in STEPS if word == "RUN")
    (pinned,) = re.findall(r"^UV := (\S+)", makefile, flags=re.MULTILINE)
    assert pinned in installing.split()
    assert "--require-hashes -r /opt/requirements.txt" in installing
    bases = {rest.split()[0] for _, word, rest in STEPS if word == "FROM"}
    assert len(bases) == 1  # the environment is copied between stages, and its links need the same Python


@pytest.fixture
def checkout(tmp_path):
    """Create a folder with examples of all files in a checkout, private ones included."""
    for name in (*SOURCES, *PRIVATE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    return tmp_path


def test_the_image_takes_the_code_and_nothing_private():
    assert kept([*SOURCES, *PRIVATE], rules_of()) == set(SOURCES)
    for rule in rules_of():
        if rule.startswith("!") and "*" not in rule:
            assert (ROOT / rule.lstrip("!")).exists(), rule
    scripts = {path.name for path in ROOT.glob("*.py")}
    assert kept(scripts, rules_of()) == scripts
    copied = {rest.split()[-2] for _, word, rest in STEPS if word == "COPY" and "--from=" not in rest}
    assert copied == {"requirements.txt", "."}
    assert kept(["requirements.txt"], rules_of())


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_docker_itself_sends_the_code_and_nothing_private(checkout):
    assert sent_by_docker(checkout) - {"Dockerfile", ".dockerignore"} == set(SOURCES)


def test_the_services_are_complete_with_and_without_a_gpu():
    assert set(SERVICES) == {*NAMES, "shell-gpu", "train-gpu", "notebook-gpu"}
    for name, service in SERVICES.items():
        if name.endswith("-gpu"):
            (device,) = service["deploy"]["resources"]["reservations"]["devices"]
            assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
            same = {key: value for key, value in service.items() if key not in ("deploy", "profiles")}
            assert same == {key: value for key, value in SERVICES[name[:-4]].items() if key != "profiles"}
            assert service["profiles"]
        else:
            assert "deploy" not in service
        assert service["volumes"][0] == ".:/strata"
        assert service["user"] == "${HOST_UID:-1000}:${HOST_GID:-1000}"
        assert "shm_size" in service
    started_by_up = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert started_by_up == {"tensorboard", "report", "notebook"}


@pytest.mark.parametrize("name", ["tensorboard", "report", "notebook"])
def test_a_page_is_served_to_this_machine_only(name):
    (published,) = SERVICES[name]["ports"]
    port = re.search(r"--port (\S+)", SERVICES[name]["command"])[1]
    assert published == f"127.0.0.1:{port}:{port}"
    assert re.fullmatch(rf"\$\{{{name.upper()}_PORT:-\d+\}}", port)


def test_the_services_start_scripts_and_programs_that_exist():
    for service in SERVICES.values():
        command = service.get("entrypoint") or service.get("command", "bash").split()
        program, *words = command
        if program == "python":
            assert (ROOT / words[0]).is_file()
        elif program != "bash":
            assert Path(sys.executable).with_name(program).is_file()
    words = SERVICES["report"]["command"].replace("${REPORT_PORT:-8080}", "8080").split()
    asked = parse(report.Settings, words[2:])
    assert asked.watch
    assert (asked.host, asked.port) == ("0.0.0.0", 8080)


def compose_program():
    """Return the words that start docker compose on this machine; None if it is not installed."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.mark.skipif(compose_program() is None, reason="docker compose is not installed")
def test_docker_compose_reads_the_services(tmp_path):
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    environment = {**os.environ, "HOST_UID": "1234", "HOST_GID": "99", "REPORT_PORT": "8123"}
    words = [*compose_program(), "--profile", "on-demand", "config"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert set(read) == set(SERVICES)
    assert {service["user"] for service in read.values()} == {"1234:99"}
    assert "8123" in str(read["report"]["ports"])
    assert "127.0.0.1" in str(read["report"]["ports"])
    (device,) = read["train-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def make(*words, path):
    command, environment = [shutil.which("make"), *words], {"PATH": str(path)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANGS)


def test_make_starts_compose_with_the_ids_of_the_calling_user(tmp_path):
    docker = f'[ "$2" = version ] || [ "$1" = version ] || echo "$@ $HOST_UID:$HOST_GID" >> {tmp_path / "calls"}'
    programs = programs_folder(tmp_path / "programs", docker=docker)
    for words in (["build"], ["shell"], ["shell", "GPU=1"]):
        done = make(*words, path=programs)
        assert done.returncode == 0, done.stderr
    owner = f"{os.getuid()}:{os.getgid()}"
    calls = (tmp_path / "calls").read_text().splitlines()
    starts = ("compose build shell", "compose run --rm shell", "compose run --rm shell-gpu")
    assert calls == [f"{start} {owner}" for start in starts]


@pytest.mark.parametrize("docker", [None, "exit 1", '[ "$1" = version ]', '[ "$1" = compose ]'])
def test_make_without_docker_fails_with_one_line(tmp_path, docker):
    """Cases: no docker; no engine; no compose plugin; the plugin without an engine."""
    programs = {} if docker is None else {"docker": docker}
    done = make("build", path=programs_folder(tmp_path / "programs", **programs))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no running Docker engine with the compose plugin" in line


def test_make_has_targets_for_each_page_and_for_format():
    done = make(
        "--dry-run", "tensorboard", "report", "notebook", "format", "LOGDIR=runs", "RUNS=a b", path=os.environ["PATH"]
    )
    assert done.returncode == 0, done.stderr
    for command in (
        "/tensorboard --logdir runs",
        "/python report.py a b",
        "/jupyter notebook notebooks/first_look.ipynb",
        "/ruff check --fix .",
        "/ruff format .",
    ):
        assert command in done.stdout
