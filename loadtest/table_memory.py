"""Memory and CPU time of reading a long table: the most that `attune data check`, and the reader of training, hold at once.

    python -m loadtest.table_memory [--rows 1000000] [--users 20000] [--words 30]

Makes a table of pairs as .jsonl and as .csv.gz, in which every answer is another text, and runs a process on each: `attune data check`,
and what `attune train families` does with a table before the first text is embedded. Memory is the operating system's own count
of the process's largest resident set. The exit code is 1 where one of them needed more than `--most` GB.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

WORDS = tuple(
    f"{one}{other}" for one in ("al", "be", "cor", "du", "el", "fa", "gri", "ho") for other in ("ba", "dent", "mo", "ry", "tis", "u")
)
READS = """
import sys
from attune.models.data.adapters import read_comparisons
comparisons = read_comparisons(sys.argv[1])
print(f"comparisons  {len(comparisons):,} of {len(comparisons.users):,} people")
"""
COMMANDS = {"data check": ("-m", "attune.models", "data", "check"), "read to train": ("-c", READS)}


def rows_of(count: int, users: int, words: int, seed: int) -> Iterator[dict[str, str]]:
    """Yields rows of pairs: a prompt for every tenth row, and two answers of about so many words, told apart by a number."""
    draw = random.Random(seed)
    for number in range(count):
        chosen, rejected = (" ".join(draw.choices(WORDS, k=draw.randint(words // 2, words + words // 2))) for _ in range(2))
        user, prompt = f"user-{draw.randrange(users)}", f"How is {draw.randrange(max(1, count // 10))} made?"
        yield {"user": user, "prompt": prompt, "chosen": f"{chosen} {number}", "rejected": f"{rejected} {number}"}


def write_tables(folder: Path, rows: Iterator[dict[str, str]]) -> tuple[Path, Path]:
    """Returns a file of JSON lines and a packed one of separated values, which hold the same."""
    lines, packed = folder / "pairs.jsonl", folder / "pairs.csv.gz"
    with lines.open("w", encoding="utf-8") as plain, gzip.open(packed, "wt", encoding="utf-8", newline="", compresslevel=1) as separated:
        table = csv.DictWriter(separated, ["user", "prompt", "chosen", "rejected"])
        table.writeheader()
        for row in rows:
            plain.write(json.dumps(row) + "\n")
            table.writerow(row)
    return lines, packed


def spent(command: tuple[str, ...], table: Path) -> tuple[float, float]:
    """Returns gigabytes and seconds of CPU time of one process.

    Raises:
        RuntimeError: it failed.
    """
    started = subprocess.Popen([sys.executable, *command, str(table)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise RuntimeError(f"{' '.join(command[-2:])} ended with {started.returncode}")
    return used.ru_maxrss * 1024 / 1e9, used.ru_utime + used.ru_stime


def main() -> None:
    """Prints a line for each command and file, and ends with 1 where one needed too much."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--users", type=int, default=20_000)
    options.add_argument("--words", type=int, default=30, help="of an answer, on average")
    options.add_argument("--most", type=float, default=1.5, help="GB that one process may need")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    too_much = False
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        tables = write_tables(Path(folder), rows_of(given.rows, given.users, given.words, given.seed))
        for table in tables:
            print(f"{table.name}: {given.rows:,} rows, {table.stat().st_size / 1e6:,.0f} MB", flush=True)
            for name, command in COMMANDS.items():
                memory_gb, cpu_s = spent(command, table)
                too_much |= memory_gb > given.most
                print(f"  {name:<14} {memory_gb:5.2f} GB at most, {cpu_s:4.0f} s of CPU time", flush=True)
    sys.exit(1 if too_much else 0)


if __name__ == "__main__":
    main()
