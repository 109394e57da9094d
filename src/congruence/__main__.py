"""`python -m congruence`, as torchrun starts it."""

from congruence.cli.main import main

if __name__ == "__main__":
    main()
