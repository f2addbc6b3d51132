"""`python -m estimator` is `batch-estimator`."""

from estimator.cli import main

if __name__ == "__main__":
    main()
