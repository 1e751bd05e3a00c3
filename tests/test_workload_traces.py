"""Trace files: the three formats, exact instants, and a plain word about everything that can be wrong with a file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import TraceError
from kvsim.workload.fields import AzureClock, parse_azure_time, parse_seconds, parse_tokens
from kvsim.workload.traces import read_lengths, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
CSV = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
PUBLIC = Path(__file__).parents[2] / "shared" / "traces"


def write(folder: Path, text: str) -> str:
    path = folder / "trace"
    path.write_text(text, encoding="utf-8")
    return str(path)


def public(name: str) -> str:
    path = PUBLIC / name
    if not path.exists():
        pytest.skip(f"the public trace {name} is not in {PUBLIC}")
    return str(path)


# --- formats -----------------------------------------------------------------------------------------------------


def test_azure_digits_of_100_ns_survive(tmp_path: Path) -> None:
    path = write(tmp_path, AZURE + "2023-11-16 23:59:59.6805901,374,44\n2023-11-17 00:00:00.0000000,396,109\n")
    trace = read_trace(path, "auto")
    assert trace.arrival_ns.tolist() == [0, 319_409_900]
    assert trace.prompt_tokens.tolist() == [374, 396]
    assert trace.output_tokens.tolist() == [44, 109]
    assert trace.notes == ()


def test_azure_timestamps_of_2024_with_zone_and_fewer_digits_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        AZURE
        + "2024-05-10 00:00:00.009930+00:00,10,1\n2024-05-10 00:00:01+00:00,11,2\n2024-05-10 02:00:02.5+02:00,12,3\n",
    )
    assert read_trace(path, "azure").arrival_ns.tolist() == [0, 990_070_000, 2_490_070_000]


def test_mooncake_milliseconds_become_ns_and_prefix_hashes_are_reported_as_ignored(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n\n'
        '{"timestamp": 1000.25, "input_length": 7322, "output_length": 490, "hash_ids": []}\n',
    )
    trace = read_trace(path, "auto")
    assert trace.arrival_ns.tolist() == [0, 250_000]
    assert trace.prompt_tokens.tolist() == [6758, 7322]
    assert trace.output_tokens.tolist() == [500, 490]
    assert trace.notes == ("1 rows carry prefix hashes, which are ignored: prefix reuse is not modelled yet",)


def test_csv_seconds_are_exact_where_floats_are_not(tmp_path: Path) -> None:
    # floats near 1e9 are 119 ns apart; columns come in any order, beside others, behind a byte order mark
    header = "\ufeffnum_decode_tokens,id,num_prefill_tokens,arrived_at\n"
    text = header + "7,a,100,1000000000.0\n8,b,200.0,1000000000.123456789\n"
    trace = read_trace(write(tmp_path, text), "auto")
    assert trace.arrival_ns.tolist() == [0, 123_456_789]
    assert trace.prompt_tokens.tolist() == [100, 200]
    assert trace.output_tokens.tolist() == [7, 8]


def test_unsorted_rows_are_sorted_stably_with_a_note(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, CSV + "2,10,1\n1,20,1\n2,30,1\n1,40,1\n"), "csv")
    assert trace.arrival_ns.tolist() == [0, 0, 10**9, 10**9]
    assert trace.prompt_tokens.tolist() == [20, 40, 10, 30]
    assert trace.notes == ("2 rows are earlier than the row before them: rows were sorted by arrival",)


def test_rows_without_prompt_are_dropped_and_rows_without_output_raised_to_one(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, CSV + "5,0,9\n6,10,0\n7,20,3\n"), "csv")
    # the dropped row still marks where the trace begins
    assert trace.arrival_ns.tolist() == [10**9, 2 * 10**9]
    assert trace.output_tokens.tolist() == [1, 3]
    assert [note.split(":")[0] for note in trace.notes] == [
        "1 rows with 0 prompt tokens were dropped",
        "1 rows with 0 output tokens were raised to 1",
    ]


def test_lengths_are_read_without_arrival_times(tmp_path: Path) -> None:
    trace = read_lengths(
        write(tmp_path, "num_prefill_tokens,num_decode_tokens,pd_ratio\n3772,54,69.8\n2015,156,12.9\n")
    )
    assert trace.prompt_tokens.tolist() == [3772, 2015]
    assert trace.output_tokens.tolist() == [54, 156]


def test_lengths_are_read_from_full_traces_too(tmp_path: Path) -> None:
    assert read_lengths(write(tmp_path, AZURE + "not read,374,44\n")).prompt_tokens.tolist() == [374]
    mooncake = '{"timestamp": 0, "input_length": 12, "output_length": 5}\n'
    assert read_lengths(write(tmp_path, mooncake)).output_tokens.tolist() == [5]


# --- what can be wrong -------------------------------------------------------------------------------------------

MOONCAKE_ROW = '{"timestamp": 0, "input_length": 1, "output_length": 1}\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "empty"),
        (" \n\n", 0, "empty"),
        (AZURE, 0, "a header but no rows"),
        (CSV + "0,0,5\n", 0, "no row has a prompt token"),
        ("a,b\n1,2\n", 1, "columns a, b found; expected TIMESTAMP"),
        ("TIMESTAMP,ContextTokens\n", 1, "column GeneratedTokens is missing; columns found: TIMESTAMP, ContextTokens"),
        ("num_prefill_tokens,num_decode_tokens\n1,2\n", 1, "add a column arrived_at"),
        (AZURE + "2023-11-16 18:15:46.68,374,44\n\n2023-11-16 18:15:47,x,1\n", 4, "ContextTokens: 'x' found, a whole"),
        (AZURE + "16/11/2023 18:15,1,1\n", 2, "TIMESTAMP: '16/11/2023 18:15' found, a timestamp like 2023-11-16"),
        (AZURE + "2023-02-30 18:15:46.68,1,1\n", 2, "TIMESTAMP: '2023-02-30 18:15:46' found, an instant from 1970"),
        (AZURE + "2023-11-16 24:15:46,1,1\n", 2, "an instant from 1970"),
        (AZURE + "2023-11-16 18:15:46,1\n", 2, "2 fields found, 3 expected"),
        (AZURE + "2023-11-16 18:15:46,1,1,1\n", 2, "4 fields found, 3 expected"),
        (CSV + "0,1,1\n-0.5,1,1\n", 3, "arrived_at: '-0.5' found, a number of seconds of 0 or more expected"),
        (CSV + "nan,1,1\n", 2, "arrived_at: 'nan' found"),
        (CSV + "inf,1,1\n", 2, "arrived_at: 'inf' found"),
        (CSV + "1e40,1,1\n", 2, "arrived_at: '1e40' found"),
        (CSV + "0,1,-4\n", 2, "num_decode_tokens: '-4' found, a whole number of tokens from 0"),
        (CSV + "0,1.5,4\n", 2, "num_prefill_tokens: '1.5' found"),
        (CSV + "0,,4\n", 2, "num_prefill_tokens: '' found"),
        (CSV + "0,99999999999999999999,4\n", 2, "num_prefill_tokens: '99999999999999999999' found"),
        (CSV + '0,"1,4\n', 2, "not a line of a CSV file"),
        (MOONCAKE_ROW + "\n" + MOONCAKE_ROW[:30], 3, "Input data was truncated; expected an object with timestamp"),
        (MOONCAKE_ROW + '{"timestamp": 0, "input_length": 1}\n', 2, "missing required field `output_length`"),
        (MOONCAKE_ROW + '{"timestamp": "x", "input_length": 1, "output_length": 1}', 2, "Invalid decimal"),
        (MOONCAKE_ROW + "\n" + MOONCAKE_ROW.replace('output_length": 1', 'output_length": -1'), 3, "output_length -1"),
        (MOONCAKE_ROW.replace('timestamp": 0', 'timestamp": -3'), 1, "timestamp -3"),
        (MOONCAKE_ROW.replace('timestamp": 0', 'timestamp": "NaN"'), 1, "timestamp NaN"),
        (MOONCAKE_ROW + "[1, 2]\n", 2, "Expected `object`"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TraceError) as caught:
        read_trace(path, "auto")
    assert caught.value.line == line
    assert caught.value.file == path
    assert words in str(caught.value)


def test_a_missing_file_says_where_the_known_traces_are(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no such file .*github\.com/Azure/AzurePublicDataset.*kvcache-ai/Mooncake"):
        read_trace(str(tmp_path / "absent.csv"), "auto")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(str(tmp_path), "azure")


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(CSV.encode() + b"0,1,1\n0,\xff,1\n")
    with pytest.raises(TraceError, match="byte 0xff found") as caught:
        read_trace(str(path), "auto")
    assert caught.value.line == 3


def test_a_format_that_the_file_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="column TIMESTAMP, ContextTokens, GeneratedTokens is missing"):
        read_trace(write(tmp_path, CSV + "0,1,1\n"), "azure")
    with pytest.raises(TraceError, match="expected an object with timestamp"):
        read_trace(write(tmp_path, CSV + "0,1,1\n"), "mooncake")


def test_lengths_without_known_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="columns x, y found, num_prefill_tokens,num_decode_tokens or Context"):
        read_lengths(write(tmp_path, "x,y\n1,2\n"))


# --- fields ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 9 * 10**18))
def test_any_whole_number_of_ns_survives_the_way_through_seconds(instant_ns: int) -> None:
    assert parse_seconds(f"{instant_ns // 10**9}.{instant_ns % 10**9:09d}") == instant_ns


def test_digits_beyond_the_ninth_are_rounded_half_to_even() -> None:
    assert [parse_seconds(text) for text in ("1e-9", "0.0000000015", "0.0000000025", "0.00000000251")] == [1, 2, 2, 3]


@given(st.datetimes(), st.integers(0, 9))
def test_the_clock_of_a_column_agrees_with_the_parser_of_one_field(moment: object, digits: int) -> None:
    text = f"{str(moment)[:19]}.{'123456789'[:digits]}" if digits else str(moment)[:19]
    try:
        expected = parse_azure_time(text)
    except ValueError:
        with pytest.raises(ValueError, match="expected"):
            AzureClock()(text)
        return
    clock = AzureClock()
    assert [clock(text), clock(text), clock(f"{text}+00:00")] == [expected] * 3


def test_known_instants_are_the_right_number_of_ns_after_1970() -> None:
    assert parse_azure_time("1970-01-02 00:00:00.000000001") == 86_400 * 10**9 + 1
    assert parse_azure_time("2023-11-16 18:15:46.6805900") == 1_700_158_546_680_590_000
    assert parse_azure_time("2023-11-16T19:15:46Z") == 1_700_162_146 * 10**9
    assert parse_azure_time("2023-11-16 10:15:46-08:00") == 1_700_158_546 * 10**9


def test_whole_numbers_may_be_written_as_decimals() -> None:
    assert [parse_tokens(text) for text in ("12", "12.0", "1e3", " 7", "2147483647")] == [12, 12, 1000, 7, 2**31 - 1]


# --- the public files --------------------------------------------------------------------------------------------


def test_the_azure_conversation_trace_of_2023() -> None:
    trace = read_trace(public("AzureLLMInferenceTrace_conv.csv"), "auto")
    assert len(trace.arrival_ns) == 19_366
    # 18:15:46.6805900 to 18:15:50.9951690 and to 19:14:08.4025270
    assert trace.arrival_ns[[0, 1, -1]].tolist() == [0, 4_314_579_000, 3_501_721_937_000]
    assert (trace.prompt_tokens.sum(), trace.output_tokens.sum()) == (22_361_870, 4_088_665)
    assert trace.notes == ()


def test_the_mooncake_conversation_trace() -> None:
    trace = read_trace(public("mooncake_conversation.jsonl"), "auto")
    assert len(trace.arrival_ns) == 12_031
    assert trace.arrival_ns[[0, -1]].tolist() == [0, 3_536_999_000_000]
    assert (trace.prompt_tokens.sum(), trace.output_tokens.sum()) == (144_793_823, 4_122_048)
    assert trace.notes[0].startswith("12,031 rows carry prefix hashes")


def test_the_arxiv_summarization_lengths() -> None:
    pairs = read_lengths(public("arxiv_summarization_lengths.csv"))
    assert len(pairs.prompt_tokens) == 28_257
    assert (pairs.prompt_tokens.sum(), pairs.output_tokens.sum()) == (73_131_321, 8_234_948)
