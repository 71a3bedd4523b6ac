"""Studies: a grid of runs described in YAML, trained a cell at a time, turned into tables and figures.

grid.py     the YAML file -> cells, each with a whole configuration
ledger.py   results/NAME/: what is done, what failed, what is open and what it will cost
runner.py   open cells, trained and tested within a budget of time
cost.py     parameters, GFLOPs and milliseconds of a trained network
tables.py   finished cells -> figures with intervals, tests and ranks; no torch, no images
paper.csv   the figures that the paper printed; printed.py reads them and marks those that cannot be
plots.py    ranks, boxes and cost as PNG (matplotlib)
report.py   all of it as Markdown and as one HTML file
sheets.py   pictures of what each model found, for the eye; not for publication
"""
