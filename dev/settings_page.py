"""Writes docs/reference/settings.md from the declared keys of bpkd/config/keys.

python dev/settings_page.py          write the page
python dev/settings_page.py --check  only compare; exit status 1 where it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from bpkd.config.reference import settings_page

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"


def main(words: list[str]) -> int:
    """Writes or compares the page."""
    text = settings_page()
    if words == ["--check"]:
        current = PAGE.is_file() and PAGE.read_text() == text
        print(f"{PAGE} is {'current' if current else 'out of date: run python dev/settings_page.py'}")
        return 0 if current else 1
    if words:
        print(f"error: expected nothing or --check, got {' '.join(words)}.", file=sys.stderr)
        return 2
    PAGE.write_text(text)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
