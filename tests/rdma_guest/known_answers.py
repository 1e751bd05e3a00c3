"""Asks transformers what real workers must generate: ``known_answers.py FOLDER`` writes model and answers there.

Run by run_suite.sh outside the guests, in which transformers takes as long to import as all of a test.
"""

import sys
from pathlib import Path

from real_models import write_known_answers

write_known_answers(Path(sys.argv[1]))
