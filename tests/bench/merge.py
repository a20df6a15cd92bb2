"""Merging beside mergekit, on the same files in one run, and beside the floor of the machine.

Builds a Llama checkpoint in bfloat16 and three fine-tunes of it, merges them with mergekit and with
us, by turns, with a warm and a cold page cache, and prints wall, CPU and memory ratios. The floor
reads every input once and writes the output once, durably. With ``--growth`` it also merges models
of several sizes and draws time and memory over size.

The last line is the closing line of all benchmarks: wall time, of SCE with a warm cache where that
was run.
Usage: python tests/bench/merge.py [--layers 22] [--rounds 1] [--methods sce,linear,ties,dare_ties]
           [--caches warm,cold] [--folder FOLDER] [--growth 0.13,0.27,0.53,1.07,2.1,4]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from measure import print_result
from safetensors.torch import save_file

from crucible_components.merging.testing import FolderFiles
from crucible_components.models.weights import TensorReader

SCE_GOAL, GOAL = 10.0, 5.0
HIDDEN, FEED_FORWARD, VOCABULARY, HEADS, KEY_HEADS = 2048, 5632, 32000, 32, 4
CHUNK_BYTES = 8 << 20
METHODS: dict[str, dict[str, object]] = {
    "sce": {"select_topk": 0.5},
    "linear": {"weight": 1.0},
    "ties": {"weight": 1.0, "density": 0.5},
    "dare_ties": {"weight": 1.0, "density": 0.5},
    "slerp": {"t": 0.5},
}


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Largest resident set, mapped files included; as last seen, 20 ms before the end."""
    anonymous_bytes: int
    """Largest of the process's own memory, sampled."""


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama of that many layers."""
    key = HIDDEN // HEADS * KEY_HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for index in range(layers):
        prefix = f"model.layers.{index}."
        for name, rows in (("q", HIDDEN), ("k", key), ("v", key), ("o", HIDDEN)):
            found[f"{prefix}self_attn.{name}_proj.weight"] = (rows, HIDDEN)
        found[f"{prefix}mlp.gate_proj.weight"] = (FEED_FORWARD, HIDDEN)
        found[f"{prefix}mlp.up_proj.weight"] = (FEED_FORWARD, HIDDEN)
        found[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, FEED_FORWARD)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}{norm}.weight"] = (HIDDEN,)
    return {**found, "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_models(folder: Path, layers: int, count: int) -> int:
    """The base and ``count`` fine-tunes of it; returns the number of parameters of each."""
    wanted = shapes(layers)
    for number, name in enumerate(("base", "a", "b", "c")[: count + 1]):
        if (folder / name / "config.json").exists():
            continue
        (folder / name).mkdir(parents=True)
        tensors = {}
        for position, (tensor, shape) in enumerate(wanted.items()):
            values = torch.randn(shape, generator=torch.Generator().manual_seed(position)) * 0.02
            if number:
                seed = torch.Generator().manual_seed(1000 * number + position)
                values += torch.randn(shape, generator=seed) * 0.002
            tensors[tensor] = values.bfloat16()
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        write_config(folder / name, layers)
    return sum(torch.Size(shape).numel() for shape in wanted.values())


def write_config(folder: Path, layers: int) -> None:
    """Last: a folder with it is whole."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_file(folder: Path, method: str, models: Sequence[str]) -> Path:
    """The merge file, the same for both."""
    content: dict[str, object] = {
        "merge_method": method,
        "models": [{"model": str(folder / name)} for name in models],
        "parameters": METHODS[method],
        "dtype": "bfloat16",
    }
    if method != "linear":
        content["base_model"] = str(folder / "base")
    path = folder / f"{method}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(contender: str, file: Path, out: Path) -> list[str]:
    """How it is called."""
    if contender == "mergekit":
        program = "from mergekit.scripts.run_yaml import main; main()"
        return [sys.executable, "-c", program, str(file), str(out), "--quiet"]
    arguments = ["run", str(file), "--out", str(out), "--quiet"]
    return [sys.executable, "-m", "crucible_components.merging", *arguments]


