"""Open every page of the built site in a real headless browser: ``make docs-check``.

Fails for a link that leads nowhere (anchors included), a picture that does not show, a request that
fails, Markdown that was not rendered, and whatever a page writes to the console as an error. Links
that leave the site are not followed.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

SITE = Path(__file__).parents[1] / "site"
# The browser of the system; Playwright's own where there is none.
BROWSER = os.environ.get("BROWSER_PATH") or shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What a page refers to, as the browser resolved it.
LOOK = """async () => {
  const images = [...document.images];
  for (const image of images) image.loading = 'eager';
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  const prose = document.body.cloneNode(true);
  prose.querySelectorAll('code, script, style').forEach(e => e.remove());
  return {
    raw: prose.textContent.match(/```|``|\\]\\(|\\{ ?[.#]\\w/g) || [],
    ids: [...document.querySelectorAll('[id]')].map(e => e.id)
      .concat([...document.querySelectorAll('a[name]')].map(e => e.name)),
    links: [...document.querySelectorAll('a[href]')].map(e => e.href),
    missing: images.filter(image => !image.naturalWidth).map(image => image.src),
    unnamed: images.filter(image => !image.alt).map(image => image.src),
    wide: document.documentElement.scrollWidth - window.innerWidth,
  };
}"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which a folder is served meanwhile."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def look_at(site: Path, pictures: Path | None = None) -> list[str]:
    """What is wrong with the pages of a site, one line each.

    Args:
        site: its folder.
        pictures: where to put a screenshot of every page; None takes none.
    """
    from playwright.sync_api import sync_playwright

    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    wrong: list[str] = []
    seen: dict[str, Any] = {}
    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(120_000)  # ms; a busy machine is no page's fault
        for name in pages:
            tab = context.new_page()
            listen(tab, name, wrong)
            tab.goto(f"{address}/{name}", wait_until="load")
            found = seen[name] = tab.evaluate(LOOK)
            wrong += [f"{name}: picture does not show: {src}" for src in found["missing"]]
            wrong += [f"{name}: picture without a text: {src}" for src in found["unnamed"]]
            wrong += [f"{name}: Markdown that was not rendered: {raw}" for raw in found["raw"]]
            if found["wide"] > 0:
                wrong.append(f"{name}: {found['wide']} pixels wider than the window")
            if pictures is not None:
                path = pictures / f"{name.replace('/', '-').removesuffix('.html')}.png"
                tab.screenshot(path=path, full_page=True)
            tab.close()
        browser.close()
    return wrong + broken_links(site, address, seen)


def listen(tab: Any, name: str, wrong: list[str]) -> None:
    """Add to ``wrong`` what a tab complains of while it is open."""

    def complain(what: str) -> None:
        wrong.append(f"{name}: {what}")

    tab.on("console", lambda m: complain(f"console: {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda e: complain(f"error: {e}"))
    tab.on("requestfailed", lambda r: complain(f"request failed: {r.url}"))
    tab.on("response", lambda r: None if r.ok else complain(f"{r.status}: {r.url}"))


def broken_links(site: Path, address: str, seen: dict[str, Any]) -> list[str]:
    """Links within the site whose page, file or anchor is not there."""
    wrong = []
    for name, found in seen.items():
        for link in sorted(set(found["links"])):
            url, anchor = urldefrag(link)
            if not url.startswith(address):
                continue
            path = unquote(urlsplit(url).path).lstrip("/")
            path = path + "index.html" if path == "" or path.endswith("/") else path
            if not (site / path).is_file():
                wrong.append(f"{name}: link to nowhere: {link}")
            elif anchor and path in seen and unquote(anchor) not in seen[path]["ids"]:
                wrong.append(f"{name}: no such anchor: {link}")
    return wrong


def main() -> int:
    """Print what is wrong; the exit code says whether anything is."""
    if not (SITE / "index.html").is_file():
        print(f"{SITE} holds no site; run make docs first", file=sys.stderr)
        return 2
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    wrong = look_at(SITE, pictures)
    print("\n".join(wrong))
    print(f"{len(list(SITE.rglob('*.html')))} pages, {len(wrong)} faults")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
