"""Long tables in parts."""

import httpx

from undersong.services.coordinator.dashboard.paging import part_of


def test_parts_hold_each_item_once() -> None:
    items = list(range(101))
    parts = [part_of(items, page, 50) for page in (1, 2, 3, 4)]
    assert [item for part, _ in parts for item in part] == items
    assert [more for _, more in parts] == [True, True, False, False]
    assert part_of(items[:100], 2, 50) == (items[50:100], False)


async def test_sites_behind_the_last_page_are_none(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/dashboard/sites?page=2")).text
    assert "Previous sites" in page
    assert "No site yet" not in page
    assert (await browser.get("/dashboard/sites?page=0")).status_code == 422
