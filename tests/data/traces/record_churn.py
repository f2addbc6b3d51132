"""Record how PyTorch's caching allocator serves a random program; needs a CUDA build of torch and a device.

    PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:40 python record_churn.py OUT.json.gz --seed 1 --limit-bytes 2147483648

Allocates and frees byte tensors of random sizes, keeps about as much alive as the limit allows, and goes on after an
OutOfMemoryError. `--streams 2` writes PyTorch's own memory snapshot as JSON, which names the stream of each event.
"""

import argparse
import gzip
import json
import os
import random

import torch

MIB = 1 << 20
STATS = ("requested", "allocated", "active", "reserved")


def size(rng, scale):
    kind = rng.random()
    if kind < 0.35:
        return rng.randint(1, MIB)
    if kind < 0.45:
        return rng.choice([MIB - 511, MIB, MIB + 1, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1, 2 * MIB, 20 * MIB])
    if kind < 0.75:
        return rng.randint(MIB, 10 * MIB)
    return rng.randint(10 * MIB, scale // 8)


def churn(seed, steps, scale, streams):
    rng = random.Random(seed)
    live, total = [], 0
    for _ in range(steps):
        goal = scale * (0.5 + 0.5 * rng.random())
        if not live or (total < goal and rng.random() < 0.6):
            n = size(rng, scale)
            try:
                with torch.cuda.stream(rng.choice(streams)):
                    live.append(torch.empty(n, dtype=torch.uint8, device="cuda"))
                total += n
            except torch.OutOfMemoryError:
                pass
        else:
            gone = live.pop(rng.randrange(len(live)))
            total -= gone.numel()
            del gone
        if rng.random() < 0.003:
            live, total = [], 0
    return live


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--steps", type=int, default=2000)
    a.add_argument("--limit-bytes", type=int, required=True, help="what the device has; on a real one, make it so")
    a.add_argument("--streams", type=int, default=1)
    o = a.parse_args()
    torch.cuda.init()
    streams = [torch.cuda.default_stream(), *(torch.cuda.Stream() for _ in range(o.streams - 1))]
    torch.cuda.memory._record_memory_history(context=None, stacks="python", max_entries=1 << 20)
    live = churn(o.seed, o.steps, o.limit_bytes, streams)
    snapshot = torch.cuda.memory._snapshot()
    stats = torch.cuda.memory_stats()
    del live
    if o.streams > 1:
        text = json.dumps({name: snapshot[name] for name in ("device_traces", "allocator_settings")})
    else:
        text = json.dumps(record(snapshot["device_traces"][0], stats, o), separators=(",", ":"))
    with gzip.GzipFile(o.out, "wb", 9, mtime=0) as f:
        f.write(text.encode())


def record(trace, stats, o):
    names, rows = [], []
    trace = [e for e in trace if e["action"] != "snapshot"]
    base = min(e["addr"] for e in trace if "addr" in e)
    for e in trace:
        if e["action"] not in names:
            names.append(e["action"])
        rows.append([names.index(e["action"]), e["size"], e["addr"] - base if "addr" in e else e["device_free"]])
    properties = torch.cuda.get_device_properties(0)
    return {
        "case": f"churn {o.seed}", "torch_version": torch.__version__, "device_name": properties.name,
        "total_memory": properties.total_memory,
        "allocator_settings": os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
        "limit_bytes": o.limit_bytes, "streams": 1, "actions": names, "columns": ["action", "size", "address"],
        "phase_ends": [["churn", len(rows)]], "num_alloc_retries": stats["num_alloc_retries"],
        "num_ooms": stats["num_ooms"],
        **{f"peak_{name}": stats[f"{name}_bytes.all.peak"] for name in STATS},
        **{f"{name}_after": stats[f"{name}_bytes.all.current"] for name in STATS}, "events": rows,
    }  # fmt: skip


if __name__ == "__main__":
    main()
