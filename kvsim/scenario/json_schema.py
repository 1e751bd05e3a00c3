"""The JSON Schema of scenario files, for editors.

After a change of the schema: ``python -m kvsim.scenario.json_schema > kvsim/scenario/schema.json``.
"""

import json
import sys

from kvsim.scenario.schema import ScenarioFile


def json_schema() -> str:
    """The schema as JSON text with a final newline: the content of ``schema.json`` beside this module."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ScenarioFile.model_json_schema(mode="validation"),
        "title": "kvsim scenario",
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
