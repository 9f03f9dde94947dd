"""Goodness of fit and independence of every sampler, from counts taken on the device.

`python -m tests.draws` draws 10 ** 8 tokens of each sampler and writes `report.md`;
`tests/test_draws.py` draws 10 ** 6 of each, from the same cases.
"""
