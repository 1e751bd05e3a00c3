"""The handshake without sockets: who is let in, who is refused and why, and that a session takes only its own words."""

import pytest
from control_world import COMPATIBILITY, KV, OTHER_SECRET, SECRET
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from backends.control.compatibility import Compatibility, differences
from backends.control.errors import Refusal
from backends.control.frames import MAGIC, Challenge, Hello, Proof, Refused, Welcome, decode_handshake, encode_handshake
from backends.control.handshake import DriverHandshake, WorkerHandshake
from backends.control.session import MAC_BYTES, Session
from kvsim.core.messages import WorkerId

KEY = b"k" * 40
BEAT_NS = 7


def worker_side(
    secret: bytes = SECRET,
    compatibility: Compatibility = COMPATIBILITY,
    key: bytes = KEY,
    nonce: bytes = b"w" * 32,
    version: int = 1,
) -> WorkerHandshake:
    return WorkerHandshake(WorkerId(3), secret, compatibility, key, nonce, version)


def driver_side(
    secret: bytes = SECRET, compatibility: Compatibility = COMPATIBILITY, nonce: bytes = b"d" * 32, version: int = 1
) -> DriverHandshake:
    return DriverHandshake(secret, compatibility, KEY, nonce, BEAT_NS, version)


def shake(worker: WorkerHandshake, driver: DriverHandshake) -> tuple[Session, Session]:
    """The sessions of the worker and the driver."""
    welcome, drivers = driver.welcome(worker.prove(driver.challenge(worker.hello())))
    _, workers = worker.confirm(welcome)
    return workers, drivers


# --- stories -----------------------------------------------------------------------------------------------------


def test_with_the_same_secret_and_facts_both_sides_open_each_others_messages() -> None:
    worker, driver = worker_side(), driver_side()
    challenge = driver.challenge(worker.hello())
    welcome_frame, drivers = driver.welcome(worker.prove(challenge))
    welcome, workers = worker.confirm(welcome_frame)
    assert driver.worker == 3
    assert welcome.heartbeat_interval_ns == BEAT_NS
    assert drivers.open(workers.seal(b"up")) == b"up"
    assert workers.open(drivers.seal(b"down")) == b"down"


def test_a_worker_with_another_secret_is_refused_and_learns_no_proof() -> None:
    worker, driver = worker_side(OTHER_SECRET), driver_side()
    proof = worker.prove(driver.challenge(worker.hello()))
    with pytest.raises(Refusal, match="worker 3 does not know this run's secret") as refused:
        driver.welcome(proof)
    assert refused.value.kind == "secret"


def test_a_driver_that_does_not_know_the_secret_is_refused_by_the_worker() -> None:
    worker = worker_side()
    worker.hello()
    worker.prove(encode_handshake(Challenge(b"d" * 32, COMPATIBILITY.digest())))
    with pytest.raises(Refusal, match="driver does not know") as refused:
        worker.confirm(encode_handshake(Welcome(bytes(32), BEAT_NS)))
    assert refused.value.kind == "secret"


def test_a_workers_own_proof_sent_back_to_it_does_not_prove_a_driver() -> None:
    worker, driver = worker_side(), driver_side()
    proof = decode_handshake(worker.prove(driver.challenge(worker.hello())), Proof)
    with pytest.raises(Refusal) as refused:
        worker.confirm(encode_handshake(Welcome(proof.proof, BEAT_NS)))
    assert refused.value.kind == "secret"


def test_a_replayed_conversation_fails_at_the_drivers_fresh_nonce() -> None:
    worker, driver = worker_side(), driver_side()
    hello = worker.hello()
    proof = worker.prove(driver.challenge(hello))
    driver.welcome(proof)
    later = driver_side(nonce=b"e" * 32)
    later.challenge(hello)
    with pytest.raises(Refusal) as refused:
        later.welcome(proof)
    assert refused.value.kind == "secret"


