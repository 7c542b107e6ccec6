"""What a site's long-lived process starts in a test: the rehearsal, with few canaries."""

import sys
from pathlib import Path

from client.evidence import rehearsed
from client.site.site import Site

if __name__ == "__main__":
    rehearsed.rehearse(Site.open(Path(sys.argv[1])), sys.argv[2], canaries=40)
