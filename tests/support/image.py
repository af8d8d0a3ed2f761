"""deploy/Dockerfile without Docker: runs its steps in overlays of this machine's root.

This machine's root replaces the base image, with this Python in /usr/local. All writes go to a
tmpfs that ends with the test. Requires root and Linux.
"""

import copy
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
    """Return whether this process may create namespaces; any Python can be the image's."""
    if os.geteuid() != 0:
        return False
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(probe, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def instructions(text: str) -> list[tuple[str, str]]:
    """Parse a Dockerfile into instructions and their arguments."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    pairs = (line.split(None, 1) for line in lines if line.strip())
    return [(name.upper(), rest.strip()) for name, rest in pairs]


@dataclass(slots=True)
class Stage:
    root: str = ""
    """Path inside the holder's mount namespace."""
    layers: str = "/"
    """Lower directories of an overlay that starts from this stage."""
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)


def image_facts(target: str = "production") -> Stage:
    """Return what a target declares, without running any step."""
    stages: dict[str, Stage] = {}
    stage = Stage()
    for name, rest in instructions(DOCKERFILE.read_text()):
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stage = stages[alias] = copy.deepcopy(stages.get(base, Stage()))
        _declare(stage, name, rest)
    return stages[target]


def default_target() -> str:
    """Return the target that a build without --target makes: the last one."""
    *_, last = (rest for name, rest in instructions(DOCKERFILE.read_text()) if name == "FROM")
    return last.partition(" AS ")[2]


