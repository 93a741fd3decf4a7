"""Run the command line by itself: `python -m dumont.cli`."""

from dumont.cli.app import main

if __name__ == "__main__":
    main()
