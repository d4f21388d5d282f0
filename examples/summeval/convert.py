"""SummEval-OP as a table that `attune data check` reads: a row for each summary and rater, a column for each of seven attributes.

    python examples/summeval/convert.py FOLDER > examples/summeval/summaries.csv

FOLDER holds summeval-op-detailed.jsonl of https://github.com/tjsiledar/SummEval-OP. Only the standard library is needed.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

ATTRIBUTES = {
    "fluency": "fl",
    "coherence": "co",
    "relevance": "re",
    "faithfulness": "fa",
    "coverage": "ac",
    "sentiment": "sc",
    "specificity": "sp",
}
RATERS = 3
SOURCE = "summeval-op-detailed.jsonl"


def main(folder: Path) -> None:
    """Writes the table to standard output, summaries of one product after another."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["user", "prompt", "response", *ATTRIBUTES])
    for line in (folder / SOURCE).read_text(encoding="utf-8").splitlines():
        product = json.loads(line)
        prompt = "What do buyers say of this?\n\n" + "\n".join(product["reviews"])
        for at, summary in enumerate(product["summaries"]):
            for rater in range(RATERS):
                table.writerow([f"rater {rater + 1}", prompt, summary, *(product[short][at][rater] for short in ATTRIBUTES.values())])


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / SOURCE).is_file():
        sys.exit(f"one argument is needed: the folder that holds {SOURCE}")
    main(Path(sys.argv[1]))
