"""`python -m rebasin_cli` is `rebasin`."""

import sys

from rebasin_cli.start import main

if __name__ == "__main__":
    sys.exit(main())
