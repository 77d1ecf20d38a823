"""``python -m ldm_edu.datasets.make``: rebuild the shipped data from the packages that ``sources`` names."""

import argparse
import tempfile
from pathlib import Path

from ldm_edu.datasets.make import emoji, fashion, splits, tokenizer
from ldm_edu.datasets.make.checksums import FILE, checksums


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
    record = options.out / FILE
    before = set(record.read_text().splitlines()) if record.is_file() else set()
    record.write_text(checksums(options.out))
    changed = sorted(line.split()[1] for line in set(record.read_text().splitlines()) - before)
    print(f"{len(changed)} files differ from the last build's checksums{':' if changed else '.'}", *changed, sep="\n  ")


if __name__ == "__main__":
    main()
