# SPDX-License-Identifier: Apache-2.0
"""A release's notes are what the changelog says of it and of no other."""

from __future__ import annotations

import pytest

from release.notes import NotesError, notes_of

#: As antsibull-changelog writes it.
CHANGELOG = """\
# trainyard Release Notes

**Topics**

- <a href="#v0-2-0-rc-1">v0\\.2\\.0\\-rc\\.1</a>
- <a href="#v0-1-0">v0\\.1\\.0</a>

<a id="v0-2-0-rc-1"></a>
## v0\\.2\\.0\\-rc\\.1

<a id="bugfixes"></a>
### Bugfixes

* What was mended\\.

<a id="v0-1-0"></a>
## v0\\.1\\.0

### Minor Changes

* What was made\\.
"""


@pytest.mark.parametrize("version", ["0.2.0-rc.1", "v0.2.0-rc.1"])
def test_notes_are_of_their_release_alone(version: str) -> None:
    assert notes_of(CHANGELOG, version) == "### Bugfixes\n\n* What was mended\\.\n"


def test_the_last_release_s_notes_go_to_the_end() -> None:
    assert notes_of(CHANGELOG, "0.1.0") == "### Minor Changes\n\n* What was made\\.\n"


@pytest.mark.parametrize("version", ["0.2.0", "0.1", ""])
def test_a_release_that_the_changelog_does_not_know_is_refused_with_those_that_it_does(version: str) -> None:
    with pytest.raises(NotesError, match=r"it has 0\.2\.0-rc\.1, 0\.1\.0"):
        notes_of(CHANGELOG, version)
