"""Memory of torch under every transport. Apart from the other tests of transports, which run without torch."""

import pytest
from transport_world import ALL, ends, flat_tensor, join, make_end, pull, ranges_between


@pytest.mark.parametrize("kind", ALL)
def test_a_tensor_of_torch_can_be_registered(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'kvsim[engine]'")
    with ends(make_end(kind, "a"), make_end(kind, "b")) as (a, b):
        tensor = torch.frombuffer(b.transport.allocate(8192), dtype=torch.bfloat16).view(4, 1024)
        tensor[:] = 1.5
        region = b.transport.register(tensor, flat_tensor(4, 2048))
        peers = join(a, b)
        assert a.outcome(pull(a, b, peers, ranges_between(region, a.region, [2048], [0], [4096]))).outcome == "done"
        assert torch.equal(
            torch.frombuffer(a.pool.data, dtype=torch.bfloat16)[:2048], torch.full((2048,), 1.5).bfloat16()
        )
