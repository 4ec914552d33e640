"""What tests ask of a page that a browser has open."""

from __future__ import annotations

from typing import Any

PHONE, LAPTOP = {"width": 390, "height": 844}, {"width": 1366, "height": 900}


def axe_violations(page: Any) -> list[str]:
    """What the accessibility check finds, one line per rule and element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]


def focus_order(page: Any) -> list[str]:
    """Press Tab through a page: each element that gets the focus, with whether one can see that it has it."""
    page.evaluate(  # Tab goes on from where the focus was last, so that is the top
        """() => {
            document.body.tabIndex = -1;
            document.body.focus();
            document.body.removeAttribute("tabindex");
        }"""
    )
    order = []
    for _ in range(500):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const one = document.activeElement;
                if (!one || one === document.body) return null;
                const style = getComputedStyle(one), box = one.getBoundingClientRect();
                const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 && box.width > 0;
                one.dataset.reached = "yes";
                const name = one.id || one.textContent.trim().slice(0, 40);
                return `${one.tagName.toLowerCase()} ${name}${seen ? "" : " UNSEEN"}`;
            }"""
        )
        if found is None:
            break
        order.append(found)
    return order


def unreached(page: Any) -> list[str]:
    """Controls that `focus_order` did not come to, of those that are shown."""
    return page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
            .filter((one) => one.checkVisibility() && !one.disabled && !one.dataset.reached)
            .map((one) => one.outerHTML.slice(0, 100))"""
    )
