"""Protocol stories: each file in ``tests/stories`` is a conversation with the scheduler that must go on as it says.

``pytest tests/test_stories.py --rewrite`` writes the transcripts anew. Commit only differences that you understand.
"""

from pathlib import Path

import pytest
from worlds import ALL_MODES

from kvsim.fuzz.language import tell_story

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_scheduler_answers_as_the_story_says(path: Path, rewrite: bool) -> None:
    text = path.read_text(encoding="utf-8")
    told = tell_story(text)
    if rewrite:
        path.write_text(told, encoding="utf-8")
    assert told == text


def test_there_are_stories_of_every_transfer_mode() -> None:
    modes = {
        line.split()[1] for path in STORIES for line in path.read_text().splitlines() if line.startswith("cluster")
    }
    assert modes == set(ALL_MODES)
