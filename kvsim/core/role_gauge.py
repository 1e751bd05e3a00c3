"""What role policies need to know of the load that no queue says: rates, speeds and lengths, from what happened lately.

Everything here follows from reports that come at the same instants whether decode steps are fused or not, so decisions
do not depend on that. Integers only: a moving mean forgets a fixed share at every beat. It must not decide anything.
"""

from kvsim.core.messages import WorkerId
from kvsim.core.role_policy import NS_PER_S


class RoleGauge:
    """``beat`` is called every ``interval_ns`` while there is work; what is older than ``window_ns`` fades. Speeds and
    lengths of which there are no newer samples stay as they are."""

    def __init__(self, interval_ns: int, window_ns: int) -> None:
        self._interval_ns = interval_ns
        self._beats = max(1, window_ns // interval_ns)
        self._arrived_tokens = 0
        self._rate_milli = 0  # tokens/s in thousandths
        self._prefill_tokens = 0
        self._prefill_ns = 0
        self._output_tokens = 0
        self._output_gaps = 0
        self._output_ns = 0
        self._outputs = 0
        self._prefilled = self._ended = False  # since the last beat
        self._started: dict[WorkerId, int] = {}

    # --- what happens -------------------------------------------------------------------------------------------------

    def arrived(self, prompt_tokens: int) -> None:
        """A prompt has come."""
        self._arrived_tokens += prompt_tokens

    def prefill_began(self, worker: WorkerId, now_ns: int) -> None:
        """A prefill worker has been ordered a run."""
        self._started[worker] = now_ns

    def prefill_ended(self, worker: WorkerId, tokens: int, now_ns: int) -> None:
        """The run is over; it computed so many prompt tokens."""
        self._prefilled = True
        self._prefill_tokens += tokens
        self._prefill_ns += now_ns - self._started.pop(worker, now_ns)

    def output_ended(self, tokens: int, duration_ns: int) -> None:
        """A request has had its last token, ``duration_ns`` after its first."""
        self._ended = True
        self._outputs += 1
        self._output_tokens += tokens
        self._output_gaps += tokens - 1
        self._output_ns += duration_ns

    def beat(self) -> None:
        """An interval is over: old samples lose weight."""
        sample_milli = self._arrived_tokens * 1000 * NS_PER_S // self._interval_ns
        self._arrived_tokens = 0
        self._rate_milli += (sample_milli - self._rate_milli) // self._beats
        if self._prefilled:
            self._prefill_tokens -= self._prefill_tokens // self._beats
            self._prefill_ns -= self._prefill_ns // self._beats
        if self._ended:
            self._outputs -= self._outputs // self._beats
            self._output_tokens -= self._output_tokens // self._beats
            self._output_gaps -= self._output_gaps // self._beats
            self._output_ns -= self._output_ns // self._beats
        self._prefilled = self._ended = False

    # --- what it comes to ---------------------------------------------------------------------------------------------

    @property
    def prompt_tokens_per_s(self) -> int:
        """That arrive."""
        return self._rate_milli // 1000

    @property
    def prefill_tokens_per_s(self) -> int:
        """That one prefill worker computes; 0 while none has."""
        return self._prefill_tokens * NS_PER_S // self._prefill_ns if self._prefill_ns else 0

    @property
    def output_tokens(self) -> int:
        """Of a request, on average."""
        return self._output_tokens // self._outputs if self._outputs else 0

    @property
    def tpot_ns(self) -> int:
        """Time between two tokens of a request, on average; 0 while none is known."""
        return self._output_ns // self._output_gaps if self._output_gaps else 0
