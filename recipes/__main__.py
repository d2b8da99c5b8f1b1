"""Lists recipes with their digests, for a site's policy: python -m undersong.recipes [FILE_OR_FOLDER ...]."""

import sys
from pathlib import Path

from undersong.recipes.catalogue import recipe_specs

for spec in recipe_specs([Path(argument) for argument in sys.argv[1:]]):
    sys.stdout.write(f"{spec.name:20} {spec.version:8} {spec.digest}\n")