class Build:
    """All stages of deploy/Dockerfile, from the files that .dockerignore allows."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _HOLD], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        self._stages: dict[str, Stage] = {}
        self._images: list[Image] = []
        try:
            assert self._holder.stdout.readline() == b"ready\n"
            self._build()
        except BaseException:
            self.close()
            raise

    def image(self, target: str) -> "Image":
        image = Image(self, self._stages[target])
        self._images.append(image)
        return image

    def close(self) -> None:
        for image in self._images:
            image.close()
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    @property
    def root(self) -> str:
        return f"/proc/{self._holder.pid}/root"

    def enter(self) -> list[str]:
        """Return the prefix of a command that runs in the holder's mount namespace."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]

    def run_in_holder(self, *command: str) -> None:
        done = subprocess.run(
            [*self.enter(), *command], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"

    def _build(self) -> None:
        stage = Stage()
        for name, rest in instructions(DOCKERFILE.read_text()):
            match name:
                case "FROM":
                    stage = self._begin(rest)
                case "RUN":
                    self._run_step(stage, rest)
                case "WORKDIR":
                    stage.workdir = rest
                    self.run_in_holder("mkdir", "-p", stage.root + rest)
                case "COPY":
                    self._copy(stage, shlex.split(rest))
                case _:
                    _declare(stage, name, rest)

    def _begin(self, rest: str) -> Stage:
        base, _, alias = rest.partition(" AS ")
        stage = copy.deepcopy(self._stages.get(base, Stage()))
        at = f"/mnt/{len(self._stages)}"
        lower, stage.root, stage.layers = stage.layers, f"{at}/root", f"{at}/upper:{stage.layers}"
        self.run_in_holder("mkdir", "-p", stage.root, f"{at}/upper", f"{at}/work")
        options = f"lowerdir={lower},upperdir={at}/upper,workdir={at}/work"
        self.run_in_holder("mount", "-t", "overlay", "overlay", "-o", options, stage.root)
        if sys.base_prefix != "/usr/local":
            at_base = f"{stage.root}/usr/local"
            self.run_in_holder("mount", "--bind", "-o", "ro", sys.base_prefix, at_base)
            stage.env["LD_LIBRARY_PATH"] = "/usr/local/lib"  # it may name its library by path
        self.run_in_holder("mount", "--rbind", "/dev", f"{stage.root}/dev")
        self.run_in_holder("mount", "-t", "proc", "proc", f"{stage.root}/proc")
        self.run_in_holder("mount", "-t", "tmpfs", "none", f"{stage.root}/tmp")
        self._stages[alias] = stage
        return stage

    def _run_step(self, stage: Stage, script: str) -> None:
        # The package index is this machine's own setting.
        env = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        variables = [f"{name}={value}" for name, value in (env | stage.env).items()]
        step = f"cd {shlex.quote(stage.workdir)} && {script}"
        self.run_in_holder("chroot", stage.root, "env", "-i", *variables, "sh", "-ec", step)

    def _copy(self, stage: Stage, words: list[str]) -> None:
        option = next((one for one in words if one.startswith("--from=")), None)
        *sources, target = [one for one in words if not one.startswith("--")]
        base = ROOT
        if option is not None:
            base = Path(self.root + self._stages[option.removeprefix("--from=")].root)
        to = Path(f"{self.root}{stage.root}{os.path.join(stage.workdir, target)}")  # noqa: PTH118
        for source in sources:
            found = base / source.lstrip("/")
            if option is None:
                assert is_in_context(source), f".dockerignore excludes {source}"
            if found.is_dir():
                ignored = _ignored if option is None else None
                shutil.copytree(found, to, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy2(found, to)


class Image:
    """One target of a build; runs commands in it as a container would."""

    def __init__(self, build: Build, stage: Stage) -> None:
        self.stage = stage
        self._build = build
        self._processes: list[subprocess.Popen[bytes]] = []
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._output.close()

    def path(self, inside: str) -> Path:
        return Path(f"{self._build.root}{self.stage.root}{inside}")

    def seal(self, *volumes: str) -> None:
        """Make the root read-only except `volumes`, which keep their owner and mode."""
        for volume in volumes:
            found = self.path(volume).stat()
            owner = f"uid={found.st_uid},gid={found.st_gid},mode={found.st_mode & 0o777:o}"
            at = self.stage.root + volume
            self._build.run_in_holder("mount", "-t", "tmpfs", "-o", owner, "none", at)
        self._build.run_in_holder("mount", "-o", "remount,ro", self.stage.root)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the image's user, without privileges."""
        return subprocess.run(
            self._contained(command), check=False, capture_output=True, text=True, timeout=60
        )

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._contained(command), stdout=self._output, stderr=subprocess.STDOUT
        )
        self._processes.append(process)
        return process

    def output(self) -> str:
        """Return the output of all started processes."""
        return os.pread(self._output.fileno(), 1_000_000, 0).decode(errors="replace")

    def _contained(self, command: tuple[str, ...]) -> list[str]:
        user, _, group = self.stage.user.partition(":")
        drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        variables = [f"{name}={value}" for name, value in self.stage.env.items()]
        return [
            *self._build.enter(),
            *("chroot", self.stage.root, "env", "-i", *variables),
            *("setpriv", f"--reuid={user}", f"--regid={group}", *drop, *command),
        ]


def _declare(stage: Stage, name: str, rest: str) -> None:
    match name:
        case "ENV":
            stage.env |= dict(one.split("=", 1) for one in shlex.split(rest))
        case "USER":
            stage.user = rest
        case "ENTRYPOINT":
            stage.entrypoint, stage.command = json.loads(rest), []
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.health = json.loads(rest.partition(" CMD ")[2])
        case "EXPOSE":
            stage.ports = set(map(int, rest.split()))
        case _:
            assert name in ("ARG", "LABEL", "FROM", "RUN", "COPY", "WORKDIR"), name


def _ignored(directory: str, names: list[str]) -> set[str]:
    at = Path(directory).relative_to(ROOT)
    return {one for one in names if one == "__pycache__" or not is_in_context(f"{at / one}")}


def is_in_context(path: str) -> bool:
    """Return whether .dockerignore allows a path; its last matching line decides."""
    allowed = True
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!")
        if fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
            allowed = line.startswith("!")
    return allowed
