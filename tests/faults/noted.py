"""``train.py`` for launchers, which records the rows of each step: ``noted.py ROWS FLAGS``.

Process R appends to the file ``ROWS-R``, as ``attempts.note_rows`` does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

if __name__ == "__main__":
    from attempts import note_rows

    import train

    note_rows(Path(f"{sys.argv[1]}-{os.environ.get('RANK', '0')}"))
    sys.exit(train.main(sys.argv[2:]))
