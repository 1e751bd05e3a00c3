"""Random clusters, loads and faults against the scheduler, and what it must keep whatever happens.

A *schedule* is one world played to its end: see ``world``. ``campaign`` plays many, ``shrink`` makes one that failed
short, ``language`` writes it down as a story that becomes a regression test. A schedule has no durations and reads no
clock: its seed says all.
"""
