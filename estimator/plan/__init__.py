"""A capacity plan: many jobs and settings on many devices, in parallel, kept as they are solved.

`config` reads the plan, `cells` takes the product of its settings, `content` says what an answer hangs on, `work`
solves a group of cells, `engines` says where groups are solved, `store` keeps what is solved, `run` joins them;
`money` and `tables` are what comes of it.
"""
