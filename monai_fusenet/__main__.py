"""`python -m monai_fusenet` is the command `monai-fusenet`."""

from monai_fusenet.cli.main import main

if __name__ == "__main__":
    main()
