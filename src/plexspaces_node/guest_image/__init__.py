"""Builds the guest image that every microVM boots, from the distribution's packages.

Needs neither Docker nor privileges; see ``docs/guest.md``. The same packages and programs give the
same bytes. `plexspaces_node.vm.image` defines what an image is.
"""

from __future__ import annotations

from plexspaces_node.guest_image.build import agent_digest, build_image

__all__ = ["agent_digest", "build_image"]
