"""Real workers: the scheduler of ``kvsim.core`` drives torch models whose KV caches move between processes.

Imports point one way: this package may use ``kvsim.core``, ``kvsim.errors``, ``kvsim.units`` and ``kvsim.record``, but
never ``kvsim.sim``; ``kvsim`` reaches it only from its command line, lazily. torch is imported in ``backends.model``
and ``backends.worker`` alone.
"""
