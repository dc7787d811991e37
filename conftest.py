# SPDX-License-Identifier: Apache-2.0
"""What all tests share, the collection's and the toolkit's."""

from hypothesis import settings

# An example takes what the machine lets it take: what must be quick says so itself, in processor time.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")
