"""Transport ``verbs``: one-sided READ and WRITE of an RDMA card, through pyverbs. ``transport`` is the way in.

    library       pyverbs of any version from 44 on, or what is missing
    native        the few C functions that are called per batch of work requests instead of through pyverbs
    sysfs         which devices, ports and GIDs there are, and which lies nearest to a GPU
    device        one opened device
    gpu           where a GPU sits, and its memory as a dmabuf
    regions       memory that is registered with it
    queue_pairs   queue pairs, connected to a peer's
    wire          what two ends tell each other about them
    owner         the end whose memory is read and written
    requests      chains of work requests as one array
    schedule      transfers cut into chains, and which of them are on their way
    faults        what a failed work request means
    initiator     the end that reads and writes: its queue pairs
    mover         the thread that keeps those busy and mends them
    transport     the transport that is made of all this
    posting_cost  what Python costs per work request
    doctor        whether this machine can use all this, and what to do where it cannot

Nothing here is imported unless somebody asks for the transport by name.
"""
