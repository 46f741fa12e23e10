"""Pages in a real browser, and everything that they complain about."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

PATIENCE_MS = 45_000
# Before the page's own scripts: violations of the policy are events, and a dialog is an attack.
WATCHER = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
for (const name of ["alert", "confirm", "prompt"])
  window[name] = () => window.violations.push(name);
"""


class PageOpener:
    """Opens pages and collects their troubles.

    Attributes:
        troubles: errors on the console, exceptions, violations of the content policy, and requests
            to anybody but the page's own server.
    """

    def __init__(self, browser: "Browser") -> None:
        self.browser = browser
        self.troubles: list[str] = []
        self._pages: list[Page] = []
        self._expected: list[str] = []

    def __call__(self, url: str, width: int = 1280, height: int = 800, **options: Any) -> "Page":
        """Open a page in a fresh session of the browser."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(WATCHER)
        page = context.new_page()
        self._pages.append(page)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        origin = "/".join(url.split("/")[:3])
        page.on("request", lambda request: self._request(request.url, origin))
        page.goto(url)
        return page

    def expect(self, text: str) -> None:
        """Name part of a console message that a test causes on purpose."""
        self._expected.append(text)

    def _request(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin}/", "data:", "blob:")):
            self.troubles.append(f"foreign request: {url}")

    def _console(self, message: "ConsoleMessage") -> None:
        said = f"{message.text} {message.location.get('url', '')}"
        if message.type in ("error", "warning") and not any(one in said for one in self._expected):
            self.troubles.append(f"console: {said}")

    def close(self) -> None:
        """Close all pages, before their server goes; what went wrong in them stays noted."""
        while self._pages:
            page = self._pages.pop()
            self.troubles += [f"violation: {one}" for one in page.evaluate("window.violations")]
            page.context.close()
