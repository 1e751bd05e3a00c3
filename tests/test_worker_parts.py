"""The smaller parts of workers and driver: mailboxes, model sources, descriptions, settings, arrivals, streams."""

import select
import threading
from pathlib import Path
from typing import get_args

import pytest

from backends.control.messages import Sampling
from backends.driver.arrivals import Arrivals
from backends.driver.errors import ServiceError, SubmissionError
from backends.driver.requests import RequestBook, Submission
from backends.driver.streams import Streams
from backends.model.errors import ModelError
from backends.worker.descriptions import decode_descriptions, encode_descriptions
from backends.worker.errors import WorkerError
from backends.worker.mailbox import Mailbox
from backends.worker.model_source import ModelSource
from backends.worker.settings import decode_settings
from backends.worker.transports import announces_layers, lacking_capability, open_transport, peers_may
from kvsim.core.cluster import KvSpec, TransferMode
from kvsim.core.messages import Chunk, Request, RequestId

R = RequestId(4)


def readable(file: int) -> bool:
    return bool(select.select([file], [], [], 0)[0])


# --- mailbox ---------------------------------------------------------------------------------------------------------


def test_a_mailbox_is_readable_while_it_holds_something() -> None:
    box: Mailbox[int] = Mailbox()
    assert not readable(box.fileno())
    assert box.take() == []
    box.put(1)
    box.put(2)
    assert readable(box.fileno())
    assert box.take() == [1, 2]
    assert not readable(box.fileno())


