"""deploy/Dockerfile carried out without Docker: its steps, in roots overlaid on this machine's.

The machine's root stands for the base image, with this Python in /usr/local; what a step writes
goes to memory and ends with the test. It takes root and Linux.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_HOLD = "mount -t tmpfs none /mnt && echo ready && exec sleep 600"


def can_build() -> bool:
    """Tell whether namespaces may be made here, and whether this is the image's Python."""
    if os.geteuid() != 0 or sys.version_info[:2] != (3, 11):
        return False
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(probe, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def instructions(text: str) -> list[tuple[str, str]]:
    """Read a Dockerfile into its instructions and their arguments."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    pairs = (line.split(None, 1) for line in lines if line.strip())
    return [(name.upper(), rest.strip()) for name, rest in pairs]


@dataclass(slots=True)
class Stage:
    root: str
    """Below the holder's root."""
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)


def image_facts() -> Stage:
    """Return what the last stage declares, without carrying anything out."""
    stage = Stage("")
    for name, rest in instructions(DOCKERFILE.read_text()):
        stage = Stage("") if name == "FROM" else stage
        _declare(stage, name, rest)
    return stage


class Image:
    """The last stage of deploy/Dockerfile, made from the files that .dockerignore lets in."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _HOLD], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        self._stages: dict[str, Stage] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        try:
            assert self._holder.stdout.readline() == b"ready\n"
            self.stage = self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        self._said.close()

    def path(self, inside: str) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self.stage.root}{inside}")

    def seal(self, *volumes: str) -> None:
        """Make the root read-only, but for volumes, which begin as the image's directories are."""
        for volume in volumes:
            found = self.path(volume).stat()
            owned = f"uid={found.st_uid},gid={found.st_gid},mode={found.st_mode & 0o777:o}"
            at = self.stage.root + volume
            self._in_holder("mount", "-t", "tmpfs", "-o", owned, "none", at)
        self._in_holder("mount", "-o", "remount,ro", self.stage.root)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a container would: as the image's user, without any privilege."""
        return subprocess.run(
            self._contained(command), check=False, capture_output=True, text=True, timeout=60
        )

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._contained(command), stdout=self._said, stderr=subprocess.STDOUT
        )
        self._processes.append(process)
        return process

    def said(self) -> str:
        """Return what started processes wrote."""
        return os.pread(self._said.fileno(), 1_000_000, 0).decode(errors="replace")

    def _build(self) -> Stage:
        stage = Stage("")
        for name, rest in instructions(DOCKERFILE.read_text()):
            match name:
                case "FROM":
                    stage = self._begin(rest)
                case "RUN":
                    self._run_step(stage, rest)
                case "WORKDIR":
                    stage.workdir = rest
                    self._in_holder("mkdir", "-p", stage.root + rest)
                case "COPY":
                    self._copy(stage, shlex.split(rest))
                case _:
                    _declare(stage, name, rest)
        return stage

    def _begin(self, rest: str) -> Stage:
        number = len(self._stages)
        stage = Stage(f"/mnt/{number}/root")
        at = f"/mnt/{number}"
        self._in_holder("mkdir", "-p", stage.root, f"{at}/upper", f"{at}/work")
        layers = f"lowerdir=/,upperdir={at}/upper,workdir={at}/work"
        self._in_holder("mount", "-t", "overlay", "overlay", "-o", layers, stage.root)
        if sys.base_prefix != "/usr/local":
            at_base = f"{stage.root}/usr/local"
            self._in_holder("mount", "--bind", "-o", "ro", sys.base_prefix, at_base)
            stage.env["LD_LIBRARY_PATH"] = "/usr/local/lib"  # it may name its library by path
        self._in_holder("mount", "--rbind", "/dev", f"{stage.root}/dev")
        self._in_holder("mount", "-t", "proc", "proc", f"{stage.root}/proc")
        self._in_holder("mount", "-t", "tmpfs", "none", f"{stage.root}/tmp")
        self._stages[rest.partition(" AS ")[2] or str(number)] = stage
        return stage

    def _run_step(self, stage: Stage, script: str) -> None:
        # Which index pip asks is this machine's affair.
        env = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        told = [f"{name}={value}" for name, value in (env | stage.env).items()]
        step = f"cd {shlex.quote(stage.workdir)} && {script}"
        self._in_holder("chroot", stage.root, "env", "-i", *told, "sh", "-ec", step)

    def _copy(self, stage: Stage, words: list[str]) -> None:
        chosen = next((one for one in words if one.startswith("--from=")), None)
        *sources, target = [one for one in words if not one.startswith("--")]
        holder = f"/proc/{self._holder.pid}/root"
        base = ROOT
        if chosen is not None:
            base = Path(holder + self._stages[chosen.removeprefix("--from=")].root)
        to = Path(f"{holder}{stage.root}{os.path.join(stage.workdir, target)}")  # noqa: PTH118
        for source in sources:
            found = base / source.lstrip("/")
            if chosen is None:
                assert is_let_in(source), f".dockerignore keeps {source} out"
            if found.is_dir():
                ignored = shutil.ignore_patterns("__pycache__") if chosen is None else None
                shutil.copytree(found, to, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy2(found, to)

    def _contained(self, command: tuple[str, ...]) -> list[str]:
        user, _, group = self.stage.user.partition(":")
        drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        told = [f"{name}={value}" for name, value in self.stage.env.items()]
        return [
            *self._enter(),
            *("chroot", self.stage.root, "env", "-i", *told),
            *("setpriv", f"--reuid={user}", f"--regid={group}", *drop, *command),
        ]

    def _in_holder(self, *command: str) -> None:
        done = subprocess.run(
            [*self._enter(), *command], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"

    def _enter(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]


def _declare(stage: Stage, name: str, rest: str) -> None:
    match name:
        case "ENV":
            stage.env |= dict(one.split("=", 1) for one in shlex.split(rest))
        case "USER":
            stage.user = rest
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.health = json.loads(rest.partition(" CMD ")[2])
        case "EXPOSE":
            stage.ports = set(map(int, rest.split()))
        case _:
            assert name in ("ARG", "LABEL", "FROM", "RUN", "COPY", "WORKDIR"), name


def is_let_in(path: str) -> bool:
    """Tell what .dockerignore says: the last line that fits decides."""
    let_in = True
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!")
        if fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
            let_in = line.startswith("!")
    return let_in
