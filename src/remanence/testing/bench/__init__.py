"""Measuring what remembering costs, as ratios against plain redis-py doing the naive thing.

`rounds` times and compares, `workbench` holds the server and the amounts, `ratios` and `limits` have the
cases, `report` runs them and shows what came out. Run it with `remanence bench`.
"""
