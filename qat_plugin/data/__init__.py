"""Speech for training and testing: corpora -> checked rows -> features and labels.

`corpora` says where a corpus lies, `loading` reads and checks its rows, `features` and `streaming` turn them into what
a Whisper trains on, `collator` makes batches, `overlap` compares training with test speech.
"""
