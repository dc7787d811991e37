# SPDX-License-Identifier: Apache-2.0
"""What is published of this tree, made from it: the collection's archive and the command's wheel, versioned alike."""
