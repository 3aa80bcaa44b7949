"""Makes the pictures of README.md from a real run: `python docs/make_pictures.py`.

Rule: nothing is painted by hand. A real terminal (tmux) runs the real command on a copy of `manifests/`, is killed in
the middle with SIGKILL and goes on; its text is drawn as it stands. The report is looked at in Chromium.
Needs tmux, chromium with its driver, and the fonts DejaVu Sans Mono and one for Chinese.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from selenium import webdriver

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COLUMNS, ROWS = 92, 24
RUN = "rsbatch run manifests/quickstart.yaml --simulate"
# SIGKILL is what `kill -9`, the out-of-memory killer and (for a process) a power cut are.
SESSION = (f"timeout -s KILL 3.9 {RUN}", RUN, f"{RUN}; echo exit code $?")

FONT_SIZE, LINE, PAD, BAR = 22, 31, 28, 46
PAPER, INK, PROMPT, FRAME = "#10151c", "#d7dee8", "#7ee0b0", "#1c2430"
DOTS = ("#ff5f57", "#febc2e", "#28c840")


def tmux(*words: str) -> str:
    """Run a tmux command on a server of our own."""
    command = ["tmux", "-L", "rsbatch-pictures", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - all words are ours
    return done.stdout


def screen() -> list[str]:
    """Give the lines on the terminal."""
    return [line.rstrip() for line in tmux("capture-pane", "-p").splitlines()]


def wait_for_prompt(prompts: int) -> None:
    """Wait until the shell has asked for the command number `prompts`."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if sum(line.startswith("$") for line in screen()) == prompts:
            return
        time.sleep(0.1)
    raise SystemExit("the terminal does not come to an end:\n" + "\n".join(screen()))


def record(folder: Path) -> list[str]:
    """Run the session in a terminal; give the text that stands on it at the end."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = f"env PATH='{path}' PS1='\n$ ' LC_ALL=C.UTF-8 bash --norc --noprofile"
    tmux("-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), "-c", str(folder), shell)
    try:
        wait_for_prompt(1)
        for number, command in enumerate(SESSION, 2):
            tmux("send-keys", command, "Enter")
            wait_for_prompt(number)
        lines = screen()
    finally:
        tmux("kill-server")
    while lines and lines[-1] in {"", "$"}:
        lines.pop()
    return lines


def draw_terminal(lines: list[str]) -> Image.Image:
    """Draw the text in a window."""
    font = ImageFont.truetype("DejaVuSansMono.ttf", FONT_SIZE)
    width = int(font.getlength("m") * COLUMNS) + 2 * PAD
    height = BAR + LINE * len(lines) + PAD + 8
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width, BAR), FRAME)
    for number, colour in enumerate(DOTS):
        draw.ellipse((20 + 30 * number, 15, 36 + 30 * number, 31), colour)
    for number, line in enumerate(lines):
        y = BAR + 14 + LINE * number
        draw.text((PAD, y), line, PROMPT if line.startswith("$ ") else INK, font)
    return image.quantize(96)


FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LARGE = "[...document.querySelectorAll('.tile')].find((one) => one.ariaLabel.startsWith('room')).click()"


def look_at_report(folder: Path) -> Image.Image:
    """Write the report and look at it: the grid in the light, an image opened in the dark."""
    words = [sys.executable, "-m", "rsbatch", "report", "manifests/quickstart.yaml", "--simulate"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)  # noqa: S603 - all words are ours
    page = folder / "outputs" / "quickstart-simulated" / "report.html"
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    looks = []
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": 1180, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for scheme, script in (("light", ""), ("dark", LARGE)):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            driver.get(page.as_uri())
            driver.execute_script(script)
            time.sleep(1)  # pictures are decoded
            looks.append(Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB"))
    finally:
        driver.quit()
    both = Image.new("RGB", (2 * 1180 + 20, 900), "white")
    both.paste(looks[0], (0, 0))
    both.paste(looks[1], (1200, 0))
    return both.resize((1600, 605), Image.Resampling.LANCZOS).quantize(256)


def main() -> None:
    """Run, and write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rsbatch-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "manifests", folder / "manifests")
        draw_terminal(record(folder)).save(IMAGES / "run.png", optimize=True)
        look_at_report(folder).save(IMAGES / "report.png", optimize=True)


if __name__ == "__main__":
    main()
