"""What the peers' own tests hold of their functions, asserted of these: inputs and results, no
code.

A test names the upstream test whose fact it carries. Where upstream draws its input without a seed,
the same sizes are drawn here with one. Where a result upstream is printed to a few digits, it may
be off by half a unit of the last. No peer is imported.
"""