def test_a_replayed_driver_fails_at_the_workers_fresh_nonce() -> None:
    first, driver = worker_side(), driver_side()
    challenge = driver.challenge(first.hello())
    welcome, _ = driver.welcome(first.prove(challenge))
    second = worker_side(nonce=b"x" * 32)
    second.hello()
    second.prove(challenge)
    with pytest.raises(Refusal) as refused:
        second.confirm(welcome)
    assert refused.value.kind == "secret"


def test_a_go_between_with_a_key_of_his_own_is_found_out() -> None:
    worker, driver = worker_side(key=b"m" * 40), driver_side()
    proof = worker.prove(driver.challenge(worker.hello()))
    with pytest.raises(Refusal) as refused:
        driver.welcome(proof)
    assert refused.value.kind == "secret"


@pytest.mark.parametrize(("worker_version", "driver_version"), [(1, 2), (2, 1)])
def test_another_version_is_refused_before_anything_else_is_read(worker_version: int, driver_version: int) -> None:
    hello = worker_side(OTHER_SECRET, version=worker_version).hello()
    with pytest.raises(Refusal, match=f"control protocol {worker_version}, this side {driver_version}") as refused:
        driver_side(version=driver_version).challenge(hello[:7] + b"\xc1 nothing that this version could read")
    assert refused.value.kind == "version"
    worker = worker_side(version=worker_version)
    worker.hello()
    answer = encode_handshake(Refused("version", "another"), driver_version)
    with pytest.raises(Refusal, match=f"control protocol {driver_version}, this side {worker_version}"):
        worker.prove(answer)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(COMPATIBILITY, model="another"), "model: driver 'a model', worker 'another'"),
        (replace(COMPATIBILITY, dtype="bfloat16"), "dtype: driver 'float32', worker 'bfloat16'"),
        (replace(COMPATIBILITY, kv=replace(KV, block_tokens=32)), "tokens of a block: driver 16, worker 32"),
        (
            replace(COMPATIBILITY, kv=replace(KV, layout=("block", "layer", "kv", "token", "head", "dim"))),
            "layout: driver layer/kv/block/token/head/dim, worker block/layer/kv/token/head/dim",
        ),
    ],
)
def test_other_facts_are_refused_by_name_before_the_secret_is_looked_at(other: Compatibility, named: str) -> None:
    with pytest.raises(Refusal) as refused:
        driver_side().challenge(worker_side(OTHER_SECRET, other).hello())
    assert refused.value.kind == "compatibility"
    assert refused.value.text == f"worker 3 holds another KV cache: {named}"


def test_every_fact_that_differs_is_named() -> None:
    other = Compatibility("b", "b", replace(KV, layers=9, kv_heads=9, head_dim=9, dtype_bytes=9, block_tokens=9))
    assert len(differences(COMPATIBILITY, other)) == 7
    assert differences(COMPATIBILITY, COMPATIBILITY) == ()


def test_true_facts_do_not_help_a_wrong_hash() -> None:
    hello = encode_handshake(Hello(WorkerId(3), b"w" * 32, bytes(32), COMPATIBILITY))
    with pytest.raises(Refusal) as refused:
        driver_side().challenge(hello)
    assert refused.value.kind == "compatibility"


def test_a_worker_refuses_a_driver_with_other_facts() -> None:
    worker = worker_side()
    worker.hello()
    with pytest.raises(Refusal) as refused:
        worker.prove(encode_handshake(Challenge(b"d" * 32, bytes(32))))
    assert refused.value.kind == "compatibility"


def test_a_worker_is_told_the_drivers_reason() -> None:
    worker = worker_side()
    worker.hello()
    with pytest.raises(Refusal) as refused:
        worker.prove(encode_handshake(Refused("identity", "worker 3 is not expected in this run")))
    assert (refused.value.kind, refused.value.text) == ("identity", "worker 3 is not expected in this run")


