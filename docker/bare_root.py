"""The image's steps without an engine: the commands of `Dockerfile`, in its order, in a root file system made of Debian packages.

    sudo python docker/bare_root.py --bundle FOLDER [--extras cpu,otlp] [--target serve] [--work DIR] [--bind PATH ...]

Needs Linux, root, apt, and a Debian whose Python is the image's. A stage is a folder, RUN is `chroot` in a mount namespace of its own,
COPY is a copy. At the end the image's command is started as its user: it has to refuse without keys and to be healthy with them. What this
cannot show: layers, caches of an engine, and the base image itself, in whose place Debian's own packages stand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
PACKAGES = ("python3.11", "python3.11-venv", "dash", "coreutils", "passwd", "login", "base-passwd", "bash", "sed", "grep", "libstdc++6")
FROM_HERE = ["/etc/resolv.conf", "/etc/ssl", "/etc/pip.conf", str(Path.home() / ".config" / "pip" / "pip.conf")]
"""What this machine reaches its package index with; bound where it is there, with what `--bind` names."""
PASSED = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy", "PIP_CERT", "PIP_FIND_LINKS", "PIP_INDEX_URL")
START_S = 180.0


@dataclass
class Stage:
    """One stage: its folder, its variables, and what is run in it."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    args: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    command: dict[str, list[str]] = field(default_factory=dict)

    def inside(self, command: list[str], *, binds: Mapping[str, Path] | None = None, **env: str) -> tuple[list[str], dict[str, str]]:
        """Returns a command line that runs `command` in this root, and its environment."""
        bound = {name: Path(name) for name in FROM_HERE if Path(name).exists()} | {"/dev": Path("/dev")} | dict(binds or {})
        lines = ["set -e", f"mkdir -p {self.root}/proc {self.root}{self.folder}", f"mount -t proc proc {self.root}/proc"]
        for name, source in bound.items():
            place = shlex.quote(f"{self.root}{name}")
            made = f"mkdir -p {place}" if source.is_dir() else f"mkdir -p $(dirname {place}); touch {place}"
            lines.append(f"{made}; mount --rbind {shlex.quote(str(source))} {place}")
        script = f"cd {self.folder} && exec {shlex.join(command)}"
        lines.append(f"exec chroot --userspec={self.user} {self.root} /bin/sh -c {shlex.quote(script)}")
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines)], passed | self.args | self.env | env


