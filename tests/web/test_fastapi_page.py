"""The example's page in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tensorpool_async.emulator import Emulator
from tests.web.serving import serve
from tests.web.test_fastapi_backend import backend, engine, living


__all__ = ["engine"]  # the fixture

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="there is no Chromium: apt-get install chromium, or set CHROMIUM"
    ),
    pytest.mark.timeout(120),
]


WAIT_FOR_THE_END = """async () => {
    while ((await (await fetch("/fleets/sweep")).json()).phase === "working") await new Promise((go) => setTimeout(go, 50));
    await new Promise((go) => setTimeout(go, 200));
}"""


@pytest.fixture
async def chromium() -> AsyncGenerator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@pytest.fixture
async def page(chromium: Browser) -> AsyncGenerator[Page]:
    """Open a page that fails the test for every error in its console."""
    page = await chromium.new_page(viewport={"width": 1280, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    yield page
    expected = re.compile(
        r"status of (409|422)|ERR_"
    )  # a refusal that a test asks for, and a server that it stops
    assert [problem for problem in problems if not expected.search(problem)] == []


async def ask_for(page: Page, name: str, *, count: int = 4, limit: str = "100") -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("At most").fill(limit)
    await page.get_by_label("Instance types").fill("1xB200, 1xH200")
    await page.get_by_label("Count").fill(str(count))
    await page.get_by_role("button", name="Bring up").click()


async def test_a_fleet_lives_on_the_page_from_its_first_cluster_to_its_last(
    engine: Emulator, tmp_path: Path, page: Page, chromium: Browser
) -> None:
    async with serve(backend(engine, tmp_path)) as url:
        other = await chromium.new_page()
        for one in (page, other):
            await one.goto(url)
            await expect(one.get_by_text("There are no fleets")).to_be_visible()
        await expect(page.locator("#connection")).to_have_text("live")
        await ask_for(page, "sweep")
        card = page.locator("#fleet-sweep")
        await expect(card.locator(".state")).to_contain_text("coming up:")
        for one in (page, other):
            await expect(one.locator("#fleet-sweep .state")).to_have_text("up: all 4 run")
        await expect(card.locator(".price")).to_have_text("$19.96 per hour")
        await expect(card.get_by_role("img", name="4 running")).to_be_visible()
        await card.get_by_text("one by one").click()
        await expect(card.locator("tbody tr")).to_have_count(4)
        await expect(card.locator("tbody tr").first).to_contain_text("sweep-trainer-0")

        await card.get_by_role("button", name="Destroy").click()
        await page.get_by_role("button", name="Keep it").click()
        assert len(living(engine)) == 4
        await card.get_by_role("button", name="Destroy").click()
        await page.get_by_role("dialog").get_by_role("button", name="Destroy").click()
        await expect(card).to_have_count(0)
    assert living(engine) == {}


async def test_a_click_is_not_lost_while_the_fleet_changes(
    engine: Emulator, tmp_path: Path, page: Page
) -> None:
    async with serve(backend(engine, tmp_path)) as url:
        await page.goto(url)
        await ask_for(page, "sweep")
        await expect(page.locator("#fleet-sweep .state")).to_contain_text("coming up")
        button = page.locator("#fleet-sweep").get_by_role("button", name="Destroy")
        await button.hover()
        await page.mouse.down()
        await page.evaluate(WAIT_FOR_THE_END)
        await page.mouse.up()
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.get_by_role("button", name="Keep it").click()
        await expect(page.locator("#fleet-sweep .state")).to_have_text("up: all 4 run")


async def test_a_refusal_is_shown_where_it_was_asked(engine: Emulator, tmp_path: Path, page: Page) -> None:
    async with serve(backend(engine, tmp_path)) as url:
        await page.goto(url)
        await ask_for(page, "sweep", limit="1")
        refusal = page.locator("#refusal")
        await expect(refusal).to_contain_text("more per hour than allowed")
        await expect(refusal).to_contain_text("$19.96 per hour, of at most $1.00")
        await ask_for(page, "sweep")
        await expect(refusal).to_be_hidden()


async def test_the_page_goes_on_by_itself_after_a_restart(
    engine: Emulator, tmp_path: Path, page: Page
) -> None:
    async with serve(backend(engine, tmp_path)) as url:
        await page.goto(url)
        await ask_for(page, "sweep", count=2)
        await expect(page.locator("#fleet-sweep .state")).to_contain_text("coming up")
    await expect(page.locator("#connection")).to_contain_text("connection lost")
    port = int(url.rpartition(":")[2])
    async with serve(backend(engine, tmp_path), port=port):
        await expect(page.locator("#connection")).to_have_text("live", timeout=20_000)
        await expect(page.locator("#fleet-sweep .state")).to_have_text("up: all 2 run")
    assert len(engine.clusters) == 2


async def test_nothing_is_wider_than_the_screen(engine: Emulator, tmp_path: Path, page: Page) -> None:
    async with serve(backend(engine, tmp_path)) as url:
        await page.goto(url)
        await ask_for(page, "a-fleet-with-quite-a-long-name-for-a-small-screen", count=2)
        await expect(page.locator("article .state")).to_have_text("up: all 2 run")
        await page.get_by_text("one by one").click()
        await page.get_by_text("New fleet").click()
        for width in (320, 390, 700, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
