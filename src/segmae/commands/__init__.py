"""The commands of `segmae`, a file for each group: one calls one Python function and prints what it returns.

Options have no defaults here; what is not given is not passed on, so that the function's own default holds.
"""
