"""`python -m pneumojax`: the command line."""

from pneumojax.main import run

if __name__ == "__main__":
    run()
