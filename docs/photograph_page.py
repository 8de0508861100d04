"""Photograph the page of `compt_fast.serve` with the prompts of a run, as docs/serve.png:

python -m compt_fast.train --suite mini --method pt-joint --steps 600 --out runs/page
python -m docs.photograph_page runs/page
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from compt_fast.prediction.predictor import load
from tests.helpers.browser import ask, browser
from tests.helpers.serving import running

WIDTH = 760  # px
TASK = "mini_mnli"
TEXTS = {
    "sentence1": "the nurse thanked the pilot in the garden.",
    "sentence2": "the pilot was thanked by the nurse.",
}


def main() -> None:
    """Serve, ask, and keep the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder of the embedded suite")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("serve.png"))
    given = parser.parse_args()
    with (
        running(load(given.run)) as server,
        tempfile.TemporaryDirectory() as profile,
        browser(Path(profile), WIDTH, 900) as driver,
    ):
        driver.get(server.url)
        for _ in range(2):  # what is first used takes longer
            ask(driver, TASK, TEXTS)
        height = driver.execute_script("return document.documentElement.scrollHeight")
        frame = {"width": WIDTH, "height": height, "deviceScaleFactor": 2, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", frame)
        driver.save_screenshot(str(given.out))
    print(given.out)


if __name__ == "__main__":
    main()