def test_a_message_out_of_turn_is_refused() -> None:
    with pytest.raises(Refusal, match="a Proof instead of a Hello"):
        driver_side().challenge(encode_handshake(Proof(bytes(32))))
    driver = driver_side()
    hello = worker_side().hello()
    driver.challenge(hello)
    with pytest.raises(Refusal, match="a Hello instead of a Proof"):
        driver.welcome(hello)


@pytest.mark.parametrize("worker", [-1, 1 << 63])
def test_a_worker_id_out_of_range_is_refused(worker: int) -> None:
    hello = Hello(WorkerId(worker), b"w" * 32, COMPATIBILITY.digest(), COMPATIBILITY)
    with pytest.raises(Refusal) as refused:
        driver_side().challenge(encode_handshake(hello))
    assert refused.value.kind == "range"


def test_a_secret_that_could_be_guessed_is_not_accepted() -> None:
    with pytest.raises(AssertionError, match="15 bytes"):
        worker_side(b"x" * 15)


# --- bytes of strangers ------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_never_raise_anything_but_a_refusal(noise: bytes, with_preamble: bool) -> None:
    frame = MAGIC + b"\0\1" + noise if with_preamble else noise
    with pytest.raises(Refusal):
        driver_side().challenge(frame)
    worker = worker_side()
    worker.hello()
    with pytest.raises(Refusal):
        worker.prove(frame)


@given(st.data())
def test_a_changed_byte_anywhere_in_the_conversation_ends_it(data: st.DataObject) -> None:
    worker, driver = worker_side(), driver_side()
    changed = data.draw(st.sampled_from(["hello", "challenge", "proof", "welcome"]))

    def pass_on(name: str, frame: bytes) -> bytes:
        if name != changed:
            return frame
        at = data.draw(st.integers(0, len(frame) - 1))
        other = data.draw(st.integers(1, 255))
        return frame[:at] + bytes([frame[at] ^ other]) + frame[at + 1 :]

    with pytest.raises(Refusal):  # noqa: PT012 - any of these may be the one that notices
        proof = worker.prove(pass_on("challenge", driver.challenge(pass_on("hello", worker.hello()))))
        welcome, _ = driver.welcome(pass_on("proof", proof))
        worker.confirm(pass_on("welcome", welcome))


def test_a_refusal_longer_than_any_is_not_read() -> None:
    with pytest.raises(Refusal) as refused:
        driver_side().challenge(MAGIC + b"\0\1" + bytes(1 << 20))
    assert refused.value.kind == "size"


# --- sessions ----------------------------------------------------------------------------------------------------


def test_a_session_takes_each_message_once_and_in_order() -> None:
    workers, drivers = shake(worker_side(), driver_side())
    first, second = workers.seal(b"first"), workers.seal(b"second")
    with pytest.raises(Refusal):
        drivers.open(second)
    assert drivers.open(first) == b"first"
    with pytest.raises(Refusal) as refused:
        drivers.open(first)
    assert refused.value.kind == "unauthenticated"
    assert drivers.open(second) == b"second"


def test_a_session_does_not_take_its_own_messages_nor_those_of_another_session() -> None:
    workers, drivers = shake(worker_side(), driver_side())
    others, _ = shake(worker_side(nonce=b"o" * 32), driver_side())
    for stranger in (drivers.seal(b"hi"), others.seal(b"hi")):
        with pytest.raises(Refusal):
            drivers.open(stranger)
    assert drivers.open(workers.seal(b"hi")) == b"hi"


@given(st.binary(max_size=100))
def test_a_session_opens_no_bytes_that_it_was_not_sent(noise: bytes) -> None:
    workers, drivers = shake(worker_side(), driver_side())
    with pytest.raises(Refusal):
        drivers.open(noise)
    assert drivers.open(workers.seal(noise)) == noise


def test_an_empty_message_has_a_mac_too() -> None:
    workers, drivers = shake(worker_side(), driver_side())
    frame = workers.seal(b"")
    assert len(frame) == MAC_BYTES
    assert drivers.open(frame) == b""
