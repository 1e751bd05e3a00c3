"""Whether what the driver orders can be carried out by this worker at all: looked at once, before anything is touched.

Stateless: what the block tables hold and which runs are open is checked where that is kept.
"""

from backends.control.messages import ConnectPeer, DisconnectPeer, DriverMessage, Order
from backends.control.ranges import PeerLimits, check_blocks, check_ids, check_tokens, require
from kvsim.core.messages import (
    AssignBlocks,
    ChooseMode,
    Command,
    CutDecode,
    EndLease,
    FinishRequest,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunPrefill,
    StartTransfer,
    StopTransfer,
    WorkerId,
)


def check_driver_message(message: DriverMessage, worker: WorkerId, limits: PeerLimits) -> None:
    """Raises Refusal if an id, length, layer, block or token is out of range, or another worker is meant."""
    match message:
        case Order(command=command, starts=starts, terms=terms):
            check_ids("request", [*(part.request for part in terms), *(start.request for start in starts)])
            _check_command(command, worker, limits)
            check_tokens(message.tokens, _tokens_ordered(command), limits.vocabulary)
            for start in starts:
                require(start.last_token < limits.vocabulary, f"token {start.last_token} of {limits.vocabulary}")
        case ConnectPeer(worker=peer) | DisconnectPeer(worker=peer):
            check_ids("worker", [peer])
            require(peer != worker, f"worker {worker} as its own peer")
        case _:
            pass


def _tokens_ordered(command: Command) -> dict[RequestId, int]:
    if not isinstance(command, RunPrefill):
        return {}
    counts = {chunk.request: chunk.tokens for chunk in command.chunks}
    require(len(counts) == len(command.chunks), "two chunks of one request in one step")
    return counts


def _check_command(command: Command, worker: WorkerId, limits: PeerLimits) -> None:
    match command:
        case AssignBlocks(request=request, blocks=blocks, generation=generation):
            check_ids("request", [request])
            check_ids("generation", [generation])
            check_blocks(blocks, limits.kv_blocks)
        case ReleaseBlocks(request=request):
            check_ids("request", [request])
        case RunPrefill():
            _check_prefill(command, limits)
        case RunDecode(run=run, batch=batch, spare_blocks=spare):
            check_ids("run", [run])
            check_ids("request", batch)
            require(len(set(batch)) == len(batch) > 0, f"batch {batch}")
            require(command.steps_max > 0, f"{command.steps_max} steps")
            check_blocks(spare, limits.kv_blocks)
        case CutDecode(run=run):
            check_ids("run", [run])
        case StartTransfer():
            _check_transfer(command, worker, limits)
        case FinishRequest() | StopTransfer() | ChooseMode() | EndLease():
            require(False, f"{type(command).__name__} is not for workers")
    if not isinstance(command, StartTransfer | StopTransfer | FinishRequest | ChooseMode):
        require(command.worker == worker, f"an order for worker {command.worker} at worker {worker}")


def _check_prefill(command: RunPrefill, limits: PeerLimits) -> None:
    check_ids("run", [command.run])
    requests = [chunk.request for chunk in command.chunks]
    check_ids("request", [*requests, *command.decoding])
    for chunk in command.chunks:
        require(chunk.start_token >= 0 and chunk.tokens > 0, f"chunk ({chunk.start_token}, {chunk.tokens})")
    require(set(command.completes) <= set(requests), f"{command.completes} completes, chunks of {requests}")
    require(not set(command.decoding) & set(requests), f"{command.decoding} decodes, chunks of {requests}")
    require(command.announce_layers >= 0, f"announce {command.announce_layers} layers")
    check_blocks(command.spare_blocks, limits.kv_blocks)


def _check_transfer(command: StartTransfer, worker: WorkerId, limits: PeerLimits) -> None:
    check_ids("transfer", [command.transfer])
    check_ids("worker", [command.source, command.target])
    check_ids("generation", [command.generation])
    check_ids("path", [command.path])
    require(command.source != command.target, f"a transfer from worker {command.source} to itself")
    require(worker in (command.source, command.target), f"{command.source} to {command.target} at worker {worker}")
    require(
        command.first_layer >= 0 and 0 < command.layers <= limits.layers - command.first_layer,
        f"layers {command.first_layer} + {command.layers} of {limits.layers}",
    )
    mine, theirs = command.source_blocks, command.target_blocks
    if worker == command.target:
        mine, theirs = theirs, mine
    # the peer's pool may have another size: the transport checks its blocks against the regions it described
    counts = (check_blocks(mine, limits.kv_blocks), check_blocks(theirs, 1 << 40))
    require(counts[0] == counts[1] > 0, f"{counts[0]} blocks here pair up with {counts[1]} there")
