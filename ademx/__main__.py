"""`python -m ademx` is the `ademx` command."""

from ademx.cli import main

if __name__ == "__main__":
    main(prog_name="ademx")
