"""Whether all is right on this machine's GPU, and how fast it is, within eight minutes.

    python examples/benchmarks/gpu_check.py --output outputs

needs torch, Triton and PyG alone. In this order, so that what counts most is there when
the seconds of `--budget` are over:

- correctness: every backend, layer and type beside the definition in float64: outputs,
  gradients and second gradients (`gpu_results.py`);
- memory, capture in CUDA graphs, torch.compile's modes, and two layouts of equal shapes
  in turn (`gpu_behaviour.py`);
- times of attention alone, of the encoder beside the floor (LayerNorm and one matrix
  product), of convolutions over edges (`edges.py`), of what else one could use, and of
  the kernels in other configurations, by replay of a CUDA graph where one can be
  captured, else between events (`gpu_times.py`);
- what torch compiles for minutes.

`--steps encoder contenders` does these steps alone, in the order in which they are
named.

What fails is a row that says why, and the rest goes on: steps run in a process of their
own, and where that dies, hangs, or loses the device, another one takes the next job.
Writes `gpu_check.md`, `gpu_check.json` and `gpu_check.log`. The exit status is 0 if all
of "correctness" ran, where it was to, and no result of any step was wrong, else 1.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """Jobs that a function yields: what each is about, and what gives its results."""

    name: str
    module: str  # beside this file
    function: str  # of the device; yields pairs of a dict and a callable
    seconds: float  # after which the rest of its jobs are left out


STEPS = (
    Step("correctness", "gpu_results", "correctness", 300),
    Step("memory", "gpu_behaviour", "memory", 40),
    Step("graph capture", "gpu_behaviour", "capture", 40),
    Step("compile modes", "gpu_behaviour", "compile_modes", 90),
    Step("layouts in turn", "gpu_behaviour", "layouts_in_turn", 40),
    Step("attention alone", "gpu_times", "attention_alone", 60),
    Step("encoder", "gpu_times", "encoders", 80),
    Step("edge lists", "gpu_times", "edge_lists", 40),
    Step("contenders", "gpu_times", "contenders", 60),
    Step("configurations", "gpu_times", "configurations", 60),
    Step("compiled contenders", "gpu_times", "compiled_contenders", 60),
    Step("autotuned", "gpu_behaviour", "autotuned", 150),
)
# The step that decides, with every wrong result.
DECIDES = "correctness"
ITSELF = {"what": "the step itself"}  # rather than one of its jobs
LOST = 3  # the exit status of a process whose device answers no more
OVER = "left out, as the time was over"
GRACE = 10  # seconds past the end after which a job that does not see it is ended


def title(device):
    """The machine and its versions."""
    import torch
    import torch_geometric

    names = {"torch": torch, "PyG": torch_geometric}
    try:
        names["Triton"] = importlib.import_module("triton")
    except ImportError:
        pass
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return ", ".join([where, *(f"{n} {m.__version__}" for n, m in names.items())])


def is_lost(device):
    """Whether the device answers no more, as after a kernel's fault."""
    if device != "cuda":
        return False
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return True
    return False


# The process that works


def work(path, device, steps, first_step, first_job, deadline):
    """Run jobs from one on; write a line before and after each, and each step."""
    with Path(path).open("a", encoding="utf-8") as file:

        def tell(**line):
            file.write(json.dumps(line) + "\n")
            file.flush()

        try:
            tell(title=title(device))
        except Exception as error:  # noqa: BLE001
            row = {"what": "the machine", "error": message(error)}
            tell(step=0, job=-1, row=row)
            tell(end=True)
            return
        for place, step in enumerate(steps):
            if place < first_step:
                continue
            skipped = first_job if place == first_step else 0
            end = min(time.time() + step.seconds, deadline)
            tell(step=place, job=-1)
            try:
                function = getattr(importlib.import_module(step.module), step.function)
                for job, (told, run) in enumerate(function(device)):
                    if job >= skipped:
                        tell(step=place, job=job, told=told)
                        found = do(run, end)
                        spoiled = found.pop("spoiled", False)
                        tell(step=place, job=job, row={**told, **found})
                        if spoiled or ("error" in found and is_lost(device)):
                            os._exit(LOST)
                tell(step=place, job=-1, ended=True)
            except Exception as error:  # noqa: BLE001
                tell(step=place, job=-1, row={**ITSELF, "error": message(error)})
        tell(end=True)


def do(run, end):
    """What a job gives, or why it gave nothing."""
    start = time.time()
    if start > end:
        return {"error": OVER}
    try:
        found = run()
    except Exception as error:  # noqa: BLE001
        found = {"error": message(error), "spoiled": hasattr(error, "spoils")}
    return {**found, "seconds": time.time() - start}


