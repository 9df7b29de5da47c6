"""`python -m jaxtickets.metrics.inception`: see the package."""

from jaxtickets import ending
from jaxtickets.metrics.inception import main

ending.run(lambda _: main())
