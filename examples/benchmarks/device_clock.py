"""How `gpu_times.py` times a call on a device, and what it finds out about it."""

import gc
import statistics
import time

import torch

# How often a call is timed: fewer than these where they take too long, but a quarter.
CALLS = 20


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def clock(step, device, limit=0.5):
    """Medians of a call's milliseconds on the device and on the CPU."""
    size = 2**27 if device == "cuda" else 1
    cache = torch.empty(size, dtype=torch.int8, device=device)
    calls, hosts, start = [], [], time.perf_counter()
    while len(calls) < CALLS // 4 or (
        len(calls) < CALLS and time.perf_counter() - start < limit
    ):
        # Larger than the L2 cache, which forgets the inputs.
        cache.zero_()
        wait(device)
        before = time.perf_counter()
        if device == "cuda":
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
        step()
        hosts.append(1e3 * (time.perf_counter() - before))
        if device == "cuda":
            events[1].record()
            wait(device)
        calls.append(events[0].elapsed_time(events[1]) if device == "cuda" else 0)
    median = statistics.median(calls if device == "cuda" else hosts)
    return {"ms": median, "host": statistics.median(hosts), "calls": len(hosts)}


class CaptureError(RuntimeError):
    """A capture that failed: torch's allocator goes on as if it had not ended."""

    # What the process does from now on would not count.
    spoils = True


def captured(step):
    """A CUDA graph of a step that was warmed up, and what the step gave.

    A step that waits for the device, or fills its memory, is refused before.
    """
    torch.cuda.reset_peak_memory_stats()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            # Kernels are compiled, and plans made, before the capture.
            step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    if torch.cuda.max_memory_allocated() > 0.8 * torch.cuda.mem_get_info()[1]:
        raise RuntimeError("needs most of the memory")
    graph = torch.cuda.CUDAGraph()
    # Garbage that frees memory of the device would end the capture.
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph):
            found = step()
    except Exception as error:
        raise CaptureError(str(error)) from error
    finally:
        if collects:
            gc.enable()
    return graph, found


def replay_clock(step, device, limit=0.1):
    """As :func:`clock`, where it can be of a captured graph; says which it was.

    "spoiled" is there where nothing that this process times from now on would count.
    """
    found = {**clock(step, device, limit), "clock": "wall"}
    if device != "cuda":
        return found
    try:
        graph, _ = captured(step)
        times = clock(graph.replay, device, limit)
    except CaptureError as error:
        return {**found, "clock": "events", "why": str(error)[:80], "spoiled": True}
    except RuntimeError as error:
        torch.cuda.synchronize()
        return {**found, "clock": "events", "why": str(error).splitlines()[0][:80]}
    # What the host takes is a matter of calls without a graph.
    return {**found, "ms": times["ms"], "clock": "graph"}


def look_into(step):
    """Kernels and copies of a call, their milliseconds, and bytes beyond the rest."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        step()
        wait("cuda")
    memory = torch.cuda.max_memory_allocated() - before
    found = [e for e in p.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(e.time_range.elapsed_us() for e in found) / 1e3
    return {"launches": len(found), "busy": busy, "bytes": memory}
