"""`python -m builder` is `template-builder`."""

from builder.cli import main

if __name__ == "__main__":
    main()
