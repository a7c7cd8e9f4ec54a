"""Measuring: text → errors → intervals, ONNX folder → transcripts → results.json → report and plots.

`normalizer`, `wer`, `loops` judge texts; `bootstrap` says how sure a figure is, `breakdown` where the errors lie; `metric` is
the same as an `evaluate` module, `compute_metrics` as a trainer's function. `run` transcribes a corpus with one arm into a
file of `transcripts`, `cost` opens an arm in a process of its own, `results` scores and compares arms, `report`, `plots` and
`page` show them, `alignment` word under word, and `report_files` writes what they show.
"""
