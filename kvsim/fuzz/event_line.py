"""The events of a story as words, read and written.

It must not know what the scheduler makes of them.
"""

import re

from kvsim.core.messages import (
    DeadlineReached,
    DecodeAdvanced,
    Event,
    LayersReady,
    LeasesRenewed,
    PrefillDone,
    Request,
    RequestArrived,
    RequestCancelled,
    RequestId,
    RoleSwitched,
    RunId,
    SwitchId,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)

UNLIMITED = 1 << 30
STEP_FS = 1_000_000


def read_event(words: list[str], names: dict[str, WorkerId], generations: dict[TransferId, int]) -> Event:
    """``arrive r0 prompt=9 max=4 tenant=x``, ``layers p0 run0 2``, ``prefilled p0 run0 [last r0,r1]``, ``decoded d0
    run1 3 [last r0 | more]``, ``arrived t0 [stale | of 7]``, ``released t0``, ``deadline``, ``alive d0 t0,t1``, or what
    ``read_mishap`` reads. ``generations`` are those of the source blocks of each transfer."""
    match words:
        case ["arrive", request, *values]:
            labels = dict(value.split("=") for value in values)
            prompt, limit = int(labels.pop("prompt")), int(labels.pop("max", UNLIMITED))
            return RequestArrived(Request(RequestId(number(request)), prompt, limit, tuple(labels.items())))
        case ["layers", name, run, layers]:
            return LayersReady(names[name], RunId(number(run)), int(layers))
        case ["prefilled", name, run, *rest]:
            return PrefillDone(names[name], RunId(number(run)), _last(rest))
        case ["decoded", name, run, steps, "more"]:
            return DecodeAdvanced(names[name], RunId(number(run)), int(steps), STEP_FS, 0, False)
        case ["decoded", name, run, steps, *rest]:
            return DecodeAdvanced(names[name], RunId(number(run)), int(steps), STEP_FS, 0, True, _last(rest))
        case ["arrived", transfer]:
            found = TransferId(number(transfer))
            return TransferDone(found, generations.get(found, 0))
        case ["arrived", transfer, "stale"]:
            return TransferDone(TransferId(number(transfer)), 0)
        case ["arrived", transfer, "of", generation]:
            return TransferDone(TransferId(number(transfer)), int(generation))
        case ["alive", name, *transfers]:
            carried = transfers[0].split(",") if transfers else []
            return LeasesRenewed(names[name], tuple(TransferId(number(transfer)) for transfer in carried))
        case ["released", transfer]:
            return TransferReleased(TransferId(number(transfer)))
        case ["deadline"]:
            return DeadlineReached()
        case _:
            return read_mishap(words, names)


def read_mishap(words: list[str], names: dict[str, WorkerId]) -> Event:
    """``failed t0``, ``cancel r0``, ``lost d0``, ``leaving d0``, ``joined d0``, ``switched d0 switch0``."""
    match words:
        case ["failed", transfer]:
            return TransferFailed(TransferId(number(transfer)))
        case ["cancel", request]:
            return RequestCancelled(RequestId(number(request)))
        case ["lost", name]:
            return WorkerLost(names[name])
        case ["leaving", name]:
            return WorkerLeaving(names[name])
        case ["joined", name]:
            return WorkerJoined(names[name])
        case ["switched", name, switch]:
            return RoleSwitched(names[name], SwitchId(number(switch)))
        case _:
            raise AssertionError(f"what event is {' '.join(words)!r}?")


def write_event(event: Event, names: list[str], generations: dict[TransferId, int]) -> str:
    """The words that ``read_event`` reads as this event, but for how long a step took."""
    match event:
        case RequestArrived(request):
            limit = "" if request.output_tokens_max == UNLIMITED else f" max={request.output_tokens_max}"
            labels = "".join(f" {label}={value}" for label, value in request.labels)
            return f"arrive r{request.id} prompt={request.prompt_tokens}{limit}{labels}"
        case LayersReady(worker, run, layers):
            return f"layers {names[worker]} run{run} {layers}"
        case PrefillDone(worker, run, finished):
            return f"prefilled {names[worker]} run{run}{_of_last(finished)}"
        case DecodeAdvanced():
            end = _of_last(event.finished) if event.ended else " more"
            return f"decoded {names[event.worker]} run{event.run} {event.steps}{end}"
        case TransferDone(transfer, generation):
            fresh = generation == generations.get(transfer, 0)
            return f"arrived t{transfer}" if fresh else f"arrived t{transfer} of {generation}"
        case TransferReleased(transfer):
            return f"released t{transfer}"
        case LeasesRenewed(worker, transfers):
            return " ".join(["alive", names[worker], *([",".join(f"t{t}" for t in transfers)] if transfers else [])])
        case DeadlineReached():
            return "deadline"
        case _:
            return write_mishap(event, names)


def write_mishap(event: Event, names: list[str]) -> str:
    """The words that ``read_mishap`` reads as this event."""
    match event:
        case TransferFailed(transfer):
            return f"failed t{transfer}"
        case RequestCancelled(request):
            return f"cancel r{request}"
        case WorkerLost(worker):
            return f"lost {names[worker]}"
        case WorkerLeaving(worker):
            return f"leaving {names[worker]}"
        case WorkerJoined(worker):
            return f"joined {names[worker]}"
        case RoleSwitched(worker, switch):
            return f"switched {names[worker]} switch{switch}"
        case _:
            raise AssertionError(f"no words for {event}")


def number(word: str) -> int:
    """The number at the end of ``r7``, ``max=4`` or ``run12``."""
    return int(re.sub(r"^[a-z]+=?", "", word))


def _last(words: list[str]) -> tuple[RequestId, ...]:
    return tuple(RequestId(number(request)) for request in words[1].split(",")) if words else ()


def _of_last(finished: tuple[RequestId, ...]) -> str:
    return f" last {','.join(f'r{request}' for request in finished)}" if finished else ""
