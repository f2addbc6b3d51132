"""Jobs held to a memory budget and to a committed baseline, in continuous integration.

`config` reads the jobs, `run` predicts each, `footprint` is what is kept of an answer, `baseline` the file it is kept
in, `compare` what grew between two of them, `verdict` what follows; `text`, `markdown`, `junit` and `github` tell it.
"""
