"""Ask other tools the same questions, and hold their answers against the same truth.

    python -m benchmarks.peers [--install] [--packages .venv-peers] [--only CASE ...] [--tools TOOL ...]
                               [--truth FILE] [--reuse FILE] [--accuracy FILE] [--json OUT] [--markdown OUT]

`--install` fetches the tools into a folder of their own with `pip install --no-deps --target`, so that no environment
changes. A tool's answer is held against the peak that it claims to be, allocated or reserved, and each tool runs in its
own process. `batch-estimator` itself is asked in the same run and stands in the same table. Other tools' answers do not
change with this repository: `--reuse` takes those of an earlier `--json`, and `--accuracy` takes ours from what
`benchmarks.accuracy --json` wrote.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks import accuracy, score, vision
from benchmarks.cases import Case, load_cases
from benchmarks.children import in_child
from benchmarks.peer_tools import TOOLS
from benchmarks.score import percent

HERE = Path(__file__).resolve().parent
OURS = ("batch-estimator", "allocated"), ("batch-estimator", "reserved")
NOT_ASKED = {
    "DeepSpeed estimate_zero2/3_model_states_mem_needs": "model states under ZeRO-2 or 3 in half precision alone",
    "DeepSpeed autotuner, Lightning BatchSizeFinder, accelerate find_executable_batch_size, Composer auto micro-batch, "
    "Ultralytics autobatch, toma, torch-max-mem, batch-finder, autovram": "trial runs on the GPU itself",
    "pytorch_memlab, torch.cuda memory snapshots": "report a real run",
    "llm-analysis, EleutherAI cookbook, Megatron-LM, SimuMax, pith-train, hf-mem, gpu_poor and the like":
        "hyper-parameters of a language model, not a module, its data and its loss",
    "fvcore": "counts elements of some operators' outputs, not bytes (our own counts are checked against it)",
    "torchtitan's estimator": "deleted from torchtitan in February 2026",
    "torchsummary": "float inputs alone; torchinfo is its successor",
    "xMem, VeritasEst, DNNMem, LLMem, Horus": "papers without an installable tool that takes a module",
    "koila / AioWay": "splits batches on a GPU; its author points to fake tensors instead",
}  # fmt: skip


def install(folder: Path) -> None:
    """Fetch the tools without their dependencies: torch, numpy and the like are ours."""
    packages = sorted({p for tool in TOOLS.values() for p in tool.package.split()})
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    subprocess.run([*command, *packages], check=True)


def ask(tool: str, case: Case, batches: list[int], timeout: float) -> dict[int, dict[str, Any]]:
    """A tool's answer for each batch size of a case: {"bytes"} or {"error"}, and seconds."""

    def answer() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for n in batches:
            began = time.perf_counter()
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    found[str(n)] = {"bytes": TOOLS[tool].ask(case, n)}
            except Exception as error:
                found[str(n)] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            found[str(n)]["seconds"] = round(time.perf_counter() - began, 2)
        return found

    said = in_child(answer, timeout)
    return {n: said.get(str(n), {"error": said.get("error", "no answer")}) for n in batches}


def errors_of(
    truth: list[dict[str, Any]], answers: Mapping[str, Mapping[int, dict[str, Any]]], against: str
) -> dict[tuple[str, int], float | str]:
    """Signed error, or the reason for having none, by (case, batch)."""
    out: dict[tuple[str, int], float | str] = {}
    for entry in truth:
        for run in entry["runs"]:
            if "peak_reserved" not in run:
                continue
            said = answers[entry["case"]][run["batch"]]
            true = run[f"peak_{against}"]
            out[entry["case"], run["batch"]] = (said["bytes"] - true) / true if "bytes" in said else said["error"]
    return out


def own_bytes(said: dict[str, Any], against: str) -> defaultdict[int, dict[str, Any]]:
    """Our own answer in the form of the others'."""
    out: defaultdict[int, dict[str, Any]] = defaultdict(lambda: {"error": said.get("error", "no answer")})
    out.update({r["batch"]: {"bytes": r[against]} for r in said.get("runs", ())})
    return out


