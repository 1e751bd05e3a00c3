"""Transport ``cuda_ipc``: the GPU memory of processes of one host, through the CUDA driver's own interprocess handles.

In the order in which one reads them::

    driver       libcuda by ctypes: the calls that are made, with their types; nothing is decided there
    remedies     what helps when one of them fails
    gpu          one GPU of this process: export, open, and scattered copies on a stream
    greeting     what an owner tells a peer that has proven its token
    transport    the port, on top of ``backends.transport.shared_memory``

Written against the documentation and the header of the CUDA driver API, and tested with a stand-in for libcuda
(``tests/fake_cuda.c``). No GPU was at hand: it has never run on one.
"""
