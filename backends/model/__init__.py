"""Decoder-only transformers in torch with a paged KV cache: configuration, weights, one step, sampling, text.

Read ``config`` (what a model is), ``batch`` and ``kv_cache`` (what a step is given), ``transformer`` (the step) and
``attention`` (the only place that follows block tables). Nothing here knows schedulers, transports or processes.
Import the modules themselves: this package imports none of them, so that ``config`` is usable without torch.
"""