def test_nothing_is_lost_between_threads() -> None:
    box: Mailbox[int] = Mailbox()

    def put_all() -> None:
        for item in range(500):
            box.put(item)

    threads = [threading.Thread(target=put_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    while len(taken) < 1000:
        assert select.select([box.fileno()], [], [], 5.0)[0], f"only {len(taken)} items came"
        taken += box.take()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted([*range(500), *range(500)])


# --- models, settings, descriptions ----------------------------------------------------------------------------------


def test_the_fingerprint_tells_models_seeds_and_configurations_apart() -> None:
    prints = [ModelSource(name, seed).fingerprint() for name, seed in (("tiny", 0), ("tiny", 1), ("small", 0))]
    assert len(set(prints)) == 3
    assert ModelSource("tiny", 1).fingerprint() == prints[1]
    assert all(text.startswith(("tiny:", "small:")) for text in prints)


def test_the_fingerprint_of_a_folder_sees_a_changed_weight(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: writing a model is NOT tested")
    from real_models import write_model

    source = write_model(tmp_path / "m")
    before = source.fingerprint()
    file = next((tmp_path / "m").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert source.fingerprint() != before
    file.write_bytes(b"\3\0\0\0\0\0\0\0abc")
    with pytest.raises(WorkerError, match="no safetensors file"):
        source.fingerprint()


def test_the_kv_cache_of_a_model_follows_from_its_configuration() -> None:
    assert ModelSource("tiny").kv_spec(16) == KvSpec(4, 2, 32, 4, 16)
    assert ModelSource("tiny", dtype="bfloat16").kv_spec(16).dtype_bytes == 2
    with pytest.raises(WorkerError, match="dtype 'int8' is none of float32, bfloat16, float16"):
        ModelSource("tiny", dtype="int8").kv_spec(16)
    with pytest.raises(ModelError, match="no such random model"):
        ModelSource("/no/such/folder").config()


def test_settings_and_transports_that_are_none_are_named() -> None:
    with pytest.raises(WorkerError, match="of another version"):
        decode_settings(b"\xc1")
    with pytest.raises(WorkerError, match="transport 'pigeon' is none of shm, tcp, message"):
        open_transport("pigeon", "a", "127.0.0.1")


def test_a_transport_lacks_what_a_mode_needs() -> None:
    from backends.transport.shm import CAPABILITIES

    assert lacking_capability("message", CAPABILITIES) == "send and receive (mode message)"
    assert [lacking_capability(mode, CAPABILITIES) for mode in ("push", "pull", "streamed", "colocated")] == [""] * 4


def test_workers_of_every_mode_that_moves_layers_during_a_prefill_wait_for_each_layer_on_a_gpu() -> None:
    assert {mode: announces_layers(mode) for mode in get_args(TransferMode)} == {
        "push": True,
        "pull": False,
        "streamed": True,
        "message": False,
        "adaptive": True,  # which chooses for each request
        "colocated": False,
    }


def test_peers_get_no_more_rights_to_a_kv_cache_than_the_mode_needs() -> None:
    assert {mode: peers_may(mode) for mode in get_args(TransferMode)} == {
        "push": "write",
        "pull": "read",
        "streamed": "read",
        "message": "read",
        "adaptive": "both",
        "colocated": "read",
    }


def test_descriptions_keep_their_audience() -> None:
    assert decode_descriptions(encode_descriptions({"d0": b"\1", "d1": b""})) == {"d0": b"\1", "d1": b""}


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_chunk_is_cut_out_of_prompt_and_output() -> None:
    book = RequestBook()
    served = book.open(R, Submission((10, 11, 12), 9))
    served.outputs += [50, 51]
    assert served.to_core() == Request(R, 3, 9)
    assert book.chunk_tokens(Chunk(R, 0, 2)) == [10, 11]
    assert book.chunk_tokens(Chunk(R, 1, 3)) == [11, 12, 50]
    assert book.chunk_tokens(Chunk(R, 3, 2)) == [50, 51]
    assert (served.decode_start().context_tokens, served.decode_start().last_token) == (4, 51)
    with pytest.raises(AssertionError, match="tokens 4"):
        book.chunk_tokens(Chunk(R, 4, 2))
    assert book.close(R) is served
    assert book.close(R) is None


@pytest.mark.parametrize(
    ("submission", "words"),
    [
        (Submission((), 1), "the prompt has 0 tokens; 1 to 15 are accepted"),
        (Submission((1,) * 16, 1), "the prompt has 16 tokens"),
        (Submission((1, 99), 1), "token 99 is not in the vocabulary of 99"),
        (Submission((1,), 1, stop_tokens=(-1,)), "token -1 is not"),
        (Submission((1,), 0), "output_tokens_max is 0"),
        (Submission((1,), 1, output_tokens=0), "output_tokens is 0"),
        (Submission((1,), 1, Sampling(top_p=0.0)), "sampling: Expected `float`"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_words(submission: Submission, words: str) -> None:
    with pytest.raises(SubmissionError, match=words):
        submission.checked(vocabulary=99, context_tokens_max=16)


def test_every_problem_of_a_request_is_told_at_once_and_outputs_end_with_the_models_positions() -> None:
    with pytest.raises(SubmissionError, match=r"0 tokens.*output_tokens_max is -1"):
        Submission((), -1).checked(99, 16)
    assert Submission((1, 2), 1000).checked(99, 16).output_tokens_max == 14
    assert Submission((1, 2), 3).checked(99, 16).output_tokens_max == 3


def test_arrivals_come_when_they_are_due_in_the_order_of_their_instants() -> None:
    first, second, third = (Submission((token,), 1) for token in range(3))
    arrivals = Arrivals([(20, second), (5, first), (20, third)])
    assert arrivals.next_ns == 5
    assert arrivals.due(4) == []
    assert arrivals.due(7) == [first]
    assert arrivals.next_ns == 20
    assert arrivals.due(100) == [second, third]
    assert arrivals.next_ns is None


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_gives_tokens_as_they_come_and_says_why_it_ended() -> None:
    streams = Streams()
    stream = streams.open(R)
    streams.on_tokens(R, (1, 2))
    assert stream.next_tokens(0.1) == (1, 2)
    with pytest.raises(TimeoutError, match=r"request 4: no token within 0\.01 s"):
        stream.next_tokens(0.01)
    streams.on_tokens(R, (3,))
    streams.on_finish(R, "length")
    assert list(stream.tokens(0.1)) == [3]
    assert list(stream.tokens(0.1)) == [], "asked again after the end"
    assert stream.ended is not None
    assert stream.ended.why == "length"
    streams.on_tokens(R, (9,))  # a late token of nobody's


def test_when_the_service_fails_every_stream_ends_with_its_error() -> None:
    streams = Streams()
    stream = streams.open(R)
    streams.fail(ServiceError("worker d0 was lost"))
    with pytest.raises(ServiceError, match="d0"):
        stream.next_tokens(0.1)
    with pytest.raises(ServiceError, match="d0"):
        streams.open(RequestId(5))
