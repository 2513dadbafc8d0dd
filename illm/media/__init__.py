"""Images, left of the mailbox: the one place that fetches what a client's address names, and looks at what came.

No backend ever sees a client's address.  `settle_images` turns every image of a chat into a data URL whose media type
the bytes themselves decided; right of the mailbox nothing resolves a name or opens a file for a client.

* `policy`: what the operator allows, as data;
* `addresses`: which addresses are public, pure;
* `links`: what may stand in a URL, and in a redirect, pure;
* `fetch`: the fetching, over httpx;
* `data_urls`: data URLs and bare base64, read and written, pure;
* `dimensions`: what an image's first bytes say, pure;
* `images`: a chat with addresses in, a chat with data URLs out.

Importing this package is cheap; httpx is loaded when the first address is fetched.
"""

from illm.media.policy import ImagePolicy

__all__ = ["ImagePolicy"]