def measured(arguments: Sequence[str], log: Path) -> Cost:
    """Run a process to its end."""
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(arguments, stdout=stream, stderr=subprocess.STDOUT)
    highest = {"VmHWM": 0, "RssAnon": 0}
    watcher = threading.Thread(target=watch_memory, args=(process.pid, highest), daemon=True)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{log.read_text()[-3000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, highest["VmHWM"], highest["RssAnon"])


def watch_memory(pid: int, highest: dict[str, int]) -> None:
    """Keep the largest of each figure of a process, in bytes, until it ends.

    Not what `wait4` says: that starts at what this process had when it began the other.
    """
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = [line.replace(":", "").split() for line in status.read_text().splitlines()]
        except OSError:
            return
        found = {line[0]: int(line[1]) * 1024 for line in lines if line[0] in highest}
        if not found:
            return
        for name, num_bytes in found.items():
            highest[name] = max(highest[name], num_bytes)
        time.sleep(0.02)


def inputs_of(folder: Path, models: Sequence[str]) -> list[Path]:
    """All files of weights that a merge reads."""
    return [path for name in models for path in (folder / name).glob("*.safetensors")]


def prepare_cache(files: Sequence[Path], cache: str) -> None:
    """Have the files in the page cache, or out of it."""
    for path in files:
        with path.open("rb") as stream:
            if cache == "cold":
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                continue
            while stream.read(CHUNK_BYTES):
                pass


def floor(files: Sequence[Path], num_bytes: int, target: Path) -> float:
    """Seconds to read the files once and to write as many bytes as the output has, durably."""

    def read(path: Path) -> None:
        with path.open("rb", buffering=0) as stream:
            buffer = bytearray(CHUNK_BYTES)
            while stream.readinto(buffer):
                pass

    def write() -> None:
        chunk = os.urandom(CHUNK_BYTES)
        with target.open("wb", buffering=0) as stream:
            os.posix_fallocate(stream.fileno(), 0, num_bytes)
            for _ in range(num_bytes // CHUNK_BYTES):
                stream.write(chunk)
            os.fsync(stream.fileno())

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write), *(pool.submit(read, path) for path in files)]:
            future.result()
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def largest_difference(first: Path, second: Path) -> float:
    """Between the two results, relative to the size of their values, over a few tensors."""
    with TensorReader(FolderFiles(first)) as one, TensorReader(FolderFiles(second)) as other:
        pairs = [
            (one.read(name).float(), other.read(name).float())
            for name in one.infos
            if ".0." in name or "norm" in name
        ]
        return max(float((ours - theirs).abs().max() / ours.abs().max()) for ours, theirs in pairs)


@dataclass(frozen=True)
class Bench:
    """The models, and what is measured on them."""

    folder: Path
    num_parameters: int
    rounds: int

    def compare(self, method: str, cache: str) -> dict[str, list[Cost]]:
        """Both, by turns; prints the ratios."""
        models = ["a", "b", "c"]
        file = write_file(self.folder, method, models)
        read = inputs_of(self.folder, models if method == "linear" else ["base", *models])
        costs: dict[str, list[Cost]] = {"mergekit": [], "ours": []}
        floors = []
        for _ in range(self.rounds):
            for contender in costs:
                shutil.rmtree(self.folder / f"out-{contender}", ignore_errors=True)
                prepare_cache(read, cache)
                arguments = command(contender, file, self.folder / f"out-{contender}")
                costs[contender].append(measured(arguments, self.folder / f"{contender}.log"))
            prepare_cache(read, cache)
            floors.append(floor(read, 2 * self.num_parameters, self.folder / "floor"))
        difference = largest_difference(self.folder / "out-ours", self.folder / "out-mergekit")
        report(f"{method} {cache}", costs, floors, difference)
        for contender in costs:
            shutil.rmtree(self.folder / f"out-{contender}")
        return costs