def table(columns: dict[str, dict[tuple[str, int], float | str]]) -> str:
    """Markdown: sums by tool, every row, and why rows have no answer."""
    head = "tool, held against | answers | failed | median abs. error | 95th percentile | worst over | worst under"
    lines = [f"| {head} |", "|---|---|---|---|---|---|---|"]
    for name, column in columns.items():
        good = [(e, f"{case}@{n}") for (case, n), e in column.items() if isinstance(e, float)]
        s = score.summarize(good, len(column) - len(good))
        over, under = (f"{percent(e)} {who}".strip() for e, who in (s.worst_over, s.worst_under))
        cells = (name, s.count, s.failed, percent(s.median, ""), percent(s.percentile_95, ""), over, under)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"| case | batch | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for case, n in next(iter(columns.values())):
        cells = [percent(e) if isinstance(e := c[case, n], float) else "failed" for c in columns.values()]
        lines.append(f"| {case} | {n} | {' | '.join(cells)} |")
    lines += ["", "Failed:", ""]
    for name, column in columns.items():
        reasons: dict[str, list[str]] = {}
        for (case, n), e in column.items():
            if isinstance(e, str):
                reasons.setdefault(e.split("\n")[0], []).append(f"{case}@{n}")
        lines += [f"- {name}: {', '.join(who)}: {why}" for why, who in reasons.items()]
    lines += ["", "Not asked:", "", *(f"- {name}: {why}" for name, why in NOT_ASKED.items())]
    return "\n".join(lines) + "\n"


def write(path: Path, answered: Mapping[tuple[str, str], dict[int, dict[str, Any]]]) -> None:
    """Keep the tools' answers so far: one line each."""
    rows = [{"tool": t, "case": c, "batch": n, **a} for (t, c), said in answered.items() for n, a in said.items()]
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, default=accuracy.DEFAULT_TRUTH[0])
    parser.add_argument("--install", action="store_true", help="fetch the tools first")
    parser.add_argument("--packages", type=Path, default=HERE.parent / ".venv-peers")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS, metavar="TOOL")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one tool and case")
    parser.add_argument("--reuse", type=Path, metavar="FILE", help="earlier answers of the tools; others are asked")
    parser.add_argument("--accuracy", type=Path, metavar="FILE", help="our answers, as benchmarks.accuracy wrote them")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    options = parser.parse_args()
    if options.install:
        install(options.packages)
    truth = [
        e for e in json.loads(options.truth.read_text())["cases"] if not options.only or e["case"] in options.only
    ]  # fmt: skip
    if not truth:
        parser.error(f"no such case: {', '.join(options.only)}")

    sys.path.append(str(options.packages.resolve()))
    vision.settle()
    cases = load_cases()
    answered: defaultdict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    own: dict[str, dict[str, Any]] = {}
    if options.reuse:
        for a in json.loads(options.reuse.read_text()):
            answered[a.pop("tool"), a.pop("case")][a.pop("batch")] = a
    if options.accuracy:
        answers = json.loads(options.accuracy.read_text())["answers"]
        own = {a["case"]: a for a in answers if a["truth"] == options.truth.name}
    for entry in truth:
        name, batches = entry["case"], [r["batch"] for r in entry["runs"] if "peak_reserved" in r]
        for tool in options.tools:
            if answered[tool, name].keys() >= set(batches):
                continue
            began = time.perf_counter()
            answered[tool, name] = ask(tool, cases[name], batches, options.timeout)
            print(f"{name} {tool} {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if options.json:
            write(options.json, answered)
        if name not in own:
            own[name] = accuracy.ask(options.truth, name, None, options.timeout)
            print(f"{name} batch-estimator {own[name].get('process_seconds', '-')} s", file=sys.stderr, flush=True)
    columns = {}
    for name, against in OURS:
        mine = {case: own_bytes(said, against) for case, said in own.items()}
        columns[f"{name}, {against}"] = errors_of(truth, mine, against)
    for tool in options.tools:
        answers = {e["case"]: answered[tool, e["case"]] for e in truth}
        columns[f"{tool}, {TOOLS[tool].against}"] = errors_of(truth, answers, TOOLS[tool].against)
    text = table(columns)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