def make_base(root: Path) -> None:
    """Unpacks Debian's packages into an empty folder, as a base image would hold them."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    listed = subprocess.run(
        ["apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), *PACKAGES], check=True, capture_output=True, text=True
    ).stdout
    names = sorted(set(re.findall(r"^([a-z0-9][a-z0-9+.-]*)$", listed, re.MULTILINE)))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        subprocess.run(["apt-get", "-qq", "download", *names], check=True, cwd=folder)
        for package in sorted(Path(folder).glob("*.deb")):
            content = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
            subprocess.run(["tar", "--extract", "--keep-directory-symlink", "--directory", root], check=True, input=content)
    (root / "bin" / "sh").unlink(missing_ok=True)
    (root / "bin" / "sh").symlink_to("dash")
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3.11")
    for name in ("passwd", "group"):
        shutil.copy(root / "usr/share/base-passwd" / f"{name}.master", root / "etc" / name)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)


def instructions(text: str) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile: word and rest, lines joined, comments left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    whole = [line.strip() for line in kept.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in whole)]


def needed(lines: list[tuple[str, str]], target: str) -> set[str]:
    """Returns the stages that a target is made from, and itself: an engine builds no others."""
    sources: dict[str, set[str]] = {}
    name = ""
    for word, rest in lines:
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            sources[name] = {source}
        elif word == "COPY" and (origin := re.match(r"--from=(\S+)", rest)):
            sources[name].add(origin[1])
    found, left = set(), [target]
    while left:
        found.add(each := left.pop())
        left += sources.get(each, set()) - found
    return found


def build(work: Path, given: Mapping[str, str], target: str) -> Stage:
    """Runs what the Dockerfile says of a stage and of those that it is made from; returns that stage."""
    stages: dict[str, Stage] = {}
    general: dict[str, str] = {}
    stage: Stage | None = None
    lines = instructions(DOCKERFILE.read_text(encoding="utf-8"))
    wanted, skipped = needed(lines, target), False
    for word, rest in lines:
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            skipped = name not in wanted
        if skipped:
            continue
        if word == "FROM":
            stage = stages[name] = Stage(work / name)
            print(f"FROM {rest}", flush=True)
            if source in stages:
                subprocess.run(["cp", "-a", "--reflink=auto", stages[source].root, stage.root], check=True)
                stage.env, stage.user, stage.folder = dict(stages[source].env), stages[source].user, stages[source].folder
            else:
                stage.root.mkdir(parents=True)
                make_base(stage.root)
        elif stage is None or word == "ARG":
            name, _, value = rest.partition("=")
            (general if stage is None else stage.args)[name] = given.get(name, value)
        else:
            perform(stage, word, rest, stages)
    return stages[target]


def perform(stage: Stage, word: str, rest: str, stages: Mapping[str, Stage]) -> None:
    """Does one instruction in a stage."""
    match word:
        case "RUN":
            script = re.sub(r"--mount=\S+\s*", "", rest)
            print(f"RUN {script}", flush=True)
            line, env = stage.inside(["/bin/sh", "-c", script])
            subprocess.run(line, check=True, env=env)
        case "COPY":
            *sources, place = [part for part in shlex.split(rest) if not part.startswith("--")]
            origin = re.match(r"--from=(\S+)", rest)
            above = stages[origin[1]].root if origin else REPOSITORY
            for source in sources:
                aim = stage.root / (stage.folder + "/" + place if not place.startswith("/") else place).lstrip("/")
                aim = aim / Path(source).name if place.endswith("/") else aim
                aim.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-a", f"{above}/{source}", aim], check=True)
        case "ENV":
            for assignment in shlex.split(rest):
                name, _, value = assignment.partition("=")
                stage.env[name] = value.replace("$PATH", stage.env["PATH"])
        case "WORKDIR":
            stage.folder = rest
        case "USER":
            stage.user = rest
        case "ENTRYPOINT" | "CMD":
            stage.command[word] = json.loads(rest)
        case "HEALTHCHECK":
            stage.command[word] = json.loads(rest.split(" CMD ", 1)[1])


def start(stage: Stage, bundle: Path, folder: Path) -> None:
    """Starts the image's command as its user, and holds what it does against what the image promises.

    Raises:
        SystemExit: it starts without keys, is not healthy with them, or does not end in order.
    """
    serve = stage.command["ENTRYPOINT"] + stage.command["CMD"]
    names = [each["name"] for each in json.loads((bundle / "portfolio.json").read_text(encoding="utf-8"))["members"]]
    roster = {name: {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "none"} for name in names}
    (folder / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
    binds = {"/bundles": bundle.parent, "/roster": folder}
    folder.chmod(0o755)
    told = {"ATTUNE_BUNDLE": f"/bundles/{bundle.name}", "ATTUNE_ROSTER": "/roster/roster.json", "ATTUNE_PORT": "18923"}
    line, env = stage.inside(serve, binds=binds, **told)
    refused = subprocess.run(line, env=env, check=False, capture_output=True, text=True, timeout=START_S)
    print(f"without keys: exit code {refused.returncode}\n{refused.stderr.strip()[:400]}", flush=True)
    if refused.returncode != 2:
        raise SystemExit("it started, or failed otherwise, where it had to refuse for want of keys")
    told["ATTUNE_API_KEYS"] = "a-key-for-this-trial:trial"
    line, env = stage.inside(serve, binds=binds, **told)
    server = subprocess.Popen(line, env=env)
    line, env = stage.inside(stage.command["HEALTHCHECK"], binds=binds, **told)
    end_s = time.monotonic() + START_S
    while subprocess.run(line, env=env, check=False, capture_output=True).returncode:
        if server.poll() is not None or time.monotonic() > end_s:
            server.kill()
            raise SystemExit("the health check never passed")
        time.sleep(1.0)
    print(f"healthy; /data holds {sorted(path.name for path in (stage.root / 'data').iterdir())}", flush=True)
    server.send_signal(signal.SIGTERM)
    code = server.wait(timeout=60)
    print(f"ended with exit code {code}")
    if code:
        raise SystemExit("it did not end in order")


def main() -> None:
    """Builds a target and starts it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle folder with members")
    parser.add_argument("--extras", default="cpu,otlp", help="build argument EXTRAS; `local` adds torch")
    parser.add_argument("--target", default="serve")
    parser.add_argument("--work", type=Path, help="where stages are made; a temporary folder if left out")
    parser.add_argument("--bind", action="append", default=[], help="a folder that pip needs to see inside as it is here")
    options = parser.parse_args()
    FROM_HERE.extend(options.bind)
    if os.geteuid() != 0:
        sys.exit("this needs root, for chroot and mounts")
    with tempfile.TemporaryDirectory(prefix="attune-root-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        stage = build(work, {"EXTRAS": options.extras}, options.target)
        start(stage, options.bundle.resolve(), Path(tempfile.mkdtemp(dir=temporary)))


if __name__ == "__main__":
    main()
