"""What goes wrong in a simulated run, when, and what it does: hidden truth that the scheduler only learns in reports.

``spec`` holds what a scenario asks for, ``plan`` makes a list of timed faults of it, ``injector`` lets them happen. A
simulation without a plan imports and pays nothing of it beyond a few comparisons.
"""
