"""The check of GPUs on a CPU: stubs in place of its steps, and its steps in small."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
# A script beside the check, and the steps that it gives to it.
SCRIPT = """
import sys
sys.path[:0] = [{folder!r}, {here!r}]
import gpu_check
gpu_check.title = lambda device: "a stub"
gpu_check.is_lost = lambda device: {lost}
gpu_check.GRACE = 2
gpu_check.STEPS = tuple(gpu_check.Step(*step) for step in {steps!r})
gpu_check.main()
"""
STUBS = """
import os, time

def job(what, found):
    def run():
        if callable(found):
            return found() or {}
        if isinstance(found, Exception):
            raise found
        return found
    return {"what": what}, run

def right(device):
    yield job("one", {"gap": 1e-6, "allowed": 1e-5})
    yield job("two", {"gap": 1e-5, "allowed": 1e-5})

def wrong(device):
    yield job("one", {"gap": 2e-5, "allowed": 1e-5})

def not_a_number(device):
    yield job("one", {"gap": float("nan"), "allowed": 1e-5})

def failing(device):
    yield job("raises", RuntimeError("it | broke"))
    yield job("ends the process", lambda: os._exit(9))
    yield job("hangs", lambda: time.sleep(60))
    yield job("goes on", {"ms": 0.5})

class Spoils(RuntimeError):
    spoils = True

def failing_capture(device):
    yield job("before", lambda: {"process": os.getpid()})
    yield job("fails", Spoils("while capturing"))
    yield job("after", lambda: {"process": os.getpid()})
    yield job("raises", RuntimeError("something else"))
    yield job("last", lambda: {"process": os.getpid()})

def spoiling(device):
    yield job("spoils", lambda: {"ms": 1.0, "process": os.getpid(), "spoiled": True})
    yield job("after", lambda: {"ms": 1.0, "process": os.getpid()})

def broken(device):
    yield job("before", {"ms": 1.0})
    raise KeyError("no jobs")

def slow(device):
    for number in range(20):
        yield job(str(number), lambda: time.sleep(0.3))

def hanging(device):
    yield job("hangs", lambda: time.sleep(60))

def dead(device):
    os._exit(7)
    yield

def dying(device):
    yield job("one", {"gap": 1e-6, "allowed": 1e-5})
    os._exit(7)

def stuck(device):
    time.sleep(60)
    yield

def dying_once(device):
    yield from right(device)
    if not os.path.exists("once"):
        open("once", "w").close()
        os._exit(7)
    yield job("three", {"gap": 1e-6, "allowed": 1e-5})
