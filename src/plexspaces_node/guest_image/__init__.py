"""Makes the guest image that every microVM boots, from the distribution's packages.

Without Docker and without privileges; see ``docs/guest.md``. The same packages and the same
programs of this product give the same bytes. What an image is, once made, is
`plexspaces_node.vm.image`'s to say.
"""

from __future__ import annotations

from plexspaces_node.guest_image.build import agent_digest, build_image

__all__ = ["agent_digest", "build_image"]
