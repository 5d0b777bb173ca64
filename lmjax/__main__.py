"""python -m lmjax VERB: see `lmjax.commands`."""

import sys

from lmjax.commands import exit_codes, run


@exit_codes
def main() -> None:
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