"""


@pytest.fixture
def check(tmp_path):
    """Runs stubs in place of steps: the exit status, what was written, and printed."""
    (tmp_path / "stubs.py").write_text(STUBS)

    def run(*functions, budget=60, patience=30, lost=False, steps=()):
        names = ["correctness", *(f"step {i}" for i in range(1, len(functions)))]
        stubs = [(n, "stubs", f, 30) for n, f in zip(names, functions, strict=True)]
        given = {"folder": str(FOLDER), "here": str(tmp_path), "steps": stubs}
        given["lost"] = lost
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(**given))
        command = [sys.executable, script, "--device", "cpu", "--output", tmp_path]
        command += ["--budget", budget, "--patience", patience]
        command += ["--steps", *steps] if steps else []
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        found = json.loads((tmp_path / "gpu_check.json").read_text())
        return done.returncode, found, (tmp_path / "gpu_check.md").read_text()

    return run


def test_goes_on_after_whatever_fails(check):
    status, found, text = check("right", "failing", "broken", "right", patience=2)
    assert status == 0 and found["right"] and found["title"] == "a stub"
    first, failing, broken, last = found["steps"].values()
    assert [row["gap"] for row in first] == [1e-6, 1e-5] and len(last) == 2
    assert {row["what"]: row.get("error") for row in failing} == {
        "raises": "RuntimeError: it | broke",
        "ends the process": "its process ended with status 9",
        "hangs": "no answer in 2 s",
        "goes on": None,
    }
    assert [row.get("error") for row in broken] == [None, "KeyError: 'no jobs'"]
    assert "it / broke" in text and "**all results are right**" in text
    # Of every table all rows have as many cells.
    for part in text.split("\n\n"):
        assert len({x.count("|") for x in part.splitlines() if x[0] == "|"}) <= 1
    summary = [line for line in text.splitlines() if line.startswith("| step 1")]
    assert summary[0].startswith("| step 1 | 4 | 0 | 0 | 3 |")


def test_a_failed_capture_ends_the_process_and_no_job(check):
    status, found, _ = check("right", "spoiling")
    assert status == 0
    first, second = found["steps"]["step 1"]
    assert first["ms"] == 1.0 and "spoiled" not in first
    assert first["process"] != second["process"]


def test_a_failed_capture_may_be_what_a_job_raises(check):
    _, found, _ = check("right", "failing_capture")
    before, failed, after, other, last = found["steps"]["step 1"]
    assert failed["error"] == "Spoils: while capturing" and "spoiled" not in failed
    assert before["process"] != after["process"]
    assert "error" in other and last["process"] == after["process"]


def test_some_steps_in_another_order(check):
    steps = ["step 2", "step 1"]
    status, found, text = check("right", "slow", "right", "wrong", steps=steps)
    assert status == 0 and list(found["steps"]) == steps
    assert [len(rows) for rows in found["steps"].values()] == [2, 20]
    assert "correctness was not" in text
    assert check("right", "right", "wrong", steps=steps)[0] == 1


def test_a_lost_device_costs_one_job(check):
    status, found, _ = check("right", "failing", "right", patience=2, lost=True)
    assert status == 0
    errors = [row.get("error") for row in found["steps"]["step 1"]]
    assert len(errors) == 4 and errors[0] == "RuntimeError: it | broke"
    assert errors[3] is None and len(found["steps"]["step 2"]) == 2


@pytest.mark.parametrize("function", ["wrong", "not_a_number", "failing", "hanging"])
def test_the_exit_status_is_that_of_correctness(function, check):
    status, found, text = check(function, "right", patience=1)
    assert status == 1 and not found["right"] and "**NOT RIGHT**" in text
    assert len(found["steps"]["step 1"]) == 2


ENDED = "its process ended with status 7"


@pytest.mark.parametrize("function", ["dead", "dying", "stuck"])
def test_a_process_that_dies_before_a_job_costs_its_step(function, check):
    status, found, text = check("right", function, "right", patience=2)
    reason = "no answer in 2 s" if function == "stuck" else ENDED
    assert status == 0 and "**all results are right**" in text
    assert [len(rows) for rows in found["steps"].values()] == [
        2, 1 + (function == "dying"), 2,
    ]  # fmt: skip
    row = {"what": "the step itself", "error": reason}
    assert found["steps"]["step 1"][-1] == row
    status, found, text = check(function, "right", patience=2)
    assert status == 1 and not found["right"] and "**NOT RIGHT**" in text
    assert row in found["steps"]["correctness"] and len(found["steps"]["step 1"]) == 2


def test_a_process_that_dies_between_jobs_goes_on_with_the_next(check):
    status, found, _ = check("dying_once", "right")
    assert status == 0
    assert [row["what"] for row in found["steps"]["correctness"]] == [
        "one", "two", "three",
    ]  # fmt: skip


def test_a_script_that_never_begins_is_not_right(check, tmp_path):
    (tmp_path / "stubs.py").write_text("import os\nos._exit(7)")
    status, found, _ = check("right", "right", "right")
    assert status == 1 and not found["right"]
    assert all(rows[0]["error"] == ENDED for rows in found["steps"].values())


def test_correctness_that_was_cut_off_is_not_right(load, tmp_path, monkeypatch):
    module = load("gpu_check")
    rows = [{"what": "one", "gap": 1e-6, "allowed": 1e-5}]
    lines = [{"title": "a stub"}, {"step": 0, "job": -1}]
    lines += [{"step": 0, "job": 0, "row": rows[0]}]
    monkeypatch.setattr(module, "watch", lambda *given: (lines, ENDED))
    # The time was over when the process died, between two jobs.
    command = [sys.executable, "-c", ""]
    options = command, module.STEPS, tmp_path / "lines", None, 0, 1
    name, found = module.supervise(*options)
    assert name == "a stub" and not module.is_right(found)
    lines.append({"step": 0, "job": -1, "ended": True})
    assert module.is_right(module.supervise(*options)[1])


def test_a_wrong_result_counts_wherever_it_is(check):
    status, found, _ = check("right", "wrong")
    assert status == 1 and not found["right"]


@pytest.mark.parametrize("function", ["slow", "hanging"])
def test_ends_when_its_time_is_over(function, check):
    start = time.perf_counter()
    status, found, text = check("right", function, "right", budget=2)
    assert time.perf_counter() - start < 20
    assert status == 0 and len(found["steps"]["correctness"]) == 2
    over = "left out, as the time was over"
    assert found["steps"]["step 1"][-1]["error"] == over
    if function == "slow":
        assert len(found["steps"]["step 1"]) == 20
        assert [row["error"] for row in found["steps"]["step 2"]] == [over] * 2
    else:
        assert "## step 2\n\nnot begun" in text
    # What decides has to be there.
    assert check(function, budget=1)[0] == 1


def test_without_a_device_it_says_so(load, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    path = tmp_path / "lines"
    module = load("gpu_check")
    module.work(path, "cuda", module.STEPS, 0, 0, time.time() + 60)
    row, end = map(json.loads, path.read_text().splitlines())
    assert row["step"] == 0 and row["row"]["what"] == "the machine"
    assert "CUDA" in row["row"]["error"] or "NVIDIA" in row["row"]["error"]
    assert end == {"end": True}


def do_all(jobs, wanted=lambda told: True):
    return [{**told, **run()} for told, run in jobs if wanted(told)]


def test_the_steps_are_there(load):
    for step in load("gpu_check").STEPS:
        function = getattr(load(step.module), step.function)
        jobs = list(function("cuda"))
        assert jobs and all(callable(run) for _, run in jobs)
        assert len({str(told) for told, _ in jobs}) == len(jobs)


@pytest.fixture
def results(load, monkeypatch):
    module = load("gpu_results")
    monkeypatch.setattr(module, "SIZES", (0, 1, 17, 3, 66, 0, 1, 2))
    monkeypatch.setattr(module, "LARGE", (1, 70, 0, 9))
    monkeypatch.setattr(module, "GRAPHS", (50, 1, 130))
    return module


def test_results_are_right_here(results, load):
    def wanted(told):
        few = told["type"] == "float32" or told["what"] == "encoder"
        return few and told["backend"] != "triton"

    rows = do_all(results.correctness("cpu"), wanted)
    assert {row["what"] for row in rows} == set(results.CASES)
    assert len({row["type"] for row in rows}) == 4
    assert not [row for row in rows if load("gpu_check").is_wrong(row)]
    assert all(row["forward"] > 0 and row["second"] > 0 for row in rows)


def test_interpreted_kernels_are_right_here(results, load, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(results, "SIZES", (3, 0, 1, 17))
    wanted = {"what": "encoder", "backend": "triton", "type": "float32"}
    rows = do_all(results.correctness("cpu"), lambda told: told == wanted)
    assert len(rows) == 1 and not load("gpu_check").is_wrong(rows[0])


@pytest.mark.parametrize("order", ["forward", "gradient", "second"])
def test_a_wrong_result_of_a_small_token_is_seen(order, results, load):
    case = results.of_tokens(torch.float32, True, (200, 1, 200))
    orders = case.orders
    place = ("forward", "gradient", "second").index(order)

    def damaged(outputs, leaves):
        found = orders(outputs, leaves)
        # Tokens, or queries: of the second size class none are compared with others.
        rows = case.sizes(len(found[place][-1])) == 1
        found[place][-1][rows] += 1e-3 * found[place][-1].abs().max()
        return found

    case.orders = damaged
    row = case.gaps("dense", "cpu", torch.float32)
    assert load("gpu_check").is_wrong(row)


def test_behaviour_here(load, monkeypatch):
    behaviour = load("gpu_behaviour")
    monkeypatch.setattr(behaviour, "EQUAL", ((0, 4, 5, 2), (2, 5, 4, 0)))
    monkeypatch.setattr(behaviour, "MODES", ("default",))
    dense = [
        *do_all(behaviour.layouts_in_turn("cpu"), lambda told: told["by"] == "dense"),
        *do_all(behaviour.compile_modes("cpu"), lambda told: told["by"] == "dense"),
    ]
    assert len(dense) == 2 and all(0 < row["gap"] < row["allowed"] for row in dense)
    for step in (behaviour.memory, behaviour.capture):
        for _, run in step("cpu"):
            with pytest.raises(RuntimeError, match="needs a CUDA device"):
                run()


def test_a_stale_layout_is_seen(load):
    behaviour = load("gpu_behaviour")
    encoder, (first, second) = behaviour.make("dense", "cpu")
    parameters = list(encoder.parameters())
    assert first.gap(first.step(encoder, parameters)) < behaviour.ALLOWED
    first.layout = second.layout
    assert first.gap(first.step(encoder, parameters)) > behaviour.ALLOWED


def test_times_here(load, monkeypatch):
    times, check = load("gpu_times"), load("gpu_check")
    monkeypatch.setattr(load("device_clock"), "CALLS", 4)
    kept = ("PyG TransformerConv", "size buckets", "varlen_attn")
    monkeypatch.setattr(times, "OTHERS", {n: times.OTHERS[n] for n in kept})
    monkeypatch.delitem(times.OURS, "triton")
    rows = do_all(times.encoders("cpu"))
    # Two sizes, of which one has a bias of pairs, and three types.
    assert len(rows) == 3 * (2 * 2 + 2)
    assert all(row["ms"] > 0 and row["clock"] == "wall" for row in rows)
    assert all(row["floor"] > 0 for row in rows if "pair" not in row["tokens"])
    for told, run in times.contenders("cpu"):
        row = {**told, **check.do(run, time.time() + 60)}
        if row["by"] == "varlen_attn":
            assert "error" in row
        elif row["by"] != "floor":
            assert row["off"] < (3e-2 if row["type"] == "bfloat16" else 1e-4)
    rows = do_all(times.edge_lists("cpu"))
    assert len(rows) == 2 * 2 * 3 * 2 and all(row["edges"] == 600 for row in rows)
    for row in rows:
        if row["by"] == "dense":
            assert row["off"] < (2e-2 if row["type"] == "bfloat16" else 1e-5)
            assert row["off"] > 0 or row["type"] == "bfloat16"
    names = ("pyg_atomenc dense", "size buckets")
    rows = do_all(times.attention_alone("cpu"), lambda told: told["by"] in names)
    assert len(rows) == 12 and all(row["share"] > 0 for row in rows)


def test_other_configurations_are_for_their_row_alone(load):
    times = load("gpu_times")

    def there():
        return {
            dtype: {size: tuple(c) for size, c in found.items()}
            for dtype in times.CONFIGS
            for found in [times.launch.kernel_configs(dtype, 32)]
        }

    before = there()
    # The first of each is what is there.
    assert before == {
        dtype: {size: configs[0] for size, configs in sizes.items()}
        for dtype, sizes in times.CONFIGS.items()
    }
    with pytest.raises(KeyError), times.configured(torch.float32, 16, 2, 1):
        assert there()[torch.float32][16] == (2, 1)
        raise KeyError
    assert there() == before


def test_a_call_that_no_graph_takes_is_timed_by_events(load, monkeypatch):
    module = load("device_clock")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    seen = []

    def clock(step, device, limit):
        seen.append(step)
        return {"ms": float(len(seen)), "host": 5.0, "calls": 1}

    monkeypatch.setattr(module, "clock", clock)
    graph = SimpleNamespace(replay="replay")
    monkeypatch.setattr(module, "captured", lambda step: (graph, None))
    row = module.replay_clock("step", "cuda")
    assert seen == ["step", "replay"]
    assert row == {"ms": 2.0, "host": 5.0, "calls": 1, "clock": "graph"}

    def fail(step):
        raise RuntimeError("operation not permitted\nwhen capturing")

    monkeypatch.setattr(module, "captured", fail)
    row = module.replay_clock("step", "cuda")
    assert row["clock"] == "events" and row["why"] == "operation not permitted"
    assert row["ms"] == 3.0 and "spoiled" not in row

    def fail_midway(step):
        raise module.CaptureError("operation not permitted")

    monkeypatch.setattr(module, "captured", fail_midway)
    assert module.replay_clock("step", "cuda")["spoiled"]
