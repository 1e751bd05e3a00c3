"""The kinds of measured tables that ``kvsim profile import`` and ``kvsim profile fit`` read, by name.

A kind is one module with a function ``load(path) -> kvsim.profile.importers.Imported``; it is registered here and
imported only when it is asked for. Nothing heavy is imported here, for ``kvsim --help`` shows the kinds.
"""

import msgspec


class Importer(msgspec.Struct, frozen=True):
    """A kind: what it reads, in words, and the module whose ``load`` reads it."""

    kind: str
    reads: str
    module: str


IMPORTERS = (
    Importer(
        "vllm-kernels",
        "folder with the GEMM and attention tables (Parquet) of ai-dynamo/aiconfigurator",
        "kvsim.profile.kernel_import",
    ),
    Importer(
        "vllm-layers",
        "folder with the per-layer kernel times (meta.yaml, tpN/*.csv) of casys-kaist/LLMServingSim 2.0",
        "kvsim.profile.layer_import",
    ),
    Importer(
        "nccl",
        "table or folder with NCCL times (send_recv.csv, all_reduce.csv) of microsoft/vidur",
        "kvsim.profile.nccl_import",
    ),
)


FITTED = {
    "tables": "profile that 'kvsim profile import' wrote, with tables of kernels",
    "vllm-kernels": "folder as for 'kvsim profile import'",
    "layers": "folder with per-layer times in the layout of casys-kaist/LLMServingSim 2.0 (tpN/*.csv)",
    "serving": "CSV of end-to-end times in the layout of Mutinifni/splitwise-sim",
    "nccl": "table or folder as for 'kvsim profile import': links and all-reduces, no --gpu",
    "verbs": "YAML of published figures by block size, as kvsim/presets/published_links.yaml: links, no --gpu",
}
"""What ``kvsim profile fit`` reads, by kind."""
