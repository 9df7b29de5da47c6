"""`python -m jaxtickets.metrics.inception`: see the package."""

import sys

from jaxtickets.metrics.inception import main

sys.exit(main())
