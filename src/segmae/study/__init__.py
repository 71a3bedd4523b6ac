"""Studies: a grid of runs described in YAML, trained a cell at a time, turned into tables and figures.

cells.py        what a study is made of: cells, their tests, and the digest of all that their figures depend on
grid.py         the YAML file -> cells, each with a whole configuration
ledger.py       results/NAME/: what is done, what failed, what is open and what it will cost
runner.py       the open cells of studies, within a budget of time
cellrun.py      one of them: stage 1, training, tests, outcome
cost.py         parameters, GFLOPs and milliseconds of a trained network
evidence.py     finished cells -> figures of each row; no torch, no images
comparison.py   rows against each other: intervals, tests, what chance may do, verdicts, ranks
paper.csv       the figures that the paper printed; printed.py reads them and marks those that cannot be
plots.py        ranks, boxes and cost as PNG (matplotlib)
page.py         headings, paragraphs, tables and pictures -> Markdown and one HTML file
wording.py      rows, figures and tables as reports write them
claims.py       whether the study's claims hold
notes.py        what stands below the tables: how to read them, where the figures come from
report.py       all of it as such a page, and the page of all claims
sheets.py       pictures of what each model found, for the eye; not for publication
"""