def message(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


# The process that watches it


def supervise(command, steps, path, log, deadline, patience):
    """The title, and every step's rows; what ends a process is a row, too."""
    name, rows, place = "", {step.name: [] for step in steps}, (0, 0)
    path.write_text("", encoding="utf-8")
    ended = set()
    while place[0] < len(steps):
        given = ["--from", *map(str, place), "--deadline", str(deadline)]
        process = subprocess.Popen([*command, *given], stdout=log, stderr=log)
        lines, reason = watch(process, steps, path, deadline, patience)
        last = lines[-1] if lines else {}
        # Before it tells of a step, a process is in the one that it was to begin with.
        step, job = last.get("step", place[0]), last.get("job", -1)
        if not {"row", "ended", "end"} & set(last):
            row = {**last.get("told", ITSELF), "error": reason}
            lines.append({"step": step, "row": row})
            print(steps[step].name, shown(row), sep=": ", flush=True)
        for line in lines:
            name = line.get("title", name)
            if "row" in line:
                rows[steps[line["step"]].name].append(line["row"])
            if "ended" in line:
                ended.add(steps[line["step"]].name)
        if "end" in last:
            break
        if time.time() >= deadline:
            print(f"The steps ended: {reason}.", flush=True)
            break
        # A step that failed as a whole is not begun again.
        place = (step, job + 1) if job >= 0 else (step + 1, 0)
    if DECIDES in rows and DECIDES not in ended:
        rows[DECIDES].append({**ITSELF, "error": "not ended in whole"})
    return name, rows


def watch(process, steps, path, deadline, patience):
    """What a process tells until it ends, printed as it comes, and why it ended."""
    lines, rest, heard, reason = [], "", time.time(), None
    with path.open(encoding="utf-8") as file:
        file.seek(0, os.SEEK_END)
        while True:
            ended = process.poll() is not None
            *texts, rest = (rest + file.read()).split("\n")
            for line in map(json.loads, texts):
                lines.append(line)
                heard = time.time()
                if "row" in line:
                    step = steps[line["step"]].name
                    print(step, shown(line["row"]), sep=": ", flush=True)
            if ended:
                status = f"its process ended with status {process.returncode}"
                return lines, reason or status
            # A job that hangs does not see that the time is over.
            if reason is None and time.time() > min(deadline + GRACE, heard + patience):
                late = time.time() > deadline
                reason = OVER if late else f"no answer in {patience:.0f} s"
                process.kill()
            time.sleep(0.05)


# What was found


def is_wrong(row):
    """Whether a result is further from what it should be than allowed; NaN is."""
    return "allowed" in row and not row.get("gap", float("nan")) <= row["allowed"]


def is_right(rows):
    """Whether the deciding step ran in whole, and no result anywhere was wrong.

    Where that step was not to be done, wrong results alone count.
    """
    decides = rows.get(DECIDES, [{}])
    everywhere = [row for found in rows.values() for row in found]
    whole = decides and not any("error" in row for row in decides)
    return bool(whole) and not any(map(is_wrong, everywhere))


def shown(row):
    """A row in words."""
    mark = "WRONG, " if is_wrong(row) else ""
    return mark + ", ".join(f"{k} {cell(v)}" for k, v in row.items())


def cell(value):
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/")


def table(rows):
    """Rows as Markdown, of all columns that one of them has; errors come last."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns.sort(key=lambda key: key == "error")
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(key, "")) for key in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def report(name, rows):
    """All as Markdown."""
    verdict = "all results are right" if is_right(rows) else "NOT RIGHT"
    if DECIDES not in rows:
        verdict += f", of what was done ({DECIDES} was not)"
    summary = [
        {
            "step": step,
            "jobs": len(found),
            "wrong": sum(map(is_wrong, found)),
            "left out": sum(row.get("error") == OVER for row in found),
            "failed": sum(row.get("error", OVER) != OVER for row in found),
            "seconds": float(sum(row.get("seconds", 0) for row in found)),
        }
        for step, found in rows.items()
    ]
    lines = [name, "", f"**{verdict}**", "", *table(summary), ""]
    for step, found in rows.items():
        lines += [f"## {step}", "", *(table(found) if found else ["not begun"]), ""]
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--budget", type=float, default=480, help="seconds of all")
    names = [step.name for step in STEPS]
    parser.add_argument("--steps", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--patience", type=float, default=150, help="seconds that a job may take"
    )
    parser.add_argument("--from", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    path = args.output / "gpu_check.jsonl"
    steps = [step for name in args.steps for step in STEPS if step.name == name]
    if args.deadline is not None:
        work(path, args.device, steps, *getattr(args, "from"), args.deadline)
        return
    deadline = time.time() + args.budget
    args.output.mkdir(parents=True, exist_ok=True)
    # So that kernels are compiled as when they are first used.
    os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()
    given = sys.argv[1:] if arguments is None else arguments
    command = [sys.executable, sys.argv[0], *given]
    with (args.output / "gpu_check.log").open("w", encoding="utf-8") as log:
        name, rows = supervise(command, steps, path, log, deadline, args.patience)
    path.unlink()
    text, right = report(name, rows), is_right(rows)
    (args.output / "gpu_check.md").write_text(text, encoding="utf-8")
    found = {"title": name, "budget": args.budget, "right": right, "steps": rows}
    found = json.dumps(found, indent=1)
    (args.output / "gpu_check.json").write_text(found, encoding="utf-8")
    print("All results are right." if right else "NOT RIGHT.", flush=True)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
