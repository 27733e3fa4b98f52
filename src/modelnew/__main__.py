"""`python -m modelnew` is the script `modelnew`."""

from modelnew.cli import main

if __name__ == "__main__":
    main()
