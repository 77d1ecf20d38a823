"""``python -m ldm_edu.datasets.make``: rebuild the shipped data from the packages that ``sources`` names."""

import argparse
import tempfile
from pathlib import Path

from ldm_edu.checksums import NAME, listed, record
from ldm_edu.datasets.make import emoji, fashion, splits, tokenizer


def main() -> None:
    """Rebuild every data set into a folder, then say which files differ from the checksums that were there."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.datasets.make", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="the folder to write into (default: data)")
    parser.add_argument("--downloads", type=Path, help="where archives are kept, or found without a network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        downloads = (options.downloads or Path(temporary)).resolve()
        tokenizer.build(options.out / "tokenizer", downloads)
        emoji.build(options.out / "emoji", downloads)
        splits.build(options.out / "emoji")
        fashion.build(options.out / "fashion_mnist", downloads)
    before = listed(options.out) if (options.out / NAME).is_file() else {}
    changed = [name for name, value in record(options.out).items() if before.get(name) != value]
    print(f"{len(changed)} files differ from the last list of checksums", *changed, sep="\n  ")


if __name__ == "__main__":
    main()
