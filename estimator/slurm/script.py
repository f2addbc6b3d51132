"""The `#SBATCH` lines of a batch script, as sbatch reads them.

Source: sbatch(1): directives stand before the first line that is neither a comment nor blank; of an option that comes
twice the last counts; sizes are megabytes unless they have a suffix K, M, G or T.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from estimator.errors import ConfigError
from estimator.slurm.gres import Gpus, parse_gpus_option, parse_gres

_SHORT = {
    "p": "partition", "G": "gpus", "C": "constraint", "c": "cpus-per-task", "n": "ntasks", "N": "nodes", "t": "time",
    "J": "job-name", "o": "output", "e": "error", "A": "account", "q": "qos", "w": "nodelist", "x": "exclude",
    "a": "array", "d": "dependency", "D": "chdir", "L": "licenses", "M": "clusters", "B": "extra-node-info",
    "F": "nodefile", "S": "core-spec", "b": "begin", "i": "input", "m": "distribution",
}  # fmt: skip
_SHORT_FLAGS = {"H": "hold", "O": "overcommit", "s": "oversubscribe", "k": "no-kill", "W": "wait", "Q": "quiet"}
_SIZE = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)
_KIB = {"K": 1, "": 1 << 10, "M": 1 << 10, "G": 1 << 20, "T": 1 << 30}
_GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task", "gres")


@dataclass(frozen=True, slots=True)
class Script:
    """What a script asks Slurm for. None or empty where it says nothing."""

    path: str
    options: Mapping[str, str] = field(default_factory=dict)
    """Long name and value of every directive; "" for a flag."""
    partitions: tuple[str, ...] = ()
    gpus: tuple[Gpus, ...] = ()
    """Of one node."""
    gpu_option: str = ""
    """The option that asks for them, as it stands."""
    constraint: str = ""
    cpus_per_task: int = 1
    tasks_per_node: int = 1
    nodes: int = 1
    mem_mib: int | None = None
    mem_per_cpu_mib: int | None = None
    mem_per_gpu_mib: int | None = None

    @property
    def gpu_count(self) -> int:
        """GPUs of one node."""
        return sum(gpus.count for gpus in self.gpus)

    @property
    def cpus(self) -> int:
        """CPUs of one node."""
        return self.cpus_per_task * self.tasks_per_node


def read_script(path: Path) -> Script:
    """Read a batch script.

    Raises:
        ConfigError: it cannot be read, is no script, or a directive means nothing; names every line.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError("cannot read a batch script", got=error.strerror, where=str(path)) from None
    return parse_script(text, str(path))


def parse_script(text: str, name: str = "script") -> Script:
    """Read the text of a batch script; raises as `read_script`."""
    if not text.startswith("#!"):
        raise ConfigError(
            "not a batch script", got=text.split("\n", 1)[0][:60] or "an empty file",
            allowed="a first line that begins with #!", where=name,
        )  # fmt: skip
    options: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#SBATCH"):
            try:
                options.update(_directive(line.removeprefix("#SBATCH")))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
        elif line.strip() and not line.startswith("#"):
            break
    script = None if problems else _script(options, name, problems)
    if problems or script is None:
        raise ConfigError("a batch script's directives cannot be read", where=name, problems=problems)
    return script


def _directive(text: str) -> dict[str, str]:
    words = shlex.split(text, comments=True)
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            key, sign, value = word[2:].partition("=")
            if not sign and words and not words[0].startswith("-"):
                value = words.pop(0)
            found[key] = value
        elif len(word) > 1 and word[0] == "-" and word[1] in _SHORT:
            value = word[2:].removeprefix("=")
            if not value:
                if not words:
                    raise ValueError(f"-{word[1]} has no value")
                value = words.pop(0)
            found[_SHORT[word[1]]] = value
        elif len(word) > 1 and word[0] == "-" and all(letter in _SHORT_FLAGS for letter in word[1:]):
            found.update({_SHORT_FLAGS[letter]: "" for letter in word[1:]})
        else:
            raise ValueError(f"{word!r} is no option of sbatch")
    return found


def _script(options: dict[str, str], name: str, problems: list[str]) -> Script | None:
    def count(key: str, default: int) -> int:
        text = options.get(key, "")
        digits = re.match(r"\d+", text)  # --nodes=2-4 asks for two at least
        if text and not digits:
            problems.append(f"--{key}={text}: not a count")
        return int(digits[0]) if digits else default

    def size(key: str) -> int | None:
        text = options.get(key)
        if text is None:
            return None
        match = _SIZE.fullmatch(text)
        if not match:
            problems.append(f"--{key}={text}: not a size such as 16G or 16000 (MiB)")
            return None
        return int(match[1]) * _KIB[match[2].upper()] >> 10

    nodes = max(1, count("nodes", 1))
    total = count("ntasks", 0)
    tasks = count("ntasks-per-node", 0) or (-(-total // nodes) if total else 1)
    found: list[Gpus] = []
    option = ""
    for key in _GPU_OPTIONS:
        text = options.get(key, "")
        gpus = parse_gres(text) if key == "gres" else parse_gpus_option(text) if text else []
        if gpus and not found:
            option = f"--{key}={text}"
            found = [_on_a_node(g, key, nodes, tasks) for g in gpus]
    script = Script(
        path=name,
        options=options,
        partitions=tuple(part for part in options.get("partition", "").split(",") if part),
        gpus=tuple(found),
        gpu_option=option,
        constraint=options.get("constraint", ""),
        cpus_per_task=max(1, count("cpus-per-task", 1)),
        tasks_per_node=tasks,
        nodes=nodes,
        mem_mib=size("mem"),
        mem_per_cpu_mib=size("mem-per-cpu"),
        mem_per_gpu_mib=size("mem-per-gpu"),
    )
    return None if problems else script


def _on_a_node(gpus: Gpus, option: str, nodes: int, tasks: int) -> Gpus:
    """GPUs of one node: `--gpus` counts those of the job, `--gpus-per-task` those of a task."""
    if option == "gpus":
        return Gpus(gpus.type, -(-gpus.count // nodes))
    return Gpus(gpus.type, gpus.count * tasks) if option == "gpus-per-task" else gpus