def report(
    name: str, costs: Mapping[str, Sequence[Cost]], floors: Sequence[float], difference: float
) -> None:
    """A line for each contender, then ratios."""
    peer, ours = (median_of(costs[contender]) for contender in ("mergekit", "ours"))
    for contender, cost in (("mergekit", peer), ("ours", ours)):
        print(
            f"{name:16} {contender:9} wall {cost.wall_seconds:7.2f} s"
            f"  cpu {cost.cpu_seconds:7.2f} s  peak {cost.peak_bytes / 1e9:5.2f} GB"
            f"  own {cost.anonymous_bytes / 1e9:5.2f} GB"
        )
    print(
        f"{name:16} times     wall {peer.wall_seconds / ours.wall_seconds:7.2f}    "
        f"cpu {peer.cpu_seconds / ours.cpu_seconds:7.2f}    "
        f"peak {peer.peak_bytes / ours.peak_bytes:5.2f}     "
        f"own {peer.anonymous_bytes / ours.anonymous_bytes:5.2f}     "
        f"floor {statistics.median(floors):.2f} s, ours is "
        f"{ours.wall_seconds / statistics.median(floors):.2f} of it; "
        f"results differ by {difference:.1e} at most",
        flush=True,
    )


def median_of(costs: Sequence[Cost]) -> Cost:
    """Each figure's own."""
    return Cost(
        statistics.median(cost.wall_seconds for cost in costs),
        statistics.median(cost.cpu_seconds for cost in costs),
        int(statistics.median(cost.peak_bytes for cost in costs)),
        int(statistics.median(cost.anonymous_bytes for cost in costs)),
    )


def grow(folder: Path, billions: Sequence[float]) -> Iterator[tuple[float, Cost]]:
    """TIES of one fine-tune with its base, for sizes that fit on the disk."""
    a_layer = sum(torch.Size(s).numel() for s in shapes(2).values())
    a_layer -= sum(torch.Size(s).numel() for s in shapes(1).values())
    outside = sum(torch.Size(s).numel() for s in shapes(0).values())
    for wanted in billions:
        layers = max(1, round((wanted * 1e9 - outside) / a_layer))
        needed = 3 * 2 * (outside + layers * a_layer)
        if needed > shutil.disk_usage(folder).free * 0.95:
            print(f"growth {wanted} B: left out, needs {needed / 1e9:.0f} GB of disk")
            continue
        place = folder / "growth"
        parameters = write_models(place, layers, 1)
        file = write_file(place, "ties", ["a"])
        prepare_cache(inputs_of(place, ["base", "a"]), "cold")
        cost = measured(command("ours", file, place / "out"), place / "log")
        shutil.rmtree(place)
        yield parameters / 1e9, cost


def draw(points: Sequence[tuple[float, Cost]]) -> None:
    """Time and memory over size, as bars of text."""
    slowest = max(cost.wall_seconds for _, cost in points)
    most = max(cost.anonymous_bytes for _, cost in points)
    for billions, cost in points:
        time_bar = "█" * max(1, round(30 * cost.wall_seconds / slowest))
        memory_bar = "█" * max(1, round(30 * cost.anonymous_bytes / most))
        print(
            f"growth {billions:5.2f} B  {cost.wall_seconds:7.2f} s "
            f"({cost.wall_seconds / billions:5.2f} s/B) {time_bar:30}  "
            f"{cost.anonymous_bytes / 1e9:5.2f} GB {memory_bar}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--methods", default="linear,ties,dare_ties,sce")
    parser.add_argument("--caches", default="warm,cold")
    parser.add_argument("--folder", type=Path, help="keep the models here, and use those there")
    parser.add_argument("--growth", default="", help="billions of parameters, by commas")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as temporary:
        folder = arguments.folder or Path(temporary)
        parameters = write_models(folder, arguments.layers, 3)
        print(f"{parameters / 1e9:.2f} B parameters, base and three fine-tunes, bfloat16")
        bench = Bench(folder, parameters, arguments.rounds)
        found = {
            (method, cache): bench.compare(method, cache)
            for method in arguments.methods.split(",")
            for cache in arguments.caches.split(",")
        }
        if arguments.growth:
            draw(list(grow(folder, [float(each) for each in arguments.growth.split(",")])))
    method, cache = min(found, key=lambda each: (each[0] != "sce", each[1] != "warm"))
    chosen = found[method, cache]
    print_result(
        "merge",
        method=method,
        cache=cache,
        ours=[cost.wall_seconds for cost in chosen["ours"]],
        peer=[cost.wall_seconds for cost in chosen["mergekit"]],
        goal=SCE_GOAL if method == "sce" else GOAL,
        peak_memory_ratio=round(
            median_of(chosen["mergekit"]).peak_bytes / median_of(chosen["ours"]).peak_bytes, 2
        ),
    )


if __name__ == "__main__":
    main()
